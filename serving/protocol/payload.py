"""Bytes of a body -> a JSON value, as forgiving as the parsers that clients are used to."""

from __future__ import annotations

import codecs
import json
from typing import Any, TypeVar

import msgspec

from serving.errors import InvalidInput, MalformedBody, MissingBody

_decode = msgspec.json.Decoder().decode
_Shape = TypeVar("_Shape")


def decode(body: bytes) -> Any:
    """What JavaScript's parser reads: also behind a byte order mark, also halves of characters.

    Raises:
        MissingBody: there are no bytes.
        MalformedBody: they are not JSON.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise MissingBody
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _mended(body)
        if mended is None:
            raise MalformedBody(f"the body is not JSON: {error}") from error
        return mended
    except RecursionError as error:
        raise MalformedBody("the body is nested too deeply") from error


def shaped(body: bytes, shape: type[_Shape]) -> _Shape:
    """The body as a `msgspec.Struct`; fields that are null count as absent, unknown ones pass.

    Raises:
        MissingBody, MalformedBody: see `decode`.
        InvalidInput: a field is missing, of the wrong type or out of range.
    """
    value = decode(body)
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if field is not None}
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from error


def deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays lie within each other in more than so many levels."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(deeper(item, levels - 1) for item in value)


def _mended(body: bytes) -> Any:
    """`body` decoded with `?` for each lone surrogate, which texts cut within an emoji end in.

    `None` if something else is wrong with it.
    """
    try:
        plain = json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False)
        return _decode(plain.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
