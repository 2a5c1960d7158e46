"""The field `response_format` -> `core.JsonFormat`."""

from __future__ import annotations

from typing import Any

from serving.core import JsonFormat
from serving.errors import InvalidInput


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
            return JsonFormat(inner)
        case {"type": "json_schema", "json_schema": dict(bare)}:
            return JsonFormat(bare)
    raise InvalidInput("'/response_format' must be json_object, or json_schema with a schema")


def parse_flat(wanted: Any) -> JsonFormat | None:
    """Where the schema is beside the type, as OpenAI's responses and Anthropic's messages have it.

    Raises what `parse` does.
    """
    match wanted:
        case {"type": "json_schema", "schema": dict(schema)}:
            return JsonFormat(schema)
    return parse(wanted)
