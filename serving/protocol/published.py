"""The published schema of `ai/run` for the vision model: its input, its limits, its output.

As data, for `schema` to validate by, and as the JSON Schema that `ai/models/schema` shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scalar:
    """A JSON value of one type; limits are inclusive, lengths in UTF-16 code units."""

    type: str
    low: int | None = None
    high: int | None = None
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class List:
    items: Shape


@dataclass(frozen=True, slots=True)
class Record:
    """An object. `others` is the shape of the values whose keys are not in `fields`."""

    fields: Mapping[str, Shape] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: Shape | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Shape, ...]


Shape = Scalar | List | Record | Choice

_TEXT = Scalar("string")
_PENALTY = Scalar("number", 0, 2)
_SAMPLING: dict[str, Shape] = {
    "stream": Scalar("boolean"),
    "max_tokens": Scalar("integer"),
    "temperature": Scalar("number", 0, 5),
    "top_p": Scalar("number", 0, 2),
    "top_k": Scalar("integer", 1, 50),
    "seed": Scalar("integer", 1, 9_999_999_999),
    "repetition_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
}
_IMAGE = Choice((List(Scalar("number")), _TEXT))
_DATA_URL = Scalar("string", pattern=re.compile("^data:*"))
_PART = Record({"type": _TEXT, "text": _TEXT, "image_url": Record({"url": _DATA_URL})})
_MESSAGE = Record(
    {
        "role": _TEXT,
        "tool_call_id": Scalar("string", pattern=re.compile("[a-zA-Z0-9]{9}")),
        "content": Choice((_TEXT, List(_PART), _PART)),
    }
)
_PARAMETER = Record({"type": _TEXT, "description": _TEXT}, required=("type", "description"))
_PARAMETERS = Record(
    {"type": _TEXT, "required": List(_TEXT), "properties": Record(others=_PARAMETER)},
    required=("type", "properties"),
)
_FUNCTION = Record(
    {"name": _TEXT, "description": _TEXT, "parameters": _PARAMETERS},
    required=("name", "description", "parameters"),
)
_NESTED = Record({"type": _TEXT, "function": _FUNCTION}, required=("type", "function"))

# The order of the fields is the order of the complaints: each shape reports its first one.
PROMPT = Record(
    {
        "prompt": Scalar("string", 1, 131_072),
        "image": _IMAGE,
        "raw": Scalar("boolean"),
        **_SAMPLING,
        "lora": _TEXT,
    },
    required=("prompt",),
)
MESSAGES = Record(
    {
        "messages": List(_MESSAGE),
        "image": _IMAGE,
        "functions": List(Record({"name": _TEXT, "code": _TEXT}, required=("name", "code"))),
        "tools": List(Choice((_FUNCTION, _NESTED))),
        **_SAMPLING,
    },
    required=("messages",),
)


# What `ai/run` answers, as JSON Schema; the published one knows no `usage`.
OUTPUT: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "contentType": "application/json",
            "properties": {
                "response": {"type": "string"},
                "tool_calls": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "arguments": {"type": "object"},
                        },
                    },
                },
                "usage": {"type": "object"},
            },
        },
        {"type": "string", "contentType": "text/event-stream", "format": "binary"},
    ]
}
_DEFAULTS = {"raw": False, "stream": False, "max_tokens": 256, "temperature": 0.6}


def json_schema() -> dict[str, Any]:
    """The schema as JSON Schema, which `ai/models/schema` shows."""
    options = [_converted(PROMPT), _converted(MESSAGES)]
    for option, title in zip(options, ("Prompt", "Messages"), strict=True):
        option["title"] = title
        for name in _DEFAULTS.keys() & option["properties"].keys():
            option["properties"][name]["default"] = _DEFAULTS[name]
    return {"type": "object", "oneOf": options}


def _converted(shape: Shape) -> dict[str, Any]:
    match shape:
        case Scalar("string"):
            limits = {"minLength": shape.low, "maxLength": shape.high}
            pattern = shape.pattern.pattern if shape.pattern else None
            found: dict[str, Any] = {"type": "string", **limits, "pattern": pattern}
        case Scalar():
            found = {"type": shape.type, "minimum": shape.low, "maximum": shape.high}
        case List():
            found = {"type": "array", "items": _converted(shape.items)}
        case Choice():
            found = {"oneOf": [_converted(option) for option in shape.options]}
        case Record():
            found = {
                "type": "object",
                "properties": {name: _converted(of) for name, of in shape.fields.items()},
                "required": list(shape.required) or None,
                "additionalProperties": _converted(shape.others) if shape.others else None,
            }
    return {name: value for name, value in found.items() if value is not None}
