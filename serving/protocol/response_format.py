"""The field `response_format` -> `core.JsonFormat`."""

from __future__ import annotations

from typing import Any

from serving.core import JsonFormat
from serving.errors import InvalidInput
from serving.protocol import payload

MAX_DEPTH = 64
"""Levels of objects and arrays in a schema: a grammar takes minutes to make of 500."""


def parse(wanted: Any) -> JsonFormat | None:
    """`json_schema` holds the schema itself, or OpenAI's wrapping of it: `{name, schema}`.

    Raises:
        InvalidInput: it is none of the formats, or a schema without one.
    """
    match wanted:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return JsonFormat()
        case {"type": "json_schema", "json_schema": {"schema": dict(inner), **rest}} if not (
            rest.keys() & {"type", "properties"}
        ):
            return _guided(inner)
        case {"type": "json_schema", "json_schema": dict(bare)}:
            return _guided(bare)
    raise InvalidInput("'/response_format' must be json_object, or json_schema with a schema")


def parse_flat(wanted: Any) -> JsonFormat | None:
    """Where the schema is beside the type, as OpenAI's responses and Anthropic's messages have it.

    Raises what `parse` does.
    """
    match wanted:
        case {"type": "json_schema", "schema": dict(schema)}:
            return _guided(schema)
    return parse(wanted)


def _guided(schema: dict[str, Any]) -> JsonFormat:
    if payload.deeper(schema, MAX_DEPTH):
        raise InvalidInput(f"a schema must not be nested more than {MAX_DEPTH} deep")
    return JsonFormat(schema)
