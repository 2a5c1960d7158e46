"""Function calling, both directions: declarations in, calls out of the model's text.

Llama 3.2 calls functions in plain text, by its model card and chat template:

    {"name": "get_weather", "parameters": {"city": "Paris"}}

also several in a row (`;`, `,` or white space between), in a list, behind `<|python_tag|>`, with
`arguments` for `parameters`, or with `"type": "function"` beside. `Calls` finds them while the
answer streams and holds back only text that may still turn out to be one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serving.core import Delta, Finish, Tool, ToolCall
from serving.errors import InvalidInput

_PYTHON_TAG = "<|python_tag|>"
_OPENINGS = ('{"name', '{"type', '{"function', '{"parameters', '{"arguments')
_decoder = json.JSONDecoder(strict=False)  # models write raw line breaks into strings


def parse(tools: Any, functions: Any = None) -> tuple[Tool, ...]:
    """Declarations: `tools` bare or as `{type, function: {...}}`, and the older `functions`.

    Raises:
        InvalidInput: one has no name, or parameters that are no object.
    """
    return tuple(
        _declared(item, f"/{field}/{index}")
        for field, items in (("tools", tools), ("functions", functions))
        for index, item in enumerate(items or ())
    )


class Calls:
    """Turns the deltas of one answer into deltas with calls. Feed it every delta, in order."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self._names = frozenset(tool.name for tool in tools)
        self._held = ""
        self._released = False

    def feed(self, delta: Delta) -> Delta:
        """`delta` with the text that is certain to be text, and on the last one the calls.

        If the whole answer reads as calls of declared functions they come with the finish
        `TOOL_CALLS`; otherwise whatever was held comes as text.
        """
        if self._released:
            return delta
        self._held += delta.text
        if delta.finish is not None:
            return self._end(delta)
        if _may_be_call(self._held):
            return replace(delta, text="")
        return replace(delta, text=self._release())

    def _release(self) -> str:
        held, self._held, self._released = self._held, "", True
        return held

    def _end(self, delta: Delta) -> Delta:
        calls = read_calls(self._held, self._names)
        text = self._release()
        if not calls:
            return replace(delta, text=text)
        return replace(delta, text="", tool_calls=calls, finish=Finish.TOOL_CALLS)


def read_calls(text: str, names: frozenset[str]) -> tuple[ToolCall, ...]:
    """The calls that `text` consists of; none if any of it is something else."""
    rest = text.strip().removeprefix(_PYTHON_TAG).strip()
    calls: list[ToolCall] = []
    while rest:
        try:
            value, end = _decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return ()
        found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
        calls += (call for call in found if call)
        if None in found:
            return ()
        rest = rest[end:].lstrip(" \t\r\n;,")
    return tuple(calls)


def _may_be_call(text: str) -> bool:
    """Whether more text could make a call of this beginning."""
    start = text.lstrip()
    if _PYTHON_TAG.startswith(start):
        return True
    # White space between the tokens of a call is the model's to choose.
    start = "".join(start[:200].removeprefix(_PYTHON_TAG).split()).removeprefix("[")
    return not start or any(start.startswith(o) or o.startswith(start) for o in _OPENINGS)


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


def _declared(item: Any, path: str) -> Tool:
    inner: Any = item.get("function", item) if isinstance(item, dict) else None
    match inner:
        case {"name": str(name)} if name:
            parameters = inner.get("parameters") or {}
            if isinstance(parameters, dict):
                return Tool(name, str(inner.get("description") or ""), parameters)
            raise InvalidInput(f"'{path}' must have an object as its parameters")
    raise InvalidInput(f"'{path}' must have a name")
