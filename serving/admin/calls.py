"""What the routes of the admin API do, each within a transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from serving.admin.bodies import (
    InvoiceQuery,
    LimitsBody,
    NewAccount,
    NewToken,
    Switch,
    UsageQuery,
)
from serving.core import Caller
from serving.errors import NotPermitted
from serving.tenancy import accounts, usage
from serving.tenancy.secret import Secret


@dataclass(frozen=True, slots=True)
class Call:
    """A request: who, and what came with it."""

    caller: Caller
    secret: Secret
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    @property
    def account(self) -> str:
        """The account of the path."""
        return self.path["account"]

    @property
    def actor(self) -> str:
        """For the audit."""
        return self.caller.token


Handler = Callable[[Connection, Call], object]
_MOST_CHANGES = 1000


class Text(str):
    """An answer that is not JSON."""

    __slots__ = ()


def list_accounts(connection: Connection, call: Call) -> object:
    """All of them."""
    return [asdict(each) for each in accounts.every(connection)]


def create_account(connection: Connection, call: Call) -> object:
    """The new account."""
    asked = NewAccount.model_validate_json(call.body)
    made = accounts.create(connection, call.actor, asked.name, id_=asked.id, pool=asked.pool)
    return asdict(made)


def show_account(connection: Connection, call: Call) -> object:
    """One account."""
    return asdict(accounts.find(connection, call.account))


def switch_account(connection: Connection, call: Call) -> object:
    """The account, enabled or disabled."""
    on = not Switch.model_validate_json(call.body).disabled
    return asdict(accounts.switch(connection, call.actor, call.account, on=on))


def list_tokens(connection: Connection, call: Call) -> object:
    """The account's tokens, without their secrets."""
    accounts.find(connection, call.account)
    return [asdict(each) for each in accounts.tokens_of(connection, call.account)]


def create_token(connection: Connection, call: Call) -> object:
    """The new token; its `value` is told this once. Only an admin makes admins."""
    asked = NewToken.model_validate_json(call.body)
    if asked.role == "admin" and call.caller.role != "admin":
        raise NotPermitted
    made, value = accounts.issue(
        connection,
        call.actor,
        call.account,
        asked.name,
        call.secret,
        role=asked.role,
        scopes=asked.scopes,
        expires_at=asked.expires_ms(),
    )
    return {**asdict(made), "value": value}


def revoke_token(connection: Connection, call: Call) -> object:
    """The token, revoked."""
    return asdict(accounts.revoke(connection, call.actor, call.account, call.path["token"]))


def show_limits(connection: Connection, call: Call) -> object:
    """The limits of the account or the token."""
    subject = _subject(connection, call)
    limits = accounts.limits_of(connection, subject)
    return LimitsBody.of(limits).model_dump(mode="json")


def set_limits(connection: Connection, call: Call) -> object:
    """Replace them; what the body does not name is unlimited."""
    asked = LimitsBody.model_validate_json(call.body)
    token = call.path.get("token")
    accounts.set_limits(connection, call.actor, call.account, token, asked.limits())
    return asked.model_dump(mode="json")


def show_usage(connection: Connection, call: Call) -> object:
    """Sums, of the last 30 days unless told otherwise."""
    query = UsageQuery.model_validate(call.query)
    now = datetime.now(UTC)
    begin, end = query.begin or now - timedelta(days=30), query.end or now + timedelta(seconds=1)
    account, by = call.path.get("account"), query.groups
    if account is not None:
        accounts.find(connection, account)
    lines = usage.sums(connection, begin, end, period=query.period, by=by, account=account)
    rows = usage.as_dicts(lines, by)
    if query.format == "csv":
        return Text(usage.as_csv(rows, usage.columns(by, query.period)))
    return rows


def show_invoice(connection: Connection, call: Call) -> object:
    """A month of the account."""
    query = InvoiceQuery.model_validate(call.query)
    accounts.find(connection, call.account)
    invoice = usage.invoice(connection, call.account, call.path["month"])
    if query.format == "csv":
        return Text(usage.as_csv(invoice["lines"], usage.columns(usage.INVOICED)))
    return invoice


def show_audit(connection: Connection, call: Call) -> object:
    """The latest changes: `limit` (100)."""
    limit = call.query.get("limit", "100")
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST_CHANGES:
        raise ValueError(f"limit is 1 to {_MOST_CHANGES}")
    rows = accounts.audited(connection, int(limit))
    return [{**row._mapping, "detail": json.loads(row.detail)} for row in rows]


def _subject(connection: Connection, call: Call) -> str:
    token = call.path.get("token")
    if token is None:
        return accounts.find(connection, call.account).id
    return accounts.find_token(connection, call.account, token).id
