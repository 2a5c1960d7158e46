"""The image intake on anything: pixels or a refusal, nothing else, and no memory kept."""

from __future__ import annotations

import gc
import random
from functools import cache
from io import BytesIO
from typing import Any

import psutil
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from serving.core import Image
from serving.engine import images as decoder
from serving.errors import InvalidImage
from serving.protocol import images

MEBIBYTE = 2**20


@cache
def samples() -> list[bytes]:
    """A small picture in every format and several kinds of pixel, still and moving."""
    found = []
    chance = random.Random(1)
    for format_, mode in (
        ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "1"), ("JPEG", "RGB"),
        ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"),
    ):  # fmt: skip
        noise = Pillow.frombytes("RGB", (19, 13), chance.randbytes(19 * 13 * 3)).convert(mode)
        more = {"save_all": True, "append_images": [noise]} if format_ in ("GIF", "WEBP") else {}
        out = BytesIO()
        noise.save(out, format_, **more)
        found.append(out.getvalue())
    return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with some bytes changed, cut, doubled or put in."""
    data = bytearray(draw(st.sampled_from(samples())))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(("set", "cut", "double", "insert"))):
            case "set" if data:
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place : place + draw(st.integers(1, 40))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 40))]
            case _:
                data[place:place] = draw(st.binary(max_size=8))
    return bytes(data)


fields: st.SearchStrategy[Any] = st.one_of(
    damaged().map(list),
    damaged().map(lambda data: pybase64.b64encode(data).decode()),
    damaged().map(lambda data: "data:image/png;base64," + pybase64.b64encode(data).decode()),
    st.binary(max_size=60).map(list),
    st.text(max_size=60),
    st.text(max_size=20).map(lambda text: f"data:{text}"),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
        max_leaves=8,
    ),
)


def check(field: Any) -> None:
    try:
        picture = decoder.decode(images.parse(images.pack(field)))
    except InvalidImage:
        return
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= decoder.MAX_PIXELS


@given(fields)
@settings(max_examples=400, deadline=None)
def test_any_image_field_is_a_picture_or_refused(field: Any) -> None:
    check(field)


@pytest.mark.slow
def test_any_image_field_at_length() -> None:
    """And what was taken for the many is given back."""

    @given(fields)
    @settings(max_examples=10_000, deadline=None, database=None)
    def many(field: Any) -> None:
        check(field)

    process = psutil.Process()
    for data in samples() * 50:
        decoder.decode(Image(data))
    gc.collect()
    before = process.memory_info().rss
    many()
    gc.collect()
    assert process.memory_info().rss - before < 96 * MEBIBYTE
