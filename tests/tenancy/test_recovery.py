"""A dump of PostgreSQL, as docs/operations.md makes it, brings accounts, tokens and usage back."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from serving.cluster.tenants import Tenancy
from serving.core import Caller, Limits
from serving.errors import WrongToken
from serving.settings import Settings
from serving.tenancy import accounts
from serving.tenancy.identity import Identity
from tests import servers

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
SECRET = "s" * 32


def command(program: str, url: str, folder: Path) -> list[str]:
    """The line of the document, with this database and a file of ours."""
    (line,) = re.findall(rf"^{program} .*$", DOCUMENT.read_text(), re.MULTILINE)
    words = shlex.split(line.replace("serving.dump", str(folder / "dump")))
    words = [word.replace("$DATABASE_URL", url) for word in words]
    return [str(servers.postgres_binary(program)), *words[1:]]


def opened(url: str, secret: str) -> Tenancy:
    given: dict[str, Any] = {"database_url": url, "tenancy_secret": secret}
    return Tenancy.open(Settings.model_validate(given))


def test_a_restored_database_knows_its_tokens_under_the_old_secret_only(
    tmp_path: Path,
) -> None:
    try:
        with servers.postgres() as server:
            restored(server.url, tmp_path)
    except servers.Missing as missing:
        pytest.skip(str(missing))


def restored(url: str, folder: Path) -> None:
    before = opened(url, SECRET)
    with before.database.begin() as connection:
        account = accounts.create(connection, "test", "Vision team").id
        _, value = accounts.issue(connection, "test", account, "app", before.secret)
        accounts.set_limits(connection, "test", account, None, Limits(requests_per_minute=7))
    before.database.close()
    subprocess.run(command("pg_dump", url, folder), check=True)
    other = url.rsplit("/", 1)[0] + "/restored"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create database restored")
    subprocess.run(command("pg_restore", other, folder), check=True)
    assert (
        asyncio.run(caller(other, SECRET, value, account)).account_limits.requests_per_minute == 7
    )
    with pytest.raises(WrongToken):
        asyncio.run(caller(other, "another-secret-of-some-length", value, account))


async def caller(url: str, secret: str, token: str, account: str) -> Caller:
    tenancy = opened(url, secret)
    identity = Identity(tenancy.database, tenancy.secret)
    try:
        return await identity.check(token.encode(), account)
    finally:
        identity.close()
        tenancy.database.close()
