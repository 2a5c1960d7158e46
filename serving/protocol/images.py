"""The ways a request carries a picture, and how bad ones are refused.

An array of byte values, base64 text, or a data URI `data:image/png;base64,...`. Whether the bytes
are a picture at all is for the engine to find out; here they are only unpacked.
"""

from __future__ import annotations

import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

import pybase64

from serving.core import Image
from serving.errors import InvalidImage, NotAnImage

_JSON_TYPES = {dict: "object", bool: "boolean", int: "number", float: "number", type(None): "null"}


def pack(value: Any) -> Any:
    """A list of byte values as bytes, anything else as it is.

    Before validation, which would otherwise look at each of perhaps a million numbers six times.
    """
    if not isinstance(value, list):
        return value
    try:
        return bytes(value)
    except (TypeError, ValueError):
        return value


def parse(value: Any) -> Image:
    """The picture in an `image` field: bytes, a list of byte values or a text.

    Raises:
        InvalidImage: it cannot be unpacked, or is a web address.
        NotAnImage: it is neither a list nor a text.
    """
    if isinstance(value, str):
        return parse_text(value)
    if isinstance(value, bytes):
        return _whole(value)
    if isinstance(value, list):
        return _whole(_from_values(value))
    raise NotAnImage(_JSON_TYPES.get(type(value), "unknown"))


def parse_text(text: str) -> Image:
    """The picture in a data URI or in bare base64.

    Raises:
        InvalidImage: see `parse`.
    """
    head = text[:8].lower()
    if head.startswith("data:"):
        return _whole(_from_data_uri(text))
    if head.startswith(("http://", "https://")):
        raise _invalid("HTTP URLs are not accepted, send the image as a data URI")
    return _whole(_from_base64(text))


def check_count(found: int, limit: int) -> None:
    """Raises `InvalidImage` when a request has more pictures than its model takes."""
    if found > limit:
        raise _invalid(f"the model takes at most {limit} images, got {found}")


def _from_values(values: list[Any]) -> bytes:
    """Whole numbers of 0 to 255; `255.0` is one, since JSON from JavaScript may say so."""
    try:
        numbers = [int(value) for value in values if value == int(value)]
        if len(numbers) == len(values):
            return bytes(numbers)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _invalid("expected an array of integers between 0 and 255")


def _from_data_uri(uri: str) -> bytes:
    _, separator, data = uri.partition(";base64,")
    if not separator:
        raise _invalid("expected `;base64,` separator in data URI")
    return _from_base64(data)


def _from_base64(text: str) -> bytes:
    """Standard base64; padding may be missing, and lines broken or percent-encoded."""
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return _from_loose_base64(text)


def _from_loose_base64(text: str) -> bytes:
    try:
        plain = b"".join(unquote_to_bytes(text).split()).rstrip(b"=")
        return pybase64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid("invalid base64 encoding") from error


def _whole(data: bytes) -> Image:
    if not data:
        raise _invalid("the image is empty")
    return Image(data)


def _invalid(reason: str) -> InvalidImage:
    return InvalidImage(f"reason {reason}")
