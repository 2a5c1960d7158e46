"""Files of records as Parquet: a column for each field of a `Record`, `gaps` a list.

Only these files need pyarrow, which is in the extra `parquet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from loadtest.core import Record, UsageError

_ROWS = 10_000  # of a row group


def write(path: Path, blocks: Iterable[list[Record]]) -> None:
    """Write the records of all blocks, whatever their sizes.

    Raises:
        UsageError: pyarrow is missing, or the file cannot be written.
    """
    arrow, files = pyarrow()
    schema = _schema(arrow)
    try:
        with files.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows in _regrouped(blocks):
                columns = {name: [getattr(r, name) for r in rows] for name in schema.names}
                writer.write_table(arrow.table(columns, schema))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def blocks(path: Path, part: int = 0, parts: int = 1) -> Iterator[list[Record]]:
    """The records of a file, or of every `parts`th of its row groups from `part` on.

    Raises:
        UsageError: pyarrow is missing, or it is no such file.
    """
    arrow, files = pyarrow()
    try:
        with files.ParquetFile(path) as file:
            for group in range(part, file.num_row_groups, parts):
                rows = file.read_row_group(group).to_pylist()
                yield msgspec.convert(rows, list[Record])
    except (OSError, arrow.ArrowException, msgspec.ValidationError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _regrouped(blocks: Iterable[list[Record]]) -> Iterator[list[Record]]:
    rows: list[Record] = []
    for block in blocks:
        rows += block
        if len(rows) >= _ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _schema(arrow: Any) -> Any:
    """Of the fields of a `Record`, by their types."""
    types = {
        int: arrow.int64(),
        float: arrow.float64(),
        str: arrow.string(),
        bool: arrow.bool_(),
        float | None: arrow.float64(),
        int | None: arrow.int64(),
        list[int]: arrow.list_(arrow.int64()),
    }
    found = msgspec.structs.fields(Record)
    return arrow.schema([(field.name, types[field.type]) for field in found])


def pyarrow() -> tuple[Any, Any]:
    """The library and its module for files.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as files
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install '.[loadtest,parquet]'") from error
    return arrow, files
