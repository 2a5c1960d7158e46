"""Chat turns as clients write them -> `core.Message`s.

Contents come as a text, a list of parts, one bare part, or null beside tool calls; calls come
nested as OpenAI writes them (`{"id", "function": {"name", "arguments": "<json>"}}`) or flat as
Workers AI answers them (`{"name", "arguments": {...}}`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from serving.core import Image, Message, ToolCall
from serving.errors import InvalidInput
from serving.protocol import images, payload, response_format

# The published schema takes any text as a role. Whoever is not listed speaks as the user.
_ROLES = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
}


def parse(items: Any) -> tuple[Message, ...]:
    """The turns in order.

    Raises:
        InvalidInput: an item is not an object, or its content or tool calls cannot be read.
        InvalidImage: a part's picture cannot be unpacked.
    """
    if not isinstance(items, list):
        raise InvalidInput("'/messages' must be an array")
    return tuple(_message(item, f"/messages/{index}") for index, item in enumerate(items))


def role(name: str) -> str:
    """The role of `core.Message` that a client's word means."""
    return _ROLES.get(name.lower(), "user")


def with_image(messages: tuple[Message, ...], image: Image) -> tuple[Message, ...]:
    """The turns with `image` in front of the last user's words, or in a turn of its own."""
    for index in reversed(range(len(messages))):
        turn = messages[index]
        if turn.role == "user":
            seen = replace(turn, content=(image, *turn.content))
            return (*messages[:index], seen, *messages[index + 1 :])
    return (*messages, Message("user", (image,)))


def arguments(value: Any, path: str) -> Mapping[str, Any]:
    """The arguments of a call.

    Raises:
        InvalidInput: they are no object, or one that is nested deeper than anybody means.
    """
    if not isinstance(value, dict) or payload.deeper(value, response_format.MAX_DEPTH):
        raise InvalidInput(f"'{path}' must have a JSON object as its arguments")
    return value


def count_images(messages: tuple[Message, ...]) -> int:
    """How many pictures the turns hold."""
    return sum(isinstance(piece, Image) for turn in messages for piece in turn.content)


def _message(item: Any, path: str) -> Message:
    if not isinstance(item, dict):
        raise InvalidInput(f"'{path}' must be an object")
    calls = item.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InvalidInput(f"'{path}/tool_calls' must be an array")
    return Message(
        role=role(str(item.get("role"))),
        content=tuple(_content(item.get("content"), f"{path}/content")),
        tool_calls=tuple(_call(c, f"{path}/tool_calls/{i}") for i, c in enumerate(calls)),
        tool_call_id=_tool_call_id(item.get("tool_call_id"), path),
    )


def _tool_call_id(value: Any, path: str) -> str | None:
    if not isinstance(value, str | None):
        raise InvalidInput(f"'{path}/tool_call_id' must be a string")
    return value


def _content(content: Any, path: str) -> Iterator[str | Image]:
    match content:
        case None:
            return
        case str():
            yield content
        case dict():
            yield _part(content, path)
        case list():
            for index, part in enumerate(content):
                yield _part(part, f"{path}/{index}")
        case _:
            raise InvalidInput(f"'{path}' must be a string, a part or an array of parts")


def _part(part: Any, path: str) -> str | Image:
    match part:
        case str():
            return part
        case {"image_url": {"url": str(url)}} | {"image_url": str(url)}:
            return images.parse_text(url)
        case {"text": str(text)} | {"refusal": str(text)}:
            return text
    raise InvalidInput(f"'{path}' must be a text or image_url part")


def _call(call: Any, path: str) -> ToolCall:
    inner: Any = call.get("function", call) if isinstance(call, dict) else None
    match inner:
        case {"name": str(name)}:
            return ToolCall(name, _arguments(inner, path), id=str(call.get("id") or ""))
    raise InvalidInput(f"'{path}' must name a function")


def _arguments(call: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """An object, or the text of one; nothing at all is the empty object."""
    value = call.get("arguments", call.get("parameters")) or {}
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            value = None
    return arguments(value, path)
