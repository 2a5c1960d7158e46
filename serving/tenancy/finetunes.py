"""Accounts' LoRA adapters: every query. The files are `serving.adapters.shelf`'s.

Functions take a `Connection` and belong to its transaction. An adapter is only ever found within
its account, unless it is public.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, and_, or_, select, update

from serving.errors import InvalidInput
from serving.tenancy import tables
from serving.tenancy.accounts import note, now

MOST = 100
"""Adapters of an account."""

# No slash, for it is part of addresses; no form of an id, so that no name hides one.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_COLUMNS = tables.finetunes.c


@dataclass(frozen=True, slots=True)
class Finetune:
    """One adapter. Times are Unix milliseconds; digests are of the files, null until uploaded."""

    id: str
    account: str
    name: str
    model: str
    description: str | None
    public: int
    created_at: int
    modified_at: int
    config: str | None = None
    weights: str | None = None
    digest: str | None = None


def create(
    connection: Connection,
    actor: str,
    account: str,
    name: str,
    model: str,
    description: str | None,
    public: bool,
) -> Finetune:
    """A new adapter, without files.

    Raises:
        InvalidInput: the name cannot be used, or the account has too many adapters.
    """
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise InvalidInput("'/name' must be up to 100 letters, digits, spaces, '.', '_' and '-'")
    mine = _COLUMNS.account == account
    if len(of_account(connection, account)) >= MOST:
        raise InvalidInput(f"the account has {MOST} finetunes already, which is the most")
    if connection.scalar(select(_COLUMNS.id).where(mine, _COLUMNS.name == name)):
        raise InvalidInput(f"the account has a finetune of the name {name!r} already")
    at = now()
    made = Finetune(str(uuid4()), account, name, model, description, int(public), at, at)
    connection.execute(tables.finetunes.insert(), asdict(made))
    note(connection, actor, "finetune.create", made.id, {"name": name, "public": public})
    return made


def of_account(connection: Connection, account: str) -> list[Finetune]:
    """The account's own, the oldest first."""
    query = select(tables.finetunes).where(_COLUMNS.account == account)
    return _read(connection, query.order_by(_COLUMNS.created_at, _COLUMNS.id))


def public(
    connection: Connection, limit: int, offset: int, order: str = "created_at"
) -> list[Finetune]:
    """Those that every account may use. `order`: one of the columns that are shown."""
    query = select(tables.finetunes).where(_COLUMNS.public == 1)
    query = query.order_by(_COLUMNS[order], _COLUMNS.id).limit(limit).offset(offset)
    return _read(connection, query)


def own(connection: Connection, account: str, key: str) -> Finetune | None:
    """The account's adapter with this name or id."""
    return _first(_read(connection, select(tables.finetunes).where(_mine(account, key))))


def usable(connection: Connection, account: str, key: str) -> Finetune | None:
    """The adapter with this name or id that the account may use: its own before a public one."""
    shared = and_(_COLUMNS.public == 1, or_(_COLUMNS.name == key, _COLUMNS.id == key.lower()))
    query = select(tables.finetunes).where(or_(_mine(account, key), shared))
    found = _read(connection, query.order_by(_COLUMNS.created_at, _COLUMNS.id))
    return _first(sorted(found, key=lambda each: each.account != account))


def uploaded(connection: Connection, id_: str, **digests: str | None) -> None:
    """Note the digests of files: `config`, `weights`, `digest`."""
    query = update(tables.finetunes).where(_COLUMNS.id == id_)
    connection.execute(query.values(modified_at=now(), **digests))


def _mine(account: str, key: str) -> Any:
    return and_(_COLUMNS.account == account, or_(_COLUMNS.name == key, _COLUMNS.id == key.lower()))


def _read(connection: Connection, query: Any) -> list[Finetune]:
    return [Finetune(**row._mapping) for row in connection.execute(query)]


def _first(found: Sequence[Finetune]) -> Finetune | None:
    return found[0] if found else None
