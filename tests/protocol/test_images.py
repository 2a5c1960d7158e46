"""How pictures are unpacked, and refused."""

import base64
from typing import Any

import pytest

from serving.errors import InvalidImage, NotAnImage
from serving.protocol import images

DATA = bytes(range(256)) + b"\x00"
B64 = base64.b64encode(DATA).decode()
URL_ENCODED = B64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")


@pytest.mark.parametrize(
    "value",
    [
        list(DATA),
        [float(byte) for byte in DATA],
        B64,
        B64.rstrip("="),
        f"{B64[:76]}\r\n{B64[76:]}\n",
        f"data:image/png;base64,{B64}",
        f"data:image/svg+xml;charset=utf-8;base64,{B64}",
        f"DATA:;base64,{B64}",
        f"data:image/png;base64,{URL_ENCODED}",
    ],
    ids=lambda value: str(value)[:30],
)
def test_unpacks_every_form(value: Any) -> None:
    assert images.parse(value).data == DATA


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("###", "invalid base64 encoding"),
        ("abcde", "invalid base64 encoding"),
        ("data:image/png;base64,a*b", "invalid base64 encoding"),
        ("data:image/png,abcd", "expected `;base64,` separator in data URI"),
        ("data:", "expected `;base64,` separator in data URI"),
        ("https://example.com/cat.png", "HTTP URLs are not accepted"),
        ("HTTP://example.com/cat.png", "HTTP URLs are not accepted"),
        ([256], "expected an array of integers between 0 and 255"),
        ([-1], "expected an array of integers between 0 and 255"),
        ([1.5], "expected an array of integers between 0 and 255"),
        ([1e400], "expected an array of integers between 0 and 255"),
        (["1"], "expected an array of integers between 0 and 255"),
        ([None], "expected an array of integers between 0 and 255"),
        ([], "the image is empty"),
        ("", "the image is empty"),
        ("data:image/png;base64,", "the image is empty"),
    ],
)
def test_says_what_is_wrong_with_a_picture(value: Any, reason: str) -> None:
    with pytest.raises(InvalidImage, match=f"reason {reason}"):
        images.parse(value)


@pytest.mark.parametrize(
    ("value", "found"), [({"a": 1}, "object"), (3, "number"), (True, "boolean")]
)
def test_names_the_type_of_what_is_no_picture_at_all(value: Any, found: str) -> None:
    with pytest.raises(NotAnImage, match=f"Invalid data type for base64 input: {found}"):
        images.parse(value)


def test_more_pictures_than_the_model_takes_are_refused() -> None:
    images.check_count(2, 2)
    with pytest.raises(InvalidImage, match="at most 2 images, got 3"):
        images.check_count(3, 2)
