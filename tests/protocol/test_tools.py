"""Calls in the model's text, found while it streams."""

from typing import Any

import pytest

from serving.core import Delta, Finish, Tool, ToolCall, Usage
from serving.errors import InvalidInput
from serving.protocol import tools

WEATHER = Tool("get_weather", "Weather in a city", {"type": "object"})
TIME = Tool("get_time")
PARIS = ToolCall("get_weather", {"city": "Paris"})
CALL = '{"name": "get_weather", "parameters": {"city": "Paris"}}'


def run(*texts: str) -> list[Delta]:
    """What comes out for the answer that these texts make, streamed."""
    calls = tools.Calls((WEATHER, TIME))
    last = Delta(texts[-1], finish=Finish.STOP, usage=Usage(1, 2))
    return [calls.feed(delta) for delta in [*map(Delta, texts[:-1]), last]]


def run_whole(text: str) -> Delta:
    return run(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"  \n{CALL}\n",
        f"<|python_tag|>{CALL}",
        f"[{CALL}]",
        '{"name": "get_weather", "arguments": {"city": "Paris"}}',
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        '{"type": "function", "function": {"name": "get_weather", '
        '"parameters": {"city": "Paris"}}}',
        '{"type": "function", "function": "get_weather", "parameters": {"city": "Paris"}}',
        '{"name": "get_weather", "parameters": "{\\"city\\": \\"Paris\\"}"}',
        '{\n  "name": "get_weather",\n  "parameters": {"city": "Paris"}\n}',
    ],
)
def test_reads_the_ways_the_model_writes_a_call(text: str) -> None:
    delta = run_whole(text)
    assert delta.tool_calls == (PARIS,)
    assert (delta.text, delta.finish, delta.usage) == ("", Finish.TOOL_CALLS, Usage(1, 2))


@pytest.mark.parametrize("between", ["; ", "\n", ";\n", ", ", ""])
def test_reads_several_calls(between: str) -> None:
    delta = run_whole(f'{CALL}{between}{{"name": "get_time"}}')
    assert delta.tool_calls == (PARIS, ToolCall("get_time", {}))


@pytest.mark.parametrize(
    "text",
    [
        "Paris is sunny.",
        f"Here: {CALL}",
        f"{CALL} is what I would call.",
        '{"name": "Ada", "born": 1815}',
        '{"name": "drop_tables", "parameters": {}}',
        '{"name": "get_weather", "parameters": [1]}',
        '{"name": "get_weather", "parameters": {"ci',
        f'[{CALL}, "and so on"]',
        "<|python_tag|>print(1)",
        "[]",
        "{}",
        "",
        "[" * 5000,
    ],
)
def test_anything_else_is_text_untouched(text: str) -> None:
    delta = run_whole(text)
    assert (delta.text, delta.tool_calls, delta.finish) == (text, (), Finish.STOP)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_call_cut_anywhere_is_held_and_found(size: int) -> None:
    pieces = [CALL[i : i + size] for i in range(0, len(CALL), size)]
    *early, last = run(*pieces)
    assert all(delta == Delta() for delta in early)
    assert last.tool_calls == (PARIS,)


def test_plain_text_streams_without_delay() -> None:
    assert [d.text for d in run("The", " answer {", "}", ".")] == ["The", " answer {", "}", "."]


@pytest.mark.parametrize(
    ("texts", "released"),
    [
        (("[", "1", "] Smith", "."), ["", "[1", "] Smith", "."]),
        (("{", '"city"', ": 1", "}"), ["", '{"city"', ": 1", "}"]),
        (("<", "b>", "x"), ["", "<b>", "x"]),
        (("{", '"na', 'tion": "x"', "}"), ["", "", '{"nation": "x"', "}"]),
        ((" ", "Hi", "!"), ["", " Hi", "!"]),
    ],
)
def test_text_is_released_as_soon_as_it_cannot_be_a_call(
    texts: tuple[str, ...], released: list[str]
) -> None:
    assert [delta.text for delta in run(*texts)] == released


def test_a_call_cut_off_by_the_token_limit_is_released_as_text() -> None:
    deltas = run('{"name": "get_', 'weather", "para')
    assert [delta.text for delta in deltas] == ["", '{"name": "get_weather", "para']


def test_declarations_come_bare_nested_and_as_functions() -> None:
    bare = {"name": "a", "description": "d", "parameters": {"type": "object"}}
    nested = {"type": "function", "function": {"name": "b"}}
    declared = tools.parse([bare, nested], [{"name": "c", "code": "return 1"}])
    assert declared == (Tool("a", "d", {"type": "object"}), Tool("b"), Tool("c"))


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        ("x", "'/tools/0' must have a name"),
        ({"function": "x"}, "'/tools/0' must have a name"),
        ({"name": ""}, "'/tools/0' must have a name"),
        ({"name": "a", "parameters": [1]}, "'/tools/0' must have an object as its parameters"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(tool: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        tools.parse([tool])
