"""What requests have used, in memory that outlives the process.

A file of fixed slots, mapped into memory: writing the counters costs less than a microsecond, and
when the process is killed the kernel still has them. (A power cut loses them.) The counters are
written before the tokens are sent, so no client has received more than its slot says. Once a
request has ended, its slot holds what the journal will say of it, until the journal does.

    slot:    length of what it holds (u32; 0: free, with `_ENDED` a line) | tokens | head or line
    tokens:  of the prompt, cached, of images, of the completion (u32 each); none of a line
    head:    a `Start` as JSON
    line:    of the journal, see `record`
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

from serving.core import Usage
from serving.tenancy import record
from serving.tenancy.record import Record, Start

SIZE: Final = 1024
COUNT: Final = 32768
"""More requests than a replica takes at a time."""

_LENGTH = Struct("<I")
_USED = Struct("<IIII")
_HEAD: Final = _LENGTH.size + _USED.size
_ENDED: Final = 1 << 31

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
    """The slots of this process, in a file of its own. For one thread; `free` is for any."""

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
        self._fill(offset, head, len(head))
        return slot

    def end(self, receipt: str, line: bytes) -> bool:
        """The request has ended: keep this line instead of its counters. Whether there is room."""
        if not self._free or len(line) > SIZE - _HEAD:
            return False
        # Another slot: at no moment is there neither. Who finds both takes the line.
        offset, before = self._free.pop(), self._taken.get(receipt)
        self._fill(offset, line, len(line) | _ENDED)
        self._taken[receipt] = offset
        if before is not None:
            self._empty(before)
        return True

    def free(self, receipt: str) -> None:
        """The request's record is written: its slot is not needed."""
        offset = self._taken.pop(receipt, None)
        if offset is not None:
            self._empty(offset)

    def _fill(self, offset: int, data: bytes, length: int) -> None:
        self._map[offset + _HEAD : offset + _HEAD + len(data)] = data
        _LENGTH.pack_into(self._map, offset, length)  # last: now the slot counts

    def _empty(self, offset: int) -> None:
        _LENGTH.pack_into(self._map, offset, 0)
        self._free.append(offset)


def left_in(file: Path) -> list[Record]:
    """The records of a dead process's requests that its journal does not hold, each once."""
    data = file.read_bytes()
    size = len(data) // COUNT  # an earlier release had smaller ones
    running: list[Record] = []
    ended: list[Record] = []
    for offset in range(0, len(data), size):
        (length,) = _LENGTH.unpack_from(data, offset)
        begin = offset + _HEAD
        if length & _ENDED:
            ended += record.read(data[begin : begin + length - _ENDED])
        elif length:
            prompt, cached, image, completion = _USED.unpack_from(data, offset + _LENGTH.size)
            start = _decode(data[begin : begin + length])
            running.append(start.crashed(Usage(prompt, completion, cached, image)))
    return list({each.receipt: each for each in (*running, *ended)}.values())
