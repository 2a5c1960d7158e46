"""Calls in the model's text, found while it streams."""

import pytest

from serving.core import CallPart, Delta, Finish, Tool, ToolCall, Usage
from serving.protocol.calls import Calls, Growing, parts

WEATHER = Tool("get_weather", "Weather in a city", {"type": "object"})
TIME = Tool("get_time")
PARIS = ToolCall("get_weather", {"city": "Paris"})
CALL = '{"name": "get_weather", "parameters": {"city": "Paris"}}'


def run(*texts: str) -> list[Delta]:
    """What comes out for the answer that these texts make, streamed."""
    calls = Calls((WEATHER, TIME))
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


@pytest.mark.parametrize("tag", ["", "<|python_tag|>"])
def test_reads_a_call_written_as_python(tag: str) -> None:
    delta = run_whole(f'{tag}get_weather.call(city="Paris")')
    assert (delta.tool_calls, delta.finish) == ((PARIS,), Finish.TOOL_CALLS)


@pytest.mark.parametrize(
    "text",
    [
        'drop_tables.call(city="Paris")',
        "get_weather.call(city=now())",
        "get_weather.call('Paris')",
        'get_weather.call(city="Paris"',
        'get_weather.call(city="Paris").upper()',
        "get_weather.call(x=1e999)",
        "get_weather.call(x=b'a')",
    ],
)
def test_python_that_is_no_plain_call_is_text_untouched(text: str) -> None:
    delta = run_whole(text)
    assert (delta.text, delta.tool_calls) == (text, ())


def test_each_call_is_passed_on_as_soon_as_it_is_complete() -> None:
    deltas = run(CALL[:-1], CALL[-1], "; ", '{"name": "get_time"}', "")
    assert [len(delta.tool_calls) for delta in deltas] == [0, 1, 0, 1, 0]
    assert deltas[-1].finish is Finish.TOOL_CALLS
    assert "".join(delta.text for delta in deltas) == ""


def test_what_follows_the_calls_is_text() -> None:
    deltas = run(CALL, "; ", "and ", "that is all.")
    assert deltas[0].tool_calls == (PARIS,)
    assert "".join(delta.text for delta in deltas) == "and that is all."


def test_an_object_that_is_no_call_is_released_as_soon_as_it_ends() -> None:
    assert [d.text for d in run('{"name": ', '"Ada"}', " is")] == ["", '{"name": "Ada"}', " is"]


def test_an_answer_cut_after_its_calls_says_so() -> None:
    delta = Calls((WEATHER,)).feed(Delta(f"{CALL}; and", finish=Finish.LENGTH))
    assert (delta.tool_calls, delta.text, delta.finish) == ((PARIS,), "and", Finish.LENGTH)


def test_calls_after_the_first_are_dropped_where_one_is_wanted() -> None:
    calls = Calls((WEATHER, TIME), only_one=True)
    deltas = [Delta(CALL), Delta("; " + CALL), Delta("", finish=Finish.STOP)]
    found = [calls.feed(delta) for delta in deltas]
    assert [delta.tool_calls for delta in found] == [(PARIS,), (), ()]
    assert (found[-1].text, found[-1].finish) == ("", Finish.TOOL_CALLS)


def grow(*texts: str, finish: Finish = Finish.STOP) -> list[Delta]:
    """What comes out for the forced call that these texts make."""
    growing = Growing((WEATHER, TIME))
    deltas = [*map(Delta, texts[:-1]), Delta(texts[-1], finish=finish, usage=Usage(1, 2))]
    return [growing.feed(delta) for delta in deltas]


def test_a_forced_call_is_passed_on_as_it_is_written() -> None:
    pieces = ['{"name"', ': "get_weather", "param', 'eters": {"city', '": "Pa', 'ris"}', "}"]
    found = grow(*pieces)
    assert [delta.call_parts for delta in found] == [
        (),
        (),
        (CallPart("get_weather", '{"city'),),
        (CallPart("", '": "Pa'),),
        (CallPart("", 'ris"}', ends=True),),
        (),
    ]
    assert "".join(delta.text for delta in found) == ""
    assert (found[-1].finish, found[-1].usage) == (Finish.TOOL_CALLS, Usage(1, 2))


@pytest.mark.parametrize(
    "arguments",
    [
        "{}",
        '{"a": {"b": [1, {}]}, "c": []}',
        '{"a": "} \\" { \\\\", "b": "]"}',
        '{"caf\\u00e9": "🙂"}',
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_parts_of_a_forced_call_are_its_arguments(arguments: str, size: int) -> None:
    text = f' {{"name": "get_time", "parameters": {arguments}}}\n'
    found = grow(*(text[i : i + size] for i in range(0, len(text), size)))
    made = [part for delta in found for part in delta.call_parts]
    assert "".join(part.name for part in made) == "get_time"
    assert "".join(part.arguments for part in made) == arguments
    assert [part.ends for part in made] == [False] * (len(made) - 1) + [True]
    assert "".join(delta.text for delta in found) == ""


def test_a_forced_call_that_is_cut_ends_where_it_was_cut() -> None:
    *_, last = grow('{"name": "get_weather", "parameters": {"ci', 'ty": "P', finish=Finish.LENGTH)
    assert last.call_parts == (CallPart("", 'ty": "P'),)
    assert (last.text, last.finish) == ("", Finish.LENGTH)


@pytest.mark.parametrize(
    "text",
    ["The weather is", '{"name": "drop_tables", "parameters": {}}', '{"name": "get_weather", "pa'],
)
def test_what_should_have_been_a_call_and_is_none_is_text(text: str) -> None:
    found = grow(text[:5], text[5:])
    assert "".join(delta.text for delta in found) == text
    assert (found[-1].call_parts, found[-1].tool_calls) == ((), ())
    assert found[-1].finish is Finish.STOP


def test_a_forced_call_in_another_form_is_passed_on_whole() -> None:
    *_, last = grow("<|python_tag|>", f"[{CALL}]")
    assert parts(last) == (CallPart("get_weather", '{"city":"Paris"}', ends=True),)
    assert last.finish is Finish.TOOL_CALLS
