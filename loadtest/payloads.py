"""What is asked: text of a wanted token length and pictures of a wanted size, from a seed.

Words are common English ones that byte-pair vocabularies hold as one token with their leading
space, so that n words are close to n tokens; `usage` says what they really were.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass
from functools import cache

_ENGLISH = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night
point home water room mother area money story fact month lot right study book eye job word business
issue side kind head house service friend father power hour game line end member law car city name
community president team minute idea kid body information back parent face others level office door
health person art war history party result change morning reason research girl guy moment air force
teacher education
"""
_WORDS = _ENGLISH.split()
_NONCE = 6  # words enough to tell 10^11 prompts apart, so that no two share a cached block
_PHRASE = 16


@cache
def _phrases() -> list[str]:
    """Long prompts are put together from these: drawing word by word would hold up the loop."""
    rng = random.Random(0)
    return [" ".join(rng.choices(_WORDS, k=_PHRASE)) for _ in range(1024)]


def text(rng: random.Random, tokens: int) -> str:
    """About `tokens` tokens, beginning with words that no other prompt begins with."""
    head = rng.choices(_WORDS, k=min(tokens, _NONCE))
    phrases, words = divmod(tokens - len(head), _PHRASE)
    body = rng.choices(_phrases(), k=phrases)
    return " ".join([*head, *body, *rng.choices(_WORDS, k=words)])


@dataclass(frozen=True, slots=True)
class Size:
    """Of a picture, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Painter:
    """Makes PNGs of one size, each with pixels of its own, for little work.

    Only the first rows are new; the compressed rest is shared. A picture whose pixels a server
    has seen would come from its cache.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._rows = min(size.height, 4)
        body = _gradient(size, self._rows)
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._raw = body
        self._packed = packer.compress(body) + packer.flush()

    def paint(self, rng: random.Random) -> bytes:
        """One picture."""
        width = 3 * self._size.width
        top = b"".join(b"\0" + rng.randbytes(width) for _ in range(self._rows))
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = packer.compress(top) + packer.flush(zlib.Z_FULL_FLUSH)
        check = zlib.adler32(self._raw, zlib.adler32(top))
        data = b"\x78\x9c" + packed + self._packed + struct.pack(">I", check)
        head = struct.pack(">IIBBBBB", self._size.width, self._size.height, 8, 2, 0, 0, 0)
        chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg(png: bytes, quality: int = 85) -> bytes:
    """The picture as JPEG."""
    from PIL import Image  # only runs with JPEGs pay for it

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _gradient(size: Size, skip: int) -> bytes:
    """Rows of RGB pixels, each behind its filter byte, without the first `skip` rows."""
    ramp = [x * 255 // size.width for x in range(size.width)]
    lines = []
    for y in range(skip, size.height):
        shade = y * 255 // size.height
        lines.append(b"\0" + bytes(v for r in ramp for v in (r, shade, (r + shade) // 2)))
    return b"".join(lines)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
