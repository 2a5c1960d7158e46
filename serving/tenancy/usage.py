"""What was used: per hour or day, by account, token and model; and a month's summary.

Whole hours are read from their sums; only the rest of a time that begins or ends within an hour is
added up from the requests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Subquery, func, literal, select, union_all

from serving.tenancy import tables
from serving.tenancy.hours import HOUR, KEYS, SUMS
from serving.tenancy.prices import dollars

PERIODS = {"hour": HOUR, "day": 24 * HOUR}
"""Milliseconds. Both begin where UTC's do."""
GROUPS = ("account", "token", "model", "route", "outcome")

INVOICED = ("model",)
"""What an invoice has lines by."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sum. `period` is its beginning in ISO 8601, empty for sums over all time asked for."""

    period: str
    groups: tuple[str, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    image_tokens: int
    completion_tokens: int
    images: int
    picodollars: int
    microneurons: int


def sums(
    connection: Connection,
    begin: datetime,
    end: datetime,
    *,
    period: str | None = None,
    by: Sequence[str] = (),
    account: str | None = None,
) -> list[Line]:
    """Sums over `begin` <= time < `end`, of one account or of all.

    Raises:
        ValueError: no such period or group, or a time that ends before it begins.
    """
    if begin > end:
        raise ValueError("the time asked for ends before it begins")
    if not set(by) <= set(GROUPS) or (period and period not in PERIODS):
        raise ValueError(f"group by {', '.join(GROUPS)}; periods are {', '.join(PERIODS)}")
    columns = _between(_ms(begin), _ms(end), account).c
    groups: list[Any] = [columns[name] for name in by]
    if period:
        size = PERIODS[period]
        groups.insert(0, (columns.hour - columns.hour % size).label("begins"))
    totals = [func.coalesce(func.sum(columns[name]), 0) for name in SUMS]
    query = select(*groups, *totals).group_by(*groups).order_by(*groups)
    rows = connection.execute(query).all()
    return [_line(tuple(row), bool(period), len(groups)) for row in rows if row[len(groups)]]


def _between(begin: int, end: int, account: str | None) -> Subquery:
    """Rows like those of `tables.hours` that make up a time."""
    first, last = -(-begin // HOUR) * HOUR, end // HOUR * HOUR
    if first > last:  # within one hour
        first = last = end
    whole, each = tables.hours.c, tables.usage.c
    sums = select(*(whole[name] for name in (*KEYS, *SUMS)))
    keys = [(each.at - each.at % HOUR).label("hour"), *(each[name] for name in KEYS[1:])]
    counts = [literal(1).label("requests"), *(each[name] for name in SUMS[1:])]
    rest = select(*keys, *counts)
    if account is not None:
        sums, rest = sums.where(whole.account == account), rest.where(each.account == account)
    return union_all(
        sums.where(whole.hour >= first, whole.hour < last),
        rest.where(each.at >= begin, each.at < first),
        rest.where(each.at >= last, each.at < end),
    ).subquery()


def _line(row: tuple[Any, ...], has_period: bool, groups: int) -> Line:
    period = _iso(row[0]) if has_period else ""
    return Line(period, tuple(row[has_period:groups]), *map(int, row[groups:]))


def month(text: str) -> tuple[datetime, datetime]:
    """The beginning and the end of `2026-11`.

    Raises:
        ValueError: not a month.
    """
    try:
        begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError("a month is like 2026-11") from None
    return begin, (begin + timedelta(days=32)).replace(day=1)


def as_dicts(lines: Iterable[Line], by: Sequence[str]) -> list[dict[str, Any]]:
    """For JSON and CSV: groups by name, money as exact decimal strings of dollars."""
    return [_dict(line, by) for line in lines]


def _dict(line: Line, by: Sequence[str]) -> dict[str, Any]:
    values = asdict(line)
    period, groups = values.pop("period"), values.pop("groups")
    money = values.pop("picodollars"), values.pop("microneurons")
    head = {"period": period} if period else {}
    return {
        **head,
        **dict(zip(by, groups, strict=True)),
        **values,
        "usd": dollars(money[0]),
        "neurons": f"{money[1] / 1e6:.6f}",
    }


def columns(by: Sequence[str], period: str | None = None) -> list[str]:
    """The names in `as_dicts`, in their order."""
    line = Line("begin" if period else "", tuple(by), *[0] * len(SUMS))
    return list(_dict(line, by))


def as_csv(rows: Iterable[dict[str, Any]], names: Sequence[str]) -> str:
    """With these columns, whose names come first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def invoice(connection: Connection, account: str, text: str) -> dict[str, Any]:
    """A month of one account: a line per model and the total, in exact dollars.

    Raises:
        ValueError: not a month.
    """
    begin, end = month(text)
    by = INVOICED
    lines = sums(connection, begin, end, by=by, account=account)
    return {
        "account": account,
        "month": f"{begin:%Y-%m}",
        "currency": "USD",
        "lines": as_dicts(lines, by),
        "requests": sum(line.requests for line in lines),
        "total": dollars(sum(line.picodollars for line in lines)),
    }


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(int(ms) / 1000, UTC).isoformat(timespec="seconds")
