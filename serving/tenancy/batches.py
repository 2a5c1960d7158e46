"""Queued requests in the database: every query about batches and their items.

An item is open until it has ended. Open items have a time `free_at`: until then nobody else may
claim them, because they are somebody's lease, or are not to be tried again before. So a dead
replica's items are free when its leases run out, and only the latest claim can end an item. Its
usage is written in the same transaction: as often as it has a result, which is once.

Functions take a `Connection` and belong to its transaction. Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, bindparam, case, delete, func, or_, select, update
from uuid_utils import uuid7

from serving.core import Usage
from serving.tenancy import hours, tables
from serving.tenancy.record import Record

_batches, _items = tables.batches, tables.items


@dataclass(frozen=True, slots=True)
class Batch:
    """What was submitted at once; `open` of its `count` items have not ended."""

    id: str
    account: str
    token: str
    model: str
    created_at: int
    count: int
    open: int
    bytes: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """An item that has ended: `output` is JSON, of the result or of the errors."""

    reference: str | None
    success: bool
    output: bytes = field(repr=False)
    usage: Usage


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item to run. `attempts` counts this one and those that nobody has given back."""

    id: str
    claim: str
    account: str
    token: str
    model: str
    created_at: int
    attempts: int
    input: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one account: items that may be claimed, and items that run."""

    due: int
    running: int


def waiting(connection: Connection, account: str) -> tuple[int, int]:
    """The account's open items, and the bytes of the batches that have any.

    Nobody else adds to them until the transaction ends.
    """
    lock = select(tables.accounts.c.id).where(tables.accounts.c.id == account)
    connection.execute(lock.with_for_update())
    query = select(
        func.coalesce(func.sum(_batches.c.open), 0), func.coalesce(func.sum(_batches.c.bytes), 0)
    ).where(_batches.c.account == account, _batches.c.ended_at.is_(None))
    items, size = connection.execute(query).one()
    return int(items), int(size)


def pace(connection: Connection, account: str, route: str, since: int) -> int:
    """How many of the account's items have ended since then, by their rows of usage."""
    columns = tables.usage.c
    query = select(func.count()).where(
        columns.account == account, columns.route == route, columns.at >= since
    )
    return int(connection.execute(query).scalar_one())


def submit(
    connection: Connection,
    account: str,
    token: str,
    model: str,
    inputs: Sequence[tuple[str | None, bytes]],
    now: int,
) -> str:
    """A new batch of references and inputs, in order; its id."""
    id_ = str(uuid4())
    size = sum(len(input_) for _, input_ in inputs)
    batch = Batch(id_, account, token, model, now, len(inputs), len(inputs), size, None)
    connection.execute(_batches.insert(), {name: getattr(batch, name) for name in Batch.__slots__})
    rows = [
        {
            "id": str(uuid7()),
            "batch": id_,
            "account": account,
            "model": model,
            "position": position,
            "reference": reference,
            "input": input_,
            "free_at": now,
            "attempts": 0,
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "completion_tokens": 0,
        }
        for position, (reference, input_) in enumerate(inputs)
    ]
    connection.execute(_items.insert(), rows)
    return id_


def find(connection: Connection, account: str, id_: str) -> Batch | None:
    """The batch of this id, if it is the account's."""
    query = select(_batches).where(_batches.c.id == id_, _batches.c.account == account)
    row = connection.execute(query).one_or_none()
    return None if row is None else Batch(**row._mapping)


def is_running(connection: Connection, batch: Batch) -> bool:
    """Whether any item has ended or is claimed."""
    if batch.open < batch.count:
        return True
    query = select(_items.c.id).where(_items.c.batch == batch.id, _items.c.claim.is_not(None))
    return connection.execute(query.limit(1)).one_or_none() is not None


def ended_of(connection: Connection, id_: str) -> list[Ended]:
    """The items of a batch that has ended, in their order."""
    query = select(_items).where(_items.c.batch == id_).order_by(_items.c.position)
    return [
        Ended(
            reference=row.reference,
            success=row.success,
            output=bytes(row.output),
            usage=Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens),
        )
        for row in connection.execute(query)
    ]


def demands(connection: Connection, models: Collection[str], now: int) -> dict[str, Demand]:
    """Accounts with items for these models to claim, those who have waited longest first."""
    due = case((_items.c.free_at <= now, 1), else_=0)
    query = (
        select(_items.c.account, func.sum(due), func.count())
        .where(
            _items.c.model.in_(models),
            or_(_items.c.free_at <= now, _items.c.claim.is_not(None)),
        )
        .group_by(_items.c.account)
        .having(func.sum(due) > 0)
        .order_by(func.min(_items.c.free_at))
    )
    rows = connection.execute(query).all()
    return {account: Demand(int(n), int(whole - n)) for account, n, whole in rows}


def claim(
    connection: Connection,
    models: Collection[str],
    shares: Mapping[str, int],
    now: int,
    until: int,
) -> list[Claimed]:
    """Take up to so many items of each account, until then. What others are taking is left."""
    taken = {
        id_: str(uuid4())
        for account, share in shares.items()
        for id_ in connection.execute(
            select(_items.c.id)
            .where(_items.c.account == account, _items.c.model.in_(models), _items.c.free_at <= now)
            .order_by(_items.c.free_at, _items.c.position)
            .limit(share)
            .with_for_update(skip_locked=True)
        ).scalars()
    }
    if not taken:
        return []
    mark = update(_items).where(_items.c.id == bindparam("item"))
    mark = mark.values(claim=bindparam("by"), free_at=until, attempts=_items.c.attempts + 1)
    connection.execute(mark, [{"item": id_, "by": by} for id_, by in taken.items()])
    query = (
        select(_items, _batches.c.token, _batches.c.created_at)
        .join(_batches)
        .where(_items.c.id.in_(taken))
    )
    return [_claimed(row._mapping) for row in connection.execute(query)]


def renew(connection: Connection, claims: Collection[str], until: int) -> None:
    """These go on. What was lost to somebody else stays lost."""
    query = update(_items).where(_items.c.claim.in_(claims)).values(free_at=until)
    connection.execute(query)


def give_back(
    connection: Connection, claims: Collection[str], free_at: int, *, tried: bool = False
) -> None:
    """Let others claim these from `free_at` on; unless `tried`, as if they never had been."""
    attempts = _items.c.attempts if tried else _items.c.attempts - 1
    query = update(_items).where(_items.c.claim.in_(claims))
    connection.execute(query.values(claim=None, free_at=free_at, attempts=attempts))


def end(
    connection: Connection, item: Claimed, success: bool, output: bytes, record: Record, now: int
) -> bool:
    """The item has ended with this output and usage, and its input is deleted.

    False, and nothing is changed, when it is no longer the claim's.
    """
    query = update(_items).where(_items.c.id == item.id, _items.c.claim == item.claim)
    found = connection.execute(
        query.values(
            input=None,
            free_at=None,
            claim=None,
            success=success,
            output=output,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
        ).returning(_items.c.batch)
    ).scalar_one_or_none()
    if found is None:
        return False
    hours.add(connection, [record])
    last = case((_batches.c.open == 1, now), else_=None)
    close = update(_batches).where(_batches.c.id == found)
    connection.execute(close.values(open=_batches.c.open - 1, ended_at=last))
    return True


def purge(connection: Connection, before: int, abandoned: int) -> int:
    """Delete batches that ended before, and those submitted before `abandoned` that never did."""
    old = select(_batches.c.id).where(
        or_(
            _batches.c.ended_at < before,
            _batches.c.ended_at.is_(None) & (_batches.c.created_at < abandoned),
        )
    )
    ids = list(connection.execute(old.limit(100).with_for_update(skip_locked=True)).scalars())
    if ids:
        connection.execute(delete(_items).where(_items.c.batch.in_(ids)))
        connection.execute(delete(_batches).where(_batches.c.id.in_(ids)))
    return len(ids)


def _claimed(row: Mapping[Any, Any]) -> Claimed:
    names = Claimed.__slots__
    return Claimed(**{name: row[name] for name in names} | {"input": bytes(row["input"])})
