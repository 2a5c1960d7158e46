"""`serving usage`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from serving.commands.open import show, tenancy
from serving.tenancy import accounts, usage

app = typer.Typer(help="What was used, and what it costs.", invoke_without_command=True)


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.callback()
def _usage(
    account: Annotated[str, typer.Option(help="Of this account only.")] = "",
    by: Annotated[str, typer.Option(help=", ".join(usage.GROUPS))] = "account,model",
    period: Annotated[str, typer.Option(help="hour or day; otherwise one sum.")] = "",
    since: Annotated[datetime | None, typer.Option(help="UTC; 30 days ago.")] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC; now.")] = None,
    month: Annotated[str, typer.Option(help="2026-11: the account's invoice.")] = "",
    format_: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """Sums of requests, tokens, images and money; with `--month`, an invoice."""
    with tenancy() as (connection, _):
        if account:
            accounts.find(connection, account)
        if month:
            _invoice(usage.invoice(connection, _needed(account), month), format_)
            return
        now = datetime.now(UTC)
        begin = since.replace(tzinfo=UTC) if since else now - timedelta(days=30)
        end = until.replace(tzinfo=UTC) if until else now + timedelta(seconds=1)
        groups = tuple(filter(None, by.split(",")))
        lines = usage.sums(
            connection, begin, end, period=period or None, by=groups, account=account or None
        )
    _print(usage.as_dicts(lines, groups), format_, usage.columns(groups, period))


def _needed(account: str) -> str:
    if not account:
        raise ValueError("an invoice is of one --account")
    return account


def _print(rows: list[dict[str, object]], format_: Format, names: list[str]) -> None:
    match format_:
        case Format.CSV:
            typer.echo(usage.as_csv(rows, names), nl=False)
        case Format.JSON:
            typer.echo(json.dumps(rows, indent=1))
        case Format.TABLE:
            show(rows)


def _invoice(invoice: dict[str, object], format_: Format) -> None:
    lines = invoice["lines"]
    assert isinstance(lines, list)
    match format_:
        case Format.CSV:
            _print(lines, format_, usage.columns(usage.INVOICED))
        case Format.JSON:
            typer.echo(json.dumps(invoice, indent=1))
        case Format.TABLE:
            typer.echo(f"{invoice['month']}  account {invoice['account']}\n")
            show(lines)
            typer.echo(f"\n{invoice['requests']} requests, total {invoice['total']} USD")
