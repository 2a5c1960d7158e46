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


def read(path: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        UsageError: it cannot be read, or a line is not a record.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _decode(line)
                except msgspec.MsgspecError as error:
                    raise UsageError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
