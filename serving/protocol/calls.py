"""Function calls in the model's text, found while it streams.

Llama 3.2 calls functions in plain text, by its model card and chat template:

    {"name": "get_weather", "parameters": {"city": "Paris"}}

also several in a row (`;`, `,` or white space between), in a list, behind `<|python_tag|>`, with
`arguments` for `parameters`, with `"type": "function"` beside; and, as it calls the tools it was
trained with, `brave_search.call(query="...")`. `Calls` passes each one on as soon as it is
complete and holds back only text that may still turn out to be one.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serving.core import Delta, Finish, Tool, ToolCall

_PYTHON_TAG = "<|python_tag|>"
_OPENINGS = ('{"name', '{"type', '{"function', '{"parameters', '{"arguments')
_BETWEEN = " \t\r\n;,"
_decoder = json.JSONDecoder(strict=False)  # models write raw line breaks into strings

_Found = tuple[tuple[ToolCall, ...], str]


class Calls:
    """Turns the deltas of one answer into deltas with calls. Feed it every delta, in order."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self._names = frozenset(tool.name for tool in tools)
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
