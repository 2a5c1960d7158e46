"""A transaction for a command, with what goes wrong as one line and an exit status."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from serving.admin.bodies import wrong
from serving.cluster.tenants import Tenancy
from serving.settings import Settings
from serving.tenancy.accounts import NotFound
from serving.tenancy.database import Down
from serving.tenancy.secret import Secret


@contextmanager
def tenancy() -> Iterator[tuple[Connection, Secret]]:
    """The database and the secret of the settings."""
    try:
        opened = Tenancy.open(Settings().resolved())
        with opened.database.begin() as connection:
            yield connection, opened.secret
    except ValidationError as error:
        _end(wrong(error))
    except (NotFound, ValueError) as error:
        _end(str(error))
    except IntegrityError:
        _end("such an account exists already")
    except Down as error:
        _end(f"the database cannot be reached: {type(error).__name__}")


def actor() -> str:
    """For the audit: who runs the command."""
    return f"cli:{getpass.getuser()}"


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for people: columns as wide as they need be."""
    if not rows:
        return
    lines = [list(rows[0]), *([_text(*cell) for cell in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    if name.endswith("_at") and value is not None:  # Unix milliseconds
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="seconds")
    return "-" if value is None else str(value)


def _end(line: str) -> NoReturn:
    typer.echo(f"serving: {line}", err=True)
    raise typer.Exit(1)
