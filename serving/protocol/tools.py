"""The functions a request declares, and whether the model may, must or must not call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serving.core import Tool
from serving.errors import InvalidChoice, InvalidInput
from serving.protocol import payload
from serving.protocol.response_format import MAX_DEPTH

Choice = tuple[tuple[Tool, ...], bool]


def parse(tools: Any, functions: Any = None) -> tuple[Tool, ...]:
    """Declarations: `tools` bare or as `{type, function: {...}}`, and the older `functions`.

    Raises:
        InvalidInput: they are no list; or one has no name, or parameters that are no object.
    """
    return (*_listed(tools, "/tools"), *_listed(functions, "/functions"))


def choose(tools: tuple[Tool, ...], choice: Any) -> Choice:
    """The tools that are on offer, and whether one of them must be called.

    `choice` is OpenAI's: auto, none, required, or `{"type": "function", "function": {"name"}}`.

    Raises:
        InvalidChoice: it is none of them.
        InvalidInput: it asks for a call and no such tool is declared.
    """
    match choice:
        case None | "auto":
            return tools, False
        case "none":
            return (), False
        case "required":
            return _required(tools, "'/tool_choice' requires a call and there are no tools")
        case {"function": {"name": str(name)}}:
            named = tuple(tool for tool in tools if tool.name == name)
            return _required(named, "'/tool_choice' names a function that is not declared")
    raise InvalidChoice


def _required(tools: tuple[Tool, ...], complaint: str) -> Choice:
    if not tools:
        raise InvalidInput(complaint)
    return tools, True


def _listed(items: Any, path: str) -> Iterator[Tool]:
    if not isinstance(items, list | None):
        raise InvalidInput(f"'{path}' must be an array")
    for index, item in enumerate(items or ()):
        yield _declared(item, f"{path}/{index}")


def _declared(item: Any, path: str) -> Tool:
    inner: Any = item.get("function", item) if isinstance(item, dict) else None
    match inner:
        case {"name": str(name)} if name:
            parameters = inner.get("parameters") or {}
            if isinstance(parameters, dict):
                if payload.deeper(parameters, MAX_DEPTH):
                    raise InvalidInput(f"'{path}' must not be nested more than {MAX_DEPTH} deep")
                return Tool(name, str(inner.get("description") or ""), parameters)
            raise InvalidInput(f"'{path}' must have an object as its parameters")
    raise InvalidInput(f"'{path}' must have a name")
