"""No tenant reaches, or learns of, what is another's."""

from __future__ import annotations

import logging

import pytest

from serving.cluster.telemetry import Telemetry
from serving.cluster.tenants import Tenants
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


async def test_what_was_said_is_in_no_log_no_metric_and_no_error(
    tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    """In any dialect, with requests that work, that are wrong, and that break the engine."""
    caplog.set_level(logging.DEBUG)
    settings = tenants._settings.model_copy(update={"metrics_port": free_port()})
    telemetry = Telemetry(settings)
    async with serving(tenants, observers=telemetry.observers(tenants.price)) as service:
        await _said_nowhere(service, caplog)
    kept = b"".join(file.read_bytes() for file in folder(settings.state_dir).iterdir())
    telemetry.close()
    assert b"ai/run" in kept
    assert CANARY.encode() not in kept


async def _said_nowhere(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    account = service.account()
    _, value = service.token(account)
    async with service.client(value) as client:
        for broken in (False, True):
            service.engine.faults.refuse = RuntimeError(CANARY) if broken else None
            for verb, path in paths(account):
                await client.request(verb, path, json=CHAT)
                await client.request(verb, path, json=CHAT | {"stream": True, "top_p": CANARY})
    ours = [r for r in caplog.records if r.name.split(".")[0] not in ("httpx", "httpcore")]
    said = "\n".join(r.getMessage() + str(r.exc_text or "") for r in ours)
    assert "undeclared RuntimeError" in said
    assert CANARY not in said
    assert value not in said
    service.tenants._ledger._ship()
    journals = service.tenants._ledger._journal.file.parent
    assert CANARY.encode() not in b"".join(file.read_bytes() for file in journals.iterdir())
