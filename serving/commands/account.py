"""`serving account create|list|enable|disable`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from serving.admin.bodies import NewAccount
from serving.commands.open import actor, show, tenancy
from serving.tenancy import accounts

app = typer.Typer(no_args_is_help=True, help="Accounts: the tenants of this deployment.")

AccountId = Annotated[str, typer.Argument(help="The account's id: 32 hex digits.")]


@app.command()
def create(
    name: str,
    id_: Annotated[str, typer.Option("--id", help="32 hex digits; made unless given.")] = "",
    pool: Annotated[str, typer.Option(help="Public pool to share cached prompts with.")] = "",
) -> None:
    """Make an account and print its id."""
    with tenancy() as (connection, _):
        asked = NewAccount(name=name, id=id_, pool=pool or None)
        made = accounts.create(connection, actor(), asked.name, id_=asked.id, pool=asked.pool)
    typer.echo(made.id)


@app.command("list")
def list_() -> None:
    """All accounts."""
    with tenancy() as (connection, _):
        show([asdict(each) for each in accounts.every(connection)])


@app.command()
def disable(account: AccountId) -> None:
    """Refuse all of an account's tokens, within seconds."""
    with tenancy() as (connection, _):
        accounts.switch(connection, actor(), account, on=False)


@app.command()
def enable(account: AccountId) -> None:
    """Undo `disable`."""
    with tenancy() as (connection, _):
        accounts.switch(connection, actor(), account, on=True)
