"""`serving token create|list|revoke`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from serving.admin.bodies import NewToken
from serving.commands.account import AccountId
from serving.commands.open import actor, show, tenancy
from serving.tenancy import accounts

app = typer.Typer(no_args_is_help=True, help="API tokens of an account.")

_DAY = 86_400_000


@app.command()
def create(
    account: AccountId,
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    role: Annotated[str, typer.Option(help="member, or admin: all accounts.")] = "member",
    scope: Annotated[list[str] | None, typer.Option(help="ai, admin; may be repeated.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires.")] = None,
) -> None:
    """Make a token and print it. It is shown this once."""
    expires = None if days is None else accounts.now() + days * _DAY
    with tenancy() as (connection, secret):
        asked = NewToken.model_validate({"name": name, "role": role, "scopes": scope or ["ai"]})
        _, value = accounts.issue(
            connection,
            actor(),
            account,
            asked.name,
            secret,
            role=asked.role,
            scopes=asked.scopes,
            expires_at=expires,
        )
    typer.echo(value)


@app.command("list")
def list_(account: AccountId) -> None:
    """An account's tokens, without their secrets."""
    with tenancy() as (connection, _):
        accounts.find(connection, account)
        show([asdict(each) for each in accounts.tokens_of(connection, account)])


@app.command()
def revoke(account: AccountId, token: str) -> None:
    """Make the token with this id worthless, within seconds."""
    with tenancy() as (connection, _):
        accounts.revoke(connection, actor(), account, token)
