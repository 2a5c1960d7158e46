"""`serving limit set|show`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from serving.admin.bodies import LimitsBody
from serving.commands.account import AccountId
from serving.commands.open import actor, show, tenancy
from serving.tenancy import accounts

app = typer.Typer(no_args_is_help=True, help="Limits of accounts and tokens.")

_NAMES = ", ".join(LimitsBody.model_fields)
_Token = Annotated[str, typer.Option("--token", help="A token's id: its limits instead.")]


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    account: AccountId,
    limits: Annotated[
        list[str],
        typer.Argument(help=f"NAME=VALUE, NAME=none for no limit, or --NAME VALUE; {_NAMES}"),
    ],
    token: _Token = "",
) -> None:
    """Change the limits that are named; the others stay."""
    with tenancy() as (connection, _):
        before = LimitsBody.of(accounts.limits_of(connection, token or account))
        after = LimitsBody.model_validate(before.model_dump() | dict(_pairs(limits)))
        accounts.set_limits(connection, actor(), account, token or None, after.limits())


@app.command("show")
def show_(account: AccountId, token: _Token = "") -> None:
    """The limits of an account or a token."""
    with tenancy() as (connection, _):
        if token:
            accounts.find_token(connection, account, token)
        accounts.find(connection, account)
        found = LimitsBody.of(accounts.limits_of(connection, token or account))
    values = found.model_dump(mode="json").items()
    show([{"limit": name, "value": value} for name, value in values])


def _pairs(words: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Raises: ValueError: one is neither NAME=VALUE nor an option with its value."""
    left = iter(words)
    for word in left:
        name, found, value = word.partition("=")
        if name.startswith("--"):
            name, value = name[2:].replace("-", "_"), value if found else next(left, "")
        if not (name and value):
            raise ValueError(f"{word}: say NAME=VALUE")
        yield name, None if value == "none" else value
