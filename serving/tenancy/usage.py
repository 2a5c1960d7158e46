"""What was used: per hour or day, by account, token and model; and a month's summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select

from serving.tenancy import tables
from serving.tenancy.prices import dollars

PERIODS = {"hour": 3_600_000, "day": 86_400_000}
"""Milliseconds. Both begin where UTC's do."""
GROUPS = ("account", "token", "model", "route", "outcome")


@dataclass(frozen=True, slots=True)
class Line:
    """A sum. `period` is its beginning in ISO 8601, empty for sums over all time asked for."""

    period: str
    groups: tuple[str, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
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
        ValueError: no such period or group.
    """
    if not set(by) <= set(GROUPS) or (period and period not in PERIODS):
        raise ValueError(f"group by {', '.join(GROUPS)}; periods are {', '.join(PERIODS)}")
    columns = tables.usage.c
    groups: list[Any] = [columns[name] for name in by]
    if period:
        size = PERIODS[period]
        groups.insert(0, (columns.at - columns.at % size).label("begins"))
    query = _summed(groups).where(columns.at >= _ms(begin), columns.at < _ms(end))
    if account is not None:
        query = query.where(columns.account == account)
    rows = connection.execute(query.group_by(*groups).order_by(*groups)).all()
    return [_line(tuple(row), bool(period), len(groups)) for row in rows if row[len(groups)]]


def _summed(groups: Sequence[Any]) -> Select[Any]:
    columns = tables.usage.c
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "images")
    totals = [func.coalesce(func.sum(columns[name]), 0) for name in names]
    money = [func.coalesce(func.sum(columns[n]), 0) for n in ("picodollars", "microneurons")]
    return select(*groups, func.count(), *totals, *money)


def _line(row: tuple[Any, ...], has_period: bool, groups: int) -> Line:
    period = _iso(row[0]) if has_period else ""
    return Line(period, tuple(row[has_period:groups]), *map(int, row[groups:]))


def month(text: str) -> tuple[datetime, datetime]:
    """The beginning and the end of `2026-11`.

    Raises:
        ValueError: not a month.
    """
    begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
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


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """With a head; empty without rows."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def invoice(connection: Connection, account: str, text: str) -> dict[str, Any]:
    """A month of one account: a line per model and the total, in exact dollars.

    Raises:
        ValueError: not a month.
    """
    begin, end = month(text)
    by = ("model",)
    lines = sums(connection, begin, end, by=by, account=account)
    return {
        "account": account,
        "month": text,
        "currency": "USD",
        "lines": as_dicts(lines, by),
        "requests": sum(line.requests for line in lines),
        "total": dollars(sum(line.picodollars for line in lines)),
    }


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(int(ms) / 1000, UTC).isoformat(timespec="seconds")
