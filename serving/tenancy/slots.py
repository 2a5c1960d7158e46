"""What the running requests have used, in memory that outlives the process.

A file of fixed slots, mapped into memory: writing the counters costs less than a microsecond, and
when the process is killed the kernel still has them. (A power cut loses them.) The counters are
written before the tokens are sent, so no client has received more than its slot says.

    slot:  length of the head (u32; 0: free) | tokens (4 x u32) | head
    tokens:  of the prompt, cached, of images, of the completion
    head:  a `Start` as JSON
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

from serving.core import Usage
from serving.tenancy.record import Record, Start

SIZE: Final = 512
COUNT: Final = 32768
"""More requests than a replica takes at a time."""

_LENGTH = Struct("<I")
_USED = Struct("<IIII")
_HEAD: Final = _LENGTH.size + _USED.size

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Start).decode


class Slot:
    """The place of one running request."""

    __slots__ = ("_map", "_offset")

    def __init__(self, map_: mmap.mmap, offset: int) -> None:
        self._map = map_
        self._offset = offset

    def __call__(self, usage: Usage) -> None:
        """The request has now used this much."""
        _USED.pack_into(
            self._map,
            self._offset + _LENGTH.size,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.image_tokens,
            usage.completion_tokens,
        )


class Slots:
    """The slots of this process, in a file of its own. For one thread."""

    def __init__(self, file: Path) -> None:
        with file.open("x+b") as made:
            # Room on disk for all of it: a page that finds none later kills the process.
            os.posix_fallocate(made.fileno(), 0, SIZE * COUNT)
            self._map = mmap.mmap(made.fileno(), SIZE * COUNT)
        self._free = list(range((COUNT - 1) * SIZE, -1, -SIZE))
        self._taken: dict[str, int] = {}

    def take(self, start: Start) -> Slot | None:
        """A slot for a request; `None` when all are taken or its head is too long for one."""
        head = _encode(start)
        if not self._free or len(head) > SIZE - _HEAD:
            return None
        offset = self._taken[start.receipt] = self._free.pop()
        slot = Slot(self._map, offset)
        slot(Usage())
        self._map[offset + _HEAD : offset + _HEAD + len(head)] = head
        _LENGTH.pack_into(self._map, offset, len(head))  # last: now the slot counts
        return slot

    def free(self, receipt: str) -> None:
        """The request's record is written: its slot is not needed."""
        offset = self._taken.pop(receipt, None)
        if offset is not None:
            _LENGTH.pack_into(self._map, offset, 0)
            self._free.append(offset)


def left_in(file: Path) -> Iterator[Record]:
    """The records of the requests that a dead process left running."""
    data = file.read_bytes()
    for offset in range(0, len(data), SIZE):
        (length,) = _LENGTH.unpack_from(data, offset)
        if length:
            prompt, cached, image, completion = _USED.unpack_from(data, offset + _LENGTH.size)
            head = data[offset + _HEAD : offset + _HEAD + length]
            yield _decode(head).crashed(Usage(prompt, completion, cached, image))
