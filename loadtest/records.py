"""Files of records: one JSON object a line, as they ended; or Parquet, where the name says so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import msgspec

from loadtest import parquet
from loadtest.core import Record, UsageError

_encode = msgspec.json.Encoder().encode_into
_decoder = msgspec.json.Decoder(Record)
_BUFFER = 1 << 18
_BLOCK = 1 << 17  # bytes: columns of so many records fit where malloc need not ask the kernel


class Writer:
    """An observer that writes. Lines are gathered, so that a token path seldom waits for a disk.

    Parquet is made of the lines when the run is over: making it would hold up the run.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UsageError: it cannot be written.
        """
        self._path = path
        self._temporary = path.with_name(f"{path.name}.jsonl") if _is_parquet(path) else None
        if self._temporary:
            parquet.pyarrow()
        try:
            self._file = (self._temporary or path).open("wb")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self._lines = bytearray()

    def __call__(self, record: Record) -> None:
        encode(record, self._lines)
        if len(self._lines) > _BUFFER:
            self._flush()

    def add(self, lines: bytes) -> None:
        """Add lines that a worker has made."""
        self._flush()
        self._file.write(lines)

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
        if self._temporary:
            parquet.write(self._path, blocks(self._temporary))
            self._temporary.unlink()

    def _flush(self) -> None:
        self._file.write(self._lines)
        self._lines.clear()


def encode(record: Record, lines: bytearray) -> None:
    """Add a record's line."""
    _encode(record, lines, len(lines))
    lines += b"\n"


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
    if _is_parquet(path):
        yield from parquet.blocks(path, part, parts)
        return
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


def copy(path: Path, to: Path) -> None:
    """Write the records of one file to another, in the format that its name tells.

    Raises:
        UsageError: one cannot be read, or the other not be written.
    """
    if path.resolve() == to.resolve():
        raise UsageError(f"{path} cannot be copied to itself")
    with Writer(to) as writer:
        for record in read(path):
            writer(record)


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


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"
