"""A gateway on a real socket, in the loop of the test."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from serving.catalog import Catalog, Model
from serving.core import Receipt
from serving.engine.fake import FakeEngine
from serving.gateway.app import Gateway
from serving.gateway.auth import Credentials

ACCOUNT = "023e105f4ecef8ad9ca31a8372d0c353"
TOKEN = "s3cret-token"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Service:
    """A gateway, what is around it, and where it listens."""

    engine: FakeEngine
    options: dict[str, Any] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    gateway: Gateway = field(init=False)
    port: int = 0

    def __post_init__(self) -> None:
        model = Model(id=MODEL, checkpoint=Path(), context_window=2048, max_images=2)
        self.gateway = Gateway(
            self.engine,
            Catalog(model),
            Credentials(ACCOUNT, TOKEN),
            max_body_bytes=100_000,
            observers=[self.receipts.append],
            **self.options,
        )

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=BEARER)

    async def post(self, body: Any, path: str = PATH, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=body, **options)

    async def frames(self, body: dict[str, Any]) -> list[Any]:
        """The decoded events of a stream."""
        response = await self.post({**body, "stream": True})
        assert response.headers["content-type"] == "text/event-stream", response.text
        datas = [event.removeprefix("data: ") for event in response.text.split("\n\n")[:-1]]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]

    @asynccontextmanager
    async def connected(self, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
        """A bare connection that has sent a request and can leave at any moment."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**10)
        data = json.dumps(body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        try:
            yield reader
        finally:
            writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The service over uvicorn."""
    async with listening(Service(FakeEngine())) as service:
        yield service


@asynccontextmanager
async def listening(service: Service) -> AsyncIterator[Service]:
    """The service while it listens on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    service.port = listener.getsockname()[1]
    config = uvicorn.Config(service.gateway, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    yield service
    server.should_exit = server.force_exit = True
    await running


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait for something to become true, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.005)
