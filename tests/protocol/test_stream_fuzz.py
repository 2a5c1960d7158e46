"""Event streams of any answer, cut anywhere, in every dialect."""

from __future__ import annotations

import gc
import json
import random
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import Delta, Finish, Usage
from serving.protocol import (
    anthropic,
    native,
    openai_chat,
    openai_completions,
    openai_responses,
)
from serving.protocol.dialect import Ask, Dialect
from tests.protocol.models import MODEL, catalog

MEBIBYTE = 2**20
TURNS = [{"role": "user", "content": "hi"}]
NESTED = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
TOOLS: dict[str, Any] = {
    "native": {"tools": NESTED},
    "chat": {"tools": NESTED},
    "completions": {},
    "responses": {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
    "messages": {"tools": [{"name": "f", "input_schema": {}}]},
}
REQUESTS: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "native": (native.DIRECT, {"messages": TURNS}),
    "chat": (openai_chat.DIALECT, {"messages": TURNS}),
    "completions": (openai_completions.DIALECT, {"prompt": "hi"}),
    "responses": (openai_responses.DIALECT, {"input": "hi"}),
    "messages": (anthropic.DIALECT, {"messages": TURNS}),
}
USAGE = Usage(3, 4)
# The model's text is never half a character, and often near a call.
PIECES = [
    '{"name": "f", "parameters": {"a": 1}}',
    '{"name": "f',
    "}",
    "[",
    "<|python_tag|>",
    "; ",
    "f.call(",
    "a=1)",
    "\n\ndata: [DONE]\n\n",
    "\r",
    "\u2028",
    "data:",
    ":",
]
near_calls = st.sampled_from(PIECES)
texts = st.lists(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), near_calls),
    min_size=1,
    max_size=12,
)


def stream(name: str, pieces: list[str], with_tools: bool, **more: Any) -> bytes:
    """The bytes of a stream whose deltas are `pieces`."""
    dialect, fields = REQUESTS[name]
    body = {"model": MODEL, "stream": True, **fields, **more}
    if with_tools:
        body |= TOOLS[name]
    ask = Ask("r1", catalog(), MODEL if name == "native" else "", 1)
    _, writer = dialect.parse(json.dumps(body).encode(), ask)
    deltas = [Delta(piece, usage=USAGE) for piece in pieces[:-1]]
    deltas.append(Delta(pieces[-1], finish=Finish.STOP, usage=USAGE))
    return b"".join(writer.frames(delta) for delta in deltas)


def events(data: bytes) -> list[Any]:
    """The events as a reader of the format sees them, which knows three kinds of line end."""
    assert data.endswith(b"\n\n")
    assert b"\r" not in data
    found = []
    for event in data.decode().removesuffix("\n\n").split("\n\n"):
        *names, line = event.split("\n")
        assert line.startswith("data: ")
        value = line.removeprefix("data: ")
        found.append(value if value == "[DONE]" else json.loads(value))
        assert names in ([], [f"event: {found[-1]['type']}"] if names else [])
    return found


def text_of(name: str, found: list[Any]) -> str:
    """The text a client puts together."""
    match name:
        case "native":
            return "".join(event["response"] for event in found[:-1])
        case "chat":
            deltas = [choice["delta"] for event in found[:-1] for choice in event["choices"]]
            return "".join(delta["content"] for delta in deltas)
        case "completions":
            return "".join(choice["text"] for event in found[:-1] for choice in event["choices"])
        case "responses":
            return "".join(e["delta"] for e in found if e["type"].endswith("text.delta"))
    return "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")


def check(name: str, pieces: list[str]) -> None:
    found = events(stream(name, pieces, with_tools=False))
    assert text_of(name, found) == "".join(pieces)
    last = {"responses": "response.completed", "messages": "message_stop"}.get(name)
    assert found[-1] == "[DONE]" if last is None else found[-1]["type"] == last
    assert found.count("[DONE]") == (last is None)


def check_calls(name: str, pieces: list[str]) -> None:
    """However it is cut, what is no call is text; calls and text are those of the whole."""
    cut, whole = (
        events(stream(name, parts, with_tools=True)) for parts in (pieces, ["".join(pieces)])
    )
    assert calls_of(name, cut) == calls_of(name, whole)
    assert text_of(name, cut) == text_of(name, whole)


def calls_of(name: str, found: list[Any]) -> list[Any]:
    if name == "native":
        assert not any("tool_calls" in event and event["response"] for event in found[:-1])
        return [call for event in found[:-1] for call in event.get("tool_calls", ())]
    parts = [
        part
        for event in found[:-1]
        for choice in event["choices"]
        for part in choice["delta"].get("tool_calls", ())
    ]
    return [(part["index"], part["function"]) for part in parts]


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def forced(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """Arguments, and the call with them as the engine streams it."""
    given_ = draw(st.dictionaries(st.text(max_size=4), values, max_size=3))
    spaced = draw(st.sampled_from([(", ", ": "), (",", ":")]))
    text = json.dumps({"name": "f", "parameters": given_}, separators=spaced)
    cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=8)))
    return given_, [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def check_forced(call: tuple[Any, list[str]]) -> None:
    """The parts of a forced call are one call, however it is cut."""
    arguments, pieces = call
    found = events(stream("chat", pieces, with_tools=True, tool_choice="required"))
    (first, *rest) = [function for _, function in calls_of("chat", found)]
    assert first == {"name": "f", "arguments": ""}
    assert json.loads("".join(function["arguments"] for function in rest)) == arguments
    assert text_of("chat", found) == ""


@given(forced())
@settings(max_examples=200, deadline=None)
def test_where_a_forced_call_is_cut_changes_nothing(call: tuple[Any, list[str]]) -> None:
    check_forced(call)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_what_should_be_a_call_and_is_anything_is_still_a_stream(pieces: list[str]) -> None:
    found = events(stream("chat", pieces, with_tools=True, tool_choice="required"))
    assert found[-1] == "[DONE]"


def test_ten_thousand_streams_leave_no_memory_behind() -> None:
    """Of every dialect, with and without calls."""
    chance = random.Random(1)
    process = psutil.Process()

    def some(count: int) -> None:
        for _ in range(count):
            pieces = ["".join(chance.choices(PIECES, k=3)) for _ in range(chance.randint(1, 12))]
            for name in REQUESTS:
                events(stream(name, pieces, with_tools=bool(chance.getrandbits(1))))

    some(200)
    gc.collect()
    before = process.memory_info().rss
    some(2000)
    gc.collect()
    assert process.memory_info().rss - before < 8 * MEBIBYTE


@pytest.mark.parametrize("name", REQUESTS)
@given(texts)
@settings(max_examples=100, deadline=None)
def test_any_text_survives_its_stream(name: str, pieces: list[str]) -> None:
    check(name, pieces)


@pytest.mark.parametrize("name", ["native", "chat"])
@given(texts)
@settings(max_examples=200, deadline=None)
def test_where_an_answer_is_cut_changes_no_call(name: str, pieces: list[str]) -> None:
    check_calls(name, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
@given(texts)
@settings(max_examples=10_000, deadline=None)
def test_any_text_survives_its_stream_at_length(name: str, pieces: list[str]) -> None:
    check(name, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "chat"])
@given(texts)
@settings(max_examples=10_000, deadline=None)
def test_where_an_answer_is_cut_changes_no_call_at_length(name: str, pieces: list[str]) -> None:
    check_calls(name, pieces)


def test_a_call_that_is_cut_is_found() -> None:
    """So that the checks above are about calls at all."""
    found = events(stream("native", ['{"name": "f", ', '"parameters": {"a": 1}}'], True))
    assert calls_of("native", found) == [{"name": "f", "arguments": {"a": 1}}]
