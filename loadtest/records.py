"""Files of records: one JSON object a line, as they ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from loadtest.core import Record, UsageError

_encode = msgspec.json.Encoder().encode_into
_decode = msgspec.json.Decoder(Record).decode
_BUFFER = 1 << 18


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


def read(path: Path, part: int = 0, parts: int = 1) -> Iterator[Record]:
    """The records of a file, or of one of so many parts of it of about the same size.

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
            for line in file:
                if at >= end:
                    return
                yield _record(line, path, at)
                at += len(line)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _record(line: bytes, path: Path, at: int) -> Record:
    try:
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}, the line at byte {at}: {error}") from error
