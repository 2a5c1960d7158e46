"""Sums of usage by the hour, kept in the transactions that keep the rows.

Reports and quotas read these: a month has some thousand rows an account, however many requests it
had. A row that is in the table already is neither kept nor counted again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from operator import add as plus
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Insert, func, select
from sqlalchemy.sql.dml import ReturningInsert

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
    rows = {record.receipt: record.row() for record in records}
    keep, _ = _statements(dialect_of(connection))
    new = set(connection.execute(keep, list(rows.values())).scalars())
    if new:
        _count(connection, (record for record in records if record.receipt in new))


def _count(connection: Connection, records: Iterable[Record]) -> None:
    sums: dict[tuple[int | str, ...], tuple[int, ...]] = defaultdict(lambda: (0,) * len(SUMS))
    for record in {each.receipt: each for each in records}.values():
        key = (record.at - record.at % HOUR, *_key(record))
        sums[key] = tuple(map(plus, sums[key], (1, *_parts(record))))
    # In order: two processes that each hold what the other needs would wait for ever.
    rows = [dict(zip((*KEYS, *SUMS), (*key, *sums[key]), strict=True)) for key in sorted(sums)]
    _, more = _statements(dialect_of(connection))
    connection.execute(more, rows)


@cache
def _statements(dialect: Any) -> tuple[ReturningInsert[Any], Insert]:
    """Keep rows of usage, telling which are new; and add to sums. Made once: that takes longer
    than to run them."""
    keep = dialect.insert(tables.usage).on_conflict_do_nothing().returning(tables.usage.c.receipt)
    insert, columns = dialect.insert(tables.hours), tables.hours.c
    more = {name: columns[name] + insert.excluded[name] for name in SUMS}
    return keep, insert.on_conflict_do_update(index_elements=KEYS, set_=more)


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
