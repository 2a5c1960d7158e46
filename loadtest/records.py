"""Files of records: one JSON object a line, as they ended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import msgspec

from loadtest.core import Record, UsageError

_encode = msgspec.json.Encoder().encode_into
_decoder = msgspec.json.Decoder(Record)
_BUFFER = 1 << 18
_BLOCK = 1 << 19  # bytes


class Writer:
    """An observer that writes. Lines are gathered, so that a token path seldom waits for a disk."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self._lines = bytearray()

    def __call__(self, record: Record) -> None:
        _encode(record, self._lines, len(self._lines))
        self._lines += b"\n"
        if len(self._lines) > _BUFFER:
            self._flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write(self._lines)
        self._lines.clear()


def read(path: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        UsageError: it cannot be read, or a line is not a record.
    """
    return chain.from_iterable(blocks(path))


def blocks(path: Path, part: int = 0, parts: int = 1) -> Iterator[list[Record]]:
    """The records of a file, or of one of so many parts of it of about the same size, in blocks.

    Raises:
        UsageError: it cannot be read, or a line is not a record.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            at, end = size * part // parts, size * (part + 1) // parts
            if part:  # whoever has a line's first byte has the line
                file.seek(at - 1)
                at += len(file.readline()) - 1
            while at < end and (lines := file.read(min(_BLOCK, end - at))):
                lines += b"" if lines.endswith(b"\n") else file.readline()
                yield _records(lines, path, at)
                at += len(lines)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _records(lines: bytes, path: Path, at: int) -> list[Record]:
    try:
        return _decoder.decode_lines(lines)
    except msgspec.MsgspecError:
        for line in lines.splitlines(keepends=True):
            try:
                _decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise UsageError(f"{path}, the line at byte {at}: {error}") from error
            at += len(line)
        raise
