"""Tokens: who they open what for, and how fast that changes. On both databases."""

import asyncio
import threading
import time
from typing import Any

import pytest
from sqlalchemy import event, text

from serving.cluster.tenants import Tenancy, Tenants
from serving.core import Limits
from serving.errors import StoreDown, WrongToken
from serving.settings import Settings
from serving.tenancy import accounts, tables
from serving.tenancy.identity import Identity
from tests.tenancy.conftest import ACCOUNT, TOKEN, Service


def said(response: Any) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


async def test_the_environments_token_opens_its_account(service: Service) -> None:
    assert (await service.run()).status_code == 200


async def test_wrong_foreign_and_missing_tokens(service: Service) -> None:
    other = service.account()
    _, theirs = service.token(other)
    assert said(await service.run("nobodys")) == (401, 10000)
    assert said(await service.run(theirs)) == (403, 10000)
    assert said(await service.run(TOKEN, other)) == (403, 10000)
    async with service.client() as client:
        client.headers.clear()
        response = await client.post(f"/client/v4/accounts/{ACCOUNT}/ai/run/@cf/x", json={})
        assert said(response) == (400, 9106)
    assert (await service.run(theirs, other)).status_code == 200
    assert len(service.engine.started) == 1


async def test_a_token_without_the_scope(service: Service) -> None:
    _, operators = service.token(ACCOUNT, scopes=["admin"])
    assert said(await service.run(operators)) == (403, 10000)
    async with service.client() as client:
        assert said(await client.get("/admin/v1/accounts")) == (403, 9109)


async def test_an_expired_token(service: Service) -> None:
    _, soon = service.token(ACCOUNT, expires_at=accounts.now() + 300)
    assert (await service.run(soon)).status_code == 200
    time.sleep(0.35)  # noqa: ASYNC251 - nothing else is to happen
    assert said(await service.run(soon)) == (401, 10000)


async def test_a_revoked_token_and_a_disabled_account_within_five_seconds(
    service: Service,
) -> None:
    """While both are being used all the time, and so answered from memory."""
    one, two = service.account(), service.account()
    gone, value = service.token(one)
    _, other = service.token(two)
    assert (await service.run(value, one)).status_code == 200
    assert (await service.run(other, two)).status_code == 200
    with service.tenants.tenancy.database.begin() as connection:
        accounts.revoke(connection, "test", one, gone.id)
        accounts.switch(connection, "test", two, on=False)
    deadline = time.monotonic() + 5
    while (await service.run(value, one)).status_code == 200:
        assert time.monotonic() < deadline
    while (await service.run(other, two)).status_code == 200:
        assert time.monotonic() < deadline
    assert said(await service.run(value, one)) == (401, 10000)
    assert said(await service.run(other, two)) == (403, 3023)


async def test_revocation_reaches_every_replica(settings: Settings) -> None:
    """Each of which answers from a memory of its own, and was asked all the time."""
    tenancy = Tenancy.open(settings)
    replicas = [Identity(tenancy.database, tenancy.secret) for _ in range(3)]
    try:
        with tenancy.database.begin() as connection:
            token, value = accounts.issue(connection, "test", ACCOUNT, "t", tenancy.secret)
        for each in replicas:
            assert (await each.check(value.encode(), ACCOUNT)).token == token.id
        with tenancy.database.begin() as connection:
            accounts.revoke(connection, "test", ACCOUNT, token.id)
        deadline, heard = time.monotonic() + 5, set()
        while len(heard) < 3:
            for each in replicas:
                try:
                    await each.check(value.encode(), ACCOUNT)
                except WrongToken:
                    heard.add(each)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        for each in replicas:
            each.close()
        tenancy.database.close()


async def test_a_new_token_works_at_once_even_if_it_was_tried_before(service: Service) -> None:
    account = service.account()
    assert said(await service.run("cfut_not_yet", account)) == (401, 10000)
    service.token(account, value="cfut_not_yet")
    deadline = time.monotonic() + 5
    while (await service.run("cfut_not_yet", account)).status_code == 401:
        assert time.monotonic() < deadline


async def test_known_tokens_need_no_database(service: Service, monkeypatch: Any) -> None:
    """Nor a thread: not on the way of a request."""
    assert (await service.run()).status_code == 200

    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(service.tenants.identity, "_look_up", fail)
    for _ in range(10):
        assert (await service.run()).status_code == 200


async def refused(identity: Identity, token: str) -> None:
    """Return when the token opens nothing any more, which takes less than 5 s."""
    deadline = time.monotonic() + 5
    while True:
        assert time.monotonic() < deadline
        try:
            await identity.check(token.encode(), ACCOUNT)
        except WrongToken:
            return
        await asyncio.sleep(0.01)


async def test_tokens_in_use_are_not_asked_for_again_while_nothing_changes(
    tenants: Tenants,
) -> None:
    """However many there are: only the count of changes is."""
    database, asked = tenants.tenancy.database, []
    await tenants.identity.check(TOKEN.encode(), ACCOUNT)
    await asyncio.sleep(2.5)  # it asks for all once

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(database._engine, "before_cursor_execute", note)
    began = time.monotonic()
    while time.monotonic() - began < 6:
        await tenants.identity.check(TOKEN.encode(), ACCOUNT)
        await asyncio.sleep(0.05)
    assert any("changes" in each for each in asked)
    assert not any("tokens" in each and "FROM" in each for each in asked)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tokens SET revoked_at = 1 WHERE id = :token",
        "DELETE FROM tokens WHERE id = :token",
        "UPDATE tokens SET expires_at = 1 WHERE id = :token",
    ],
)
async def test_what_others_change_in_the_database_takes_effect(
    tenants: Tenants, statement: str
) -> None:
    """An earlier release during an update, or an operator by hand."""
    database, identity = tenants.tenancy.database, tenants.identity
    with database.begin() as connection:
        token, value = accounts.issue(connection, "test", ACCOUNT, "t", tenants.tenancy.secret)
    await identity.check(value.encode(), ACCOUNT)
    with database.begin() as connection:
        connection.execute(text(statement), {"token": token.id})
    await refused(identity, value)


async def test_limits_and_pools_that_others_change_take_effect(tenants: Tenants) -> None:
    database, identity = tenants.tenancy.database, tenants.identity
    with database.begin() as connection:
        accounts.set_limits(connection, "test", ACCOUNT, None, Limits(max_images=3))
    before = await identity.check(TOKEN.encode(), ACCOUNT)
    with database.begin() as connection:
        connection.execute(text("UPDATE limits SET max_images = 2"))
        connection.execute(text("UPDATE accounts SET pool = 'shared'"))
    deadline = time.monotonic() + 5
    while (now := await identity.check(TOKEN.encode(), ACCOUNT)) == before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert now.account_limits.max_images == 2
    assert now.salt != before.salt


async def test_an_answer_from_before_a_change_that_comes_after_it_does_not_stay(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow look-up, during which the token is revoked and the thread sees that."""
    tenancy, identity = tenants.tenancy, tenants.identity
    with tenancy.database.begin() as connection:
        token, value = accounts.issue(connection, "test", ACCOUNT, "t", tenancy.secret)
    select, seen = identity._select, threading.Event()

    def slow(which: Any) -> Any:
        found = select(which)
        if found and not seen.is_set():
            with tenancy.database.begin() as connection:
                accounts.revoke(connection, "test", ACCOUNT, token.id)
            seen.set()
            time.sleep(2.5)  # in which the thread looks
        return found

    monkeypatch.setattr(identity, "_select", slow)
    await identity.check(value.encode(), ACCOUNT)
    await refused(identity, value)


async def test_tokens_are_kept_as_keyed_digests(tenants: Tenants) -> None:
    with tenants.tenancy.database.begin() as connection:
        token, value = accounts.issue(
            connection, "test", ACCOUNT, "t", tenants.tenancy.secret, role="admin"
        )
        everything = str(connection.execute(tables.tokens.select()).all())
        everything += str(connection.execute(tables.audit.select()).all())
    assert value.startswith("cfat_")
    assert len(value) == 45
    assert value not in everything
    assert TOKEN not in everything
    assert token.hint == value[-4:]


async def test_when_a_token_was_used_last_is_written(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.tenancy.identity._SEEN_PERIOD", 0.0)
    await service.run()
    deadline = time.monotonic() + 5
    while True:
        with service.tenants.tenancy.database.begin() as connection:
            (token,) = accounts.tokens_of(connection, ACCOUNT)
        if token.last_used_at is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)  # noqa: ASYNC251 - the thread writes


def test_starting_again_changes_nothing(settings: Settings) -> None:
    for _ in range(2):
        Tenancy.open(settings).database.close()
    opened = Tenancy.open(settings)
    with opened.database.begin() as connection:
        assert [each.id for each in accounts.every(connection)] == [ACCOUNT]
        assert len(accounts.tokens_of(connection, ACCOUNT)) == 1


async def test_a_new_token_of_the_environment_replaces_the_old(settings: Settings) -> None:
    Tenancy.open(settings).database.close()
    changed = settings.model_copy(update={"api_token": "another"})
    tenants = Tenants(changed)
    try:
        assert (await tenants.identity.check(b"another", ACCOUNT)).account == ACCOUNT
        with tenants.tenancy.database.begin() as connection:
            old, new = accounts.tokens_of(connection, ACCOUNT)
        assert old.revoked_at is not None
        assert new.revoked_at is None
    finally:
        tenants.close()


async def test_an_outage_of_the_database(
    on_postgres: Settings, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known tokens go on for the time of grace, unknown ones are told to come back."""
    tenancy = Tenancy.open(on_postgres)
    identity = Identity(tenancy.database, tenancy.secret, grace=6.0)
    try:
        await identity.check(TOKEN.encode(), ACCOUNT)
        postgres.stop()
        began = time.monotonic()
        while time.monotonic() - began < 4.5:
            assert (await identity.check(TOKEN.encode(), ACCOUNT)).account == ACCOUNT
            await asyncio.sleep(0.05)
        with pytest.raises(StoreDown):
            await identity.check(b"never seen", ACCOUNT)
        while time.monotonic() - began < 7:
            time.sleep(0.1)  # noqa: ASYNC251
        with pytest.raises(StoreDown):
            await identity.check(TOKEN.encode(), ACCOUNT)
        postgres.start()
        assert (await identity.check(TOKEN.encode(), ACCOUNT)).account == ACCOUNT
    finally:
        if postgres.process is None:
            postgres.start()
        identity.close()
        tenancy.database.close()
