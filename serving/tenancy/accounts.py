"""Accounts, their tokens and limits: every query, and an audit row for every change.

Functions take a `Connection` and belong to its transaction. A token is only ever found within an
account, so that one account cannot name another's.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from serving.core import Limits
from serving.tenancy import tables
from serving.tenancy.secret import ROLES, SCOPES, Secret, mint

ENVIRONMENT = "environment"  # the name of the account and the token that ACCOUNT_ID, API_TOKEN set


class NotFound(Exception):  # noqa: N818 - a domain word
    """There is no such account, or no such token in it: `what` was asked for."""

    def __init__(self, what: str) -> None:
        super().__init__(f"no {what}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Account:
    """One tenant. Times are Unix milliseconds."""

    id: str
    name: str
    pool: str | None
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class Token:
    """An API token, without its secret."""

    id: str
    account: str
    name: str
    hint: str
    role: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None


def now() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def create(
    connection: Connection, actor: str, name: str, *, id_: str = "", pool: str | None = None
) -> Account:
    """A new account; its id is made unless given."""
    account = Account(id_ or secrets.token_hex(16), name, pool, now(), None)
    connection.execute(tables.accounts.insert(), asdict(account))
    note(connection, actor, "account.create", account.id, {"name": name, "pool": pool})
    return account


def every(connection: Connection, only: str | None = None) -> list[Account]:
    """All accounts, or the one with this id, the oldest first."""
    query = select(tables.accounts).order_by(tables.accounts.c.created_at, tables.accounts.c.id)
    if only is not None:
        query = query.where(tables.accounts.c.id == only)
    return [Account(**row._mapping) for row in connection.execute(query)]


def find(connection: Connection, id_: str) -> Account:
    """Raises: NotFound."""
    for account in every(connection, id_):
        return account
    raise NotFound(f"account {id_}")


def switch(connection: Connection, actor: str, id_: str, *, on: bool) -> Account:
    """Enable or disable an account.

    Raises:
        NotFound: there is none.
    """
    find(connection, id_)
    query = update(tables.accounts).where(tables.accounts.c.id == id_)
    connection.execute(query.values(disabled_at=None if on else now()))
    note(connection, actor, "account.enable" if on else "account.disable", id_, {})
    return find(connection, id_)


def issue(
    connection: Connection,
    actor: str,
    account: str,
    name: str,
    secret: Secret,
    *,
    role: str = "member",
    scopes: Collection[str] = ("ai",),
    expires_at: int | None = None,
    value: str = "",
) -> tuple[Token, str]:
    """A new token and its secret, which nobody can tell again; `value` brings one along.

    Raises:
        NotFound: no such account.
        ValueError: no such role or scope.
    """
    find(connection, account)
    if role not in ROLES or not scopes or not set(scopes) <= set(SCOPES):
        raise ValueError(f"roles are {', '.join(ROLES)}; scopes are {', '.join(SCOPES)}")
    value = value or mint(role)
    token = Token(
        id=secrets.token_hex(16),
        account=account,
        name=name,
        hint=value[-4:] if len(value) > 16 else "",
        role=role,
        scopes=tuple(sorted(scopes)),
        created_at=now(),
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    row = asdict(token) | {
        "scopes": " ".join(token.scopes),
        "digest": secret.digest(value.encode()),
    }
    connection.execute(tables.tokens.insert(), row)
    detail = {"name": name, "role": role, "scopes": token.scopes, "account": account}
    note(connection, actor, "token.create", token.id, detail)
    return token, value


def tokens_of(connection: Connection, account: str, only: str | None = None) -> list[Token]:
    """The tokens of an account, or the one with this id, the oldest first."""
    query = select(tables.tokens).where(tables.tokens.c.account == account)
    if only is not None:
        query = query.where(tables.tokens.c.id == only)
    query = query.order_by(tables.tokens.c.created_at, tables.tokens.c.id)
    return [_token(row) for row in connection.execute(query)]


def next_expiry(connection: Connection, at: int) -> int | None:
    """When the next token ends of those that work now, of all accounts."""
    tokens, owners = tables.tokens.c, tables.accounts.c
    query = (
        select(func.min(tokens.expires_at))
        .join(tables.accounts, owners.id == tokens.account)
        .where(tokens.expires_at > at, tokens.revoked_at.is_(None), owners.disabled_at.is_(None))
    )
    found: int | None = connection.execute(query).scalar()
    return found


def find_token(connection: Connection, account: str, id_: str) -> Token:
    """Raises: NotFound: the account has no such token."""
    for token in tokens_of(connection, account, id_):
        return token
    raise NotFound(f"token {id_} in account {account}")


def revoke(connection: Connection, actor: str, account: str, id_: str) -> Token:
    """Make a token worthless; the first time counts.

    Raises:
        NotFound: the account has no such token.
    """
    token = find_token(connection, account, id_)
    if token.revoked_at is None:
        query = update(tables.tokens).where(tables.tokens.c.id == id_)
        connection.execute(query.values(revoked_at=now()))
        note(connection, actor, "token.revoke", id_, {"account": account})
    return find_token(connection, account, id_)


def limits_of(connection: Connection, subject: str) -> Limits:
    """The limits of an account or a token; none were set: no limits."""
    query = select(tables.limits).where(tables.limits.c.subject == subject)
    row = connection.execute(query).one_or_none()
    return Limits() if row is None else limits_in(row._mapping)


def set_limits(
    connection: Connection, actor: str, account: str, token: str | None, limits: Limits
) -> None:
    """Replace the limits of an account, or of one of its tokens.

    Raises:
        NotFound: no such account or token.
        ValueError: a limit is negative, or the weight is 0.
    """
    values = asdict(limits)
    if any(value is not None and value < 0 for value in values.values()) or limits.weight == 0:
        raise ValueError("limits must not be negative, weight must be at least 1")
    find(connection, account) if token is None else find_token(connection, account, token)
    subject = token or account
    connection.execute(tables.limits.delete().where(tables.limits.c.subject == subject))
    connection.execute(tables.limits.insert(), {"subject": subject, **values})
    detail = {name: value for name, value in values.items() if value is not None}
    note(connection, actor, "limits.set", subject, detail)


def limits_in(row: Mapping[Any, Any]) -> Limits:
    """The limits among the columns of a row."""
    return Limits(**{each.name: row[each.name] for each in fields(Limits)})


def note(
    connection: Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    """An audit row: who did what to whom, now."""
    row = {
        "id": secrets.token_hex(16),
        "at": now(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": json.dumps(detail),
    }
    connection.execute(tables.audit.insert(), row)


def audited(connection: Connection, limit: int = 100) -> Sequence[Row[Any]]:
    """The latest audit rows, the last first."""
    query = select(tables.audit).order_by(tables.audit.c.at.desc()).limit(limit)
    return connection.execute(query).all()


def adopt(connection: Connection, account: str, token: str, secret: Secret) -> None:
    """Make the account and the token of the environment exist, and only that one token of it.

    Repeating it changes nothing. A token that was the environment's before is revoked.
    """
    if not every(connection, account):
        create(connection, ENVIRONMENT, ENVIRONMENT, id_=account)
    digest = secret.digest(token.encode())
    query = select(tables.tokens.c.id, tables.tokens.c.digest).where(
        tables.tokens.c.account == account,
        tables.tokens.c.name == ENVIRONMENT,
        tables.tokens.c.revoked_at.is_(None),
    )
    held = {bytes(row.digest): row.id for row in connection.execute(query)}
    for old in held.keys() - {digest}:
        revoke(connection, ENVIRONMENT, account, held[old])
    if digest in held:
        return
    known = select(func.count()).where(tables.tokens.c.digest == digest)
    if connection.execute(known).scalar_one():
        # Revoked, or another account's: whoever sets it again means this account.
        connection.execute(tables.tokens.delete().where(tables.tokens.c.digest == digest))
    issue(connection, ENVIRONMENT, account, ENVIRONMENT, secret, value=token)


def _token(row: Row[Any]) -> Token:
    columns = dict(row._mapping)
    del columns["digest"]
    return Token(**columns | {"scopes": tuple(columns["scopes"].split())})
