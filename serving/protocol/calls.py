"""Function calls in the model's text, found while it streams.

Llama 3.2 calls functions in plain text, by its model card and chat template:

    {"name": "get_weather", "parameters": {"city": "Paris"}}

also several in a row (`;`, `,` or white space between), in a list, behind `<|python_tag|>`, with
`arguments` for `parameters`, with `"type": "function"` beside; and, as it calls the tools it was
trained with, `brave_search.call(query="...")`. `Calls` passes each one on as soon as it is
complete and holds back only text that may still turn out to be one: until its last bracket, what
looks like a call may still be text. Where a call is forced it cannot, and `Growing` passes it on
as it is written.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from serving.core import CallPart, Delta, Finish, Generation, Tool, ToolCall
from serving.protocol import sse

_PYTHON_TAG = "<|python_tag|>"
_OPENINGS = ('{"name', '{"type', '{"function', '{"parameters', '{"arguments')
_BETWEEN = " \t\r\n;,"
# As far as the arguments of a call that is written as it was asked for.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"parameters"\s*:\s*(?=\{)')
_decoder = json.JSONDecoder(strict=False)  # models write raw line breaks into strings

_Found = tuple[tuple[ToolCall, ...], str]
Sift = Callable[[Delta], Delta]


def sift(generation: Generation, *, only_one: bool = False, in_parts: bool = False) -> Sift | None:
    """What to do with each delta of an answer, in order; `None` where there are no tools.

    With `only_one`, calls after the first are dropped; with `in_parts`, a forced call of a stream
    is passed on in parts.
    """
    if not generation.tools:
        return None
    if in_parts and generation.stream and generation.must_call:
        return Growing(generation.tools).feed
    return Calls(generation.tools, only_one).feed


def parts(delta: Delta) -> tuple[CallPart, ...]:
    """The parts of calls in a delta; a whole call is one."""
    return delta.call_parts + tuple(
        CallPart(call.name, arguments(call), ends=True) for call in delta.tool_calls
    )


def arguments(call: ToolCall) -> str:
    """The arguments of a call as JSON text."""
    return sse.encode(call.arguments).decode()


class Calls:
    """Turns the deltas of one answer into deltas with calls. Feed it every delta, in order."""

    def __init__(self, tools: tuple[Tool, ...], only_one: bool = False) -> None:
        self._names = frozenset(tool.name for tool in tools)
        self._only_one = only_one
        self._openings = (*_OPENINGS, *(f"{name}.call(" for name in self._names))
        self._held = ""
        self._released = not tools
        self._found = False

    def feed(self, delta: Delta) -> Delta:
        """`delta` with the calls it completes and the text that is certain to be text.

        From the first words that are no call on, everything is text. An answer with calls
        finishes with `TOOL_CALLS`, unless it was cut.
        """
        if not self._released:
            delta = self._sifted(delta)
        if self._found and delta.finish is Finish.STOP:
            return replace(delta, finish=Finish.TOOL_CALLS)
        return delta

    def _sifted(self, delta: Delta) -> Delta:
        self._held += delta.text
        calls: tuple[ToolCall, ...] = ()
        whole = delta.finish is not None
        # Only these characters end a call: the text is not read again for every token.
        closing = whole or not {"}", "]"}.isdisjoint(delta.text)
        if closing:
            calls, self._held = _read(self._held, self._names, whole)
            if self._only_one:
                calls = calls[: 0 if self._found else 1]
            self._found = self._found or bool(calls)
        if self._found:
            self._held = self._held.lstrip(_BETWEEN)
        if not whole and self._may_be_call() and not (closing and _complete(self._held)):
            return replace(delta, text="", tool_calls=calls)
        text, self._held, self._released = self._held, "", True
        return replace(delta, text=text, tool_calls=delta.tool_calls + calls)

    def _may_be_call(self) -> bool:
        """Whether more text could make a call of what is held."""
        start = self._held.lstrip()
        if _PYTHON_TAG.startswith(start):
            return True
        # White space between the tokens of a call is the model's to choose.
        start = "".join(start[:200].removeprefix(_PYTHON_TAG).split()).removeprefix("[")
        return not start or any(start.startswith(o) or o.startswith(start) for o in self._openings)


class Growing:
    """Passes a call on while it is written, by an engine that may write nothing but a call.

    Something else all the same is left to `Calls`. Of an answer that is cut, the parts that have
    been passed on are all there is.
    """

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self._tools = tools
        self._held = ""  # not passed on
        self._begun = self._ended = False
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, delta: Delta) -> Delta:
        """`delta` with what it adds to the call; finishes with `TOOL_CALLS`, unless it was cut."""
        self._held += delta.text
        name = "" if self._begun else self._name()
        if not self._begun:
            if delta.finish is None:
                return replace(delta, text="")
            return Calls(self._tools).feed(replace(delta, text=self._held))
        grown = "" if self._ended else self._arguments()
        part = CallPart(name, grown, self._ended)
        finish = Finish.TOOL_CALLS if delta.finish is Finish.STOP else delta.finish
        return replace(delta, text="", call_parts=(part,) if grown else (), finish=finish)

    def _name(self) -> str:
        """The name of the call, once its arguments begin."""
        if head := _HEAD.match(self._held):
            name: str = json.loads(head[1])
            self._begun = any(tool.name == name for tool in self._tools)
            if self._begun:
                self._held = self._held[head.end() :]
                return name
        return ""

    def _arguments(self) -> str:
        """What there is of the arguments, up to their last bracket."""
        text, end = self._held, len(self._held)
        for index, char in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "]}":
                self._depth -= 1
                if not self._depth:
                    self._ended, end = True, index + 1
                    break
        self._held = text[end:]
        return text[:end]


def _read(text: str, names: frozenset[str], whole: bool) -> _Found:
    """The calls that `text` begins with, and the rest."""
    calls: tuple[ToolCall, ...] = ()
    while True:
        found, rest = _first(text, names, whole)
        if not found:
            return calls, text
        calls, text = calls + found, rest.lstrip(_BETWEEN)


def _first(text: str, names: frozenset[str], whole: bool) -> _Found:
    """The call, or list of calls, at the beginning; and what follows it."""
    start = text.lstrip().removeprefix(_PYTHON_TAG).lstrip()
    if not start.startswith(("{", "[")):
        # Only its end tells that a call in Python is one.
        return _python(start, names) if whole else ((), text)
    try:
        value, end = _decoder.raw_decode(start)
    except (ValueError, RecursionError):
        return (), text
    found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    calls = tuple(call for call in found if call)
    return (calls, start[end:]) if len(calls) == len(found) else ((), text)


def _complete(text: str) -> bool:
    """Whether the value at the beginning has ended (and so, since it is still here, is no call)."""
    try:
        _decoder.raw_decode(text.lstrip().removeprefix(_PYTHON_TAG).lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def _python(text: str, names: frozenset[str]) -> _Found:
    """`name.call(key="value", ...)`, which ends its text."""
    if text.partition(".call(")[0] not in names:
        return (), text
    try:
        match ast.parse(text.strip(), mode="eval").body:
            case ast.Call(ast.Attribute(ast.Name(name), "call"), [], words) if (
                name in names and all(word.arg for word in words)
            ):
                arguments = {word.arg: ast.literal_eval(word.value) for word in words}
                json.dumps(arguments, allow_nan=False)
                return (ToolCall(name, arguments),), ""  # type: ignore[arg-type]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return (), text


def _call(value: Any, names: frozenset[str]) -> ToolCall | None:
    match value:
        case {"function": {"name": str()} as inner}:
            return _call(inner, names)
        case {"name": str(name)} | {"function": str(name)} if name in names:
            arguments = _object(value.get("parameters", value.get("arguments")))
            return None if arguments is None else ToolCall(name, arguments)
    return None


def _object(arguments: Any) -> Mapping[str, Any] | None:
    """Arguments as an object; models also write the text of one, or nothing."""
    if isinstance(arguments, str):
        try:
            arguments = _decoder.decode(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else None
