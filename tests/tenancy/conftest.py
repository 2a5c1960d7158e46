"""Tenants on each kind of database, and a gateway over a real socket in front of a fake engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn

from serving.catalog import Catalog, Model
from serving.cluster.tenants import Tenants
from serving.engine.fake import FakeEngine
from serving.gateway.app import Gateway
from serving.gateway.receipts import Observer
from serving.settings import Settings
from serving.tenancy import accounts

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "environment-token"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"


def path(account: str = ACCOUNT) -> str:
    return f"/client/v4/accounts/{account}/ai/run/{MODEL}"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    """Settings of a deployment with the embedded database."""
    return Settings(state_dir=tmp_path / "state", account_id=ACCOUNT, api_token=TOKEN)


@pytest.fixture
def on_postgres(sqlite: Settings, postgres: Any) -> Settings:
    """Settings of a deployment with an empty PostgreSQL."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return Settings.model_validate(sqlite.model_dump() | {"database_url": postgres.url})


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of a deployment, on each database in turn."""
    name = {"sqlite": "sqlite", "postgresql": "on_postgres"}[request.param]
    found: Settings = request.getfixturevalue(name)
    return found


@pytest.fixture
def tenants(settings: Settings) -> Iterator[Tenants]:
    opened = Tenants(settings)
    yield opened
    opened.close()


@dataclass
class Service:
    """A replica's gateway with its tenants and a fake engine."""

    tenants: Tenants
    engine: FakeEngine
    gateway: Gateway
    port: int = 0

    def client(self, token: str = TOKEN) -> httpx.AsyncClient:
        url = f"http://127.0.0.1:{self.port}"
        return httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=30)

    async def run(self, token: str = TOKEN, account: str = ACCOUNT, **body: Any) -> httpx.Response:
        async with self.client(token) as client:
            return await client.post(path(account), json={"prompt": "one two", **body})

    def account(self, name: str = "a tenant") -> str:
        """A new account's id."""
        with self.tenants.tenancy.database.begin() as connection:
            return accounts.create(connection, "test", name).id

    def token(self, account: str, **options: Any) -> tuple[accounts.Token, str]:
        """A new token and its secret."""
        tenancy = self.tenants.tenancy
        with tenancy.database.begin() as connection:
            return accounts.issue(connection, "test", account, "t", tenancy.secret, **options)


@pytest.fixture
async def service(tenants: Tenants) -> AsyncIterator[Service]:
    async with serving(tenants) as made:
        yield made


@asynccontextmanager
async def serving(
    tenants: Tenants,
    engine: FakeEngine | None = None,
    model: Model | None = None,
    observers: Iterable[Observer] = (),
    **options: Any,
) -> AsyncIterator[Service]:
    """The gateway of a replica over uvicorn, in the loop of the test."""
    engine = engine or FakeEngine()
    model = model or Model(id=MODEL, checkpoint=Path(), context_window=2048, max_images=2)
    gateway = Gateway(
        engine,
        Catalog(model),
        tenants.identity,
        begin=tenants.meter.begin,
        admin=tenants.admin,
        observers=[tenants.meter.end, *observers],
        **options,
    )
    made = Service(tenants, engine, gateway)
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(gateway, log_level="error", access_log=False))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield made
    finally:
        server.should_exit = server.force_exit = True
        await running
