"""Sums of usage by the hour, kept in the transactions that keep the rows.

Reports and quotas read these: a month has some thousand rows an account, however many requests it
had. A row that is in the table already is neither kept nor counted again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from serving.tenancy import tables
from serving.tenancy.database import dialect_of
from serving.tenancy.record import Record

HOUR = 3_600_000
"""Milliseconds."""
KEYS = ("hour", "account", "token", "model", "route", "outcome")
SUMS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "image_tokens",
    "completion_tokens",
    "images",
    "picodollars",
    "microneurons",
)
"""Columns of `tables.hours`, after its keys."""

_key, _parts = attrgetter(*KEYS[1:]), attrgetter(*SUMS[1:])


def add(connection: Connection, records: Sequence[Record]) -> None:
    """Keep the records that are not there yet, and count them in their hours."""
    records = list({record.receipt: record for record in records}.values())
    values = tuple(chain.from_iterable(map(astuple, records)))
    keep = _keep(len(records), "%s" if dialect_of(connection) is postgresql else "?")
    new = set(connection.exec_driver_sql(keep, values).scalars())
    if new:
        _count(connection, (record for record in records if record.receipt in new))


def _keep(rows: int, mark: str) -> str:
    """Keep so many rows of usage, telling which are new.

    In words of the driver's, with its mark for a value: SQLAlchemy takes as long to make these as
    the database does to keep the rows.
    """
    row = f"({', '.join([mark] * len(Record.__struct_fields__))})"
    return (
        f"INSERT INTO {tables.usage.name} ({', '.join(Record.__struct_fields__)})"
        f" VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING RETURNING receipt"
    )


def _count(connection: Connection, records: Iterable[Record]) -> None:
    parts: dict[tuple[int | str, ...], list[tuple[int, ...]]] = defaultdict(list)
    for record in records:
        key = (record.at - record.at % HOUR, *_key(record))
        parts[key].append((1, *_parts(record)))
    # In order: two processes that each hold what the other needs would wait for ever.
    rows = [
        dict(zip((*KEYS, *SUMS), (*key, *map(sum, zip(*parts[key], strict=True))), strict=True))
        for key in sorted(parts)
    ]
    connection.execute(_more(dialect_of(connection)), rows)


@cache
def _more(dialect: Any) -> postgresql.Insert | sqlite.Insert:
    """Add to sums. Made once: that takes longer than to run it."""
    insert: postgresql.Insert | sqlite.Insert = dialect.insert(tables.hours)
    columns = tables.hours.c
    more = {name: columns[name] + insert.excluded[name] for name in SUMS}
    return insert.on_conflict_do_update(index_elements=KEYS, set_=more)


def used(connection: Connection, subject: str, begin: int) -> tuple[int, int]:
    """Tokens and picodollars of an account or a token since the hour `begin` (Unix ms)."""
    columns = tables.hours.c
    tokens = func.sum(columns.prompt_tokens + columns.completion_tokens)
    totals = [func.coalesce(total, 0) for total in (tokens, func.sum(columns.picodollars))]
    found = [
        connection.execute(select(*totals).where(column == subject, columns.hour >= begin)).one()
        for column in (columns.account, columns.token)
    ]
    return sum(int(row[0]) for row in found), sum(int(row[1]) for row in found)
