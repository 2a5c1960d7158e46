"""No tenant reaches, or learns of, what is another's."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from serving.admission.gate import Gate, Policy
from serving.admission.redis import Shared
from serving.cluster.telemetry import Telemetry
from serving.cluster.tenants import Tenants
from serving.core import Limits, Size
from serving.gateway.routes import ROUTES
from serving.telemetry.shelf import folder
from serving.tenancy import accounts, tables
from tests.servers import free_port
from tests.tenancy.conftest import MODEL, Service, serving

CANARY = "canary-7f3a"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 8}


def paths(account: str) -> list[tuple[str, str]]:
    """Every route of the table under an account, with its verbs, also as AI Gateway has it."""
    found = []
    for route, verbs in ROUTES.items():
        name = f"{route}{MODEL}" if route.endswith("/") else route
        behind = name.removeprefix("ai/")
        for verb in verbs:
            found.append((verb, f"/client/v4/accounts/{account}/{name}"))
            if behind.startswith(("run/", "v1/")):
                found.append((verb, f"/v1/{account}/default/workers-ai/{behind}"))
    return found


async def test_every_route_with_another_tenants_id(service: Service) -> None:
    mine, theirs = service.account(), service.account()
    _, value = service.token(mine)
    async with service.client(value) as client:
        for verb, path in paths(theirs):
            response = await client.request(verb, path, json=CHAT)
            assert response.status_code in (403, 404), (verb, path, response.text)
        opened = [(await client.request(v, p, json=CHAT)).status_code for v, p in paths(mine)]
    assert 200 in opened
    assert {403, 401}.isdisjoint(opened)
    service.tenants._ledger._ship()
    with service.tenants.tenancy.database.begin() as connection:
        charged = {row.account for row in connection.execute(tables.usage.select())}
    assert charged == {mine, ""} or charged == {mine}


async def test_caches_are_salted_by_account_and_shared_in_a_pool(service: Service) -> None:
    with service.tenants.tenancy.database.begin() as connection:
        pooled = [accounts.create(connection, "test", "t", pool="public").id for _ in range(2)]
    alone = [service.account(), service.account()]
    for account in (*alone, *pooled, alone[0]):
        _, value = service.token(account)
        assert (await service.run(value, account)).status_code == 200
    salts = [generation.salt for generation in service.engine.generations]
    assert salts[0] == salts[4] != salts[1]
    assert salts[2] == salts[3] not in salts[:2]
    assert all(len(salt) == 32 for salt in salts)
    assert all(account not in salts for account in (*alone, *pooled))


async def test_what_was_said_is_kept_nowhere(
    tenants: Tenants, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In no log, metric, journal, table or limit: in any dialect, with requests that work, that
    are wrong, and that break the engine."""
    caplog.set_level(logging.DEBUG)
    settings = tenants._settings.model_copy(update={"metrics_port": free_port()})
    telemetry, limits = Telemetry(settings), Shared(redis.url, tenants.used)
    gate = Gate(Policy(slots=4), limits, lambda _: Size(4), tenants.price)
    observers = telemetry.observers(tenants.price)
    async with serving(tenants, admission=gate, observers=observers) as service:
        value = await _said(service)
    await limits.close()
    metrics = b"".join(file.read_bytes() for file in folder(settings.state_dir).iterdir())
    telemetry.close()
    ours = [r for r in caplog.records if r.name.split(".")[0] not in ("httpx", "httpcore")]
    log = "\n".join(r.getMessage() + str(r.exc_text or "") for r in ours)
    journals = tenants._ledger._journal.file.parent
    journal = b"".join(file.read_bytes() for file in journals.iterdir())
    tenants._ledger._ship()
    rows, counts = _rows(tenants), await _counts(redis.url)
    # That there is something to be found in each.
    assert "undeclared RuntimeError" in log
    assert b"ai/run" in metrics
    assert MODEL.encode() in journal
    assert MODEL in rows
    assert ":tokens" in counts
    for kept in (log, str(metrics), str(journal), rows, counts):
        assert CANARY not in kept
        assert value not in kept


async def _said(service: Service) -> str:
    """Say it to every route; the token it was said with."""
    account = service.account()
    _, value = service.token(account)
    with service.tenants.tenancy.database.begin() as connection:
        limits = Limits(tokens_per_minute=10**6, concurrent_requests=9, tokens_per_day=10**6)
        accounts.set_limits(connection, "test", account, None, limits)
    async with service.client(value) as client:
        for broken in (False, True):
            service.engine.faults.refuse = RuntimeError(CANARY) if broken else None
            for verb, path in paths(account):
                await client.request(verb, path, json=CHAT)
                await client.request(verb, path, json=CHAT | {"stream": True, "top_p": CANARY})
    return value


def _rows(tenants: Tenants) -> str:
    """All that is in the database."""
    with tenants.tenancy.database.begin() as connection:
        tables_ = tables.metadata.sorted_tables
        return str([tuple(row) for each in tables_ for row in connection.execute(each.select())])


async def _counts(url: str) -> str:
    """All that is in a Redis."""
    read = {"string": Redis.get, "zset": partial(Redis.zrange, start=0, end=-1)}
    async with Redis.from_url(url, decode_responses=True) as client:
        kinds = {key: await client.type(key) async for key in client.scan_iter()}
        kept = {key: kind for key, kind in kinds.items() if kind != "none"}  # it may just end
        return str([(key, await read[kind](client, key)) for key, kind in kept.items()])
