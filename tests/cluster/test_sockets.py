"""How HAProxy, configured as Ray Serve configures it, reaches a replica that Serve starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from ray.serve._private import replica
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from serving.cluster import sockets
from tests.cluster.test_affinity import Replica, before, patched
from tests.servers import free_port

__all__ = ["patched"]  # the fixture


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where HAProxy's own socket is, and so all others."""
    monkeypatch.setattr(sockets, "RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "made" / "s"))
    return tmp_path


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says by which way a request came."""
    said = b"tcp" if scope["client"] else b"file"
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@asynccontextmanager
async def serving(port: int) -> AsyncIterator[uvicorn.Server]:
    """A replica's server, started as Serve does it."""
    task, server = await replica.start_asgi_http_server(
        app, HTTPOptions(host="127.0.0.1", port=port), event_loop=asyncio.get_running_loop()
    )
    try:
        yield server
    finally:
        server.should_exit = True
        await task


async def asked(port: int) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/any")).text


async def test_a_replica_on_the_same_node_is_reached_by_a_file_and_by_others_by_its_port(
    folder: Path,
) -> None:
    inner, outer = free_port(), free_port()
    async with serving(inner), before(folder, outer, {"a": Replica("a", port=inner)}):
        assert await asked(outer) == "file"
        assert await asked(inner) == "tcp"
    assert sockets.path(inner).stat().st_mode & 0o077 == 0


async def test_what_a_killed_replica_leaves_is_in_nobodys_way(folder: Path) -> None:
    inner, outer = free_port(), free_port()
    async with serving(inner):
        assert sockets.path(inner).is_socket()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(sockets.path(inner))
    async with serving(inner), before(folder, outer, {"a": Replica("a", port=inner)}):
        assert await asked(outer) == "file"


def test_replicas_of_other_nodes_are_reached_by_their_ports(folder: Path) -> None:
    file, port = folder / "haproxy.cfg", free_port()
    sockets.path(port).parent.mkdir()
    sockets.path(port).touch()  # no socket
    servers = [ServerConfig("a", "10.0.0.9", 30000), ServerConfig("b", "127.0.0.1", port)]
    config = HAProxyConfig(socket_path=str(folder / "s"), http_options=HTTPOptions(port=1))
    backends = {"app": BackendConfig("app", "/", servers=servers)}
    HAProxyApi(config, backends, str(file))._generate_config_file_internal()
    text = file.read_text()
    assert "server a 10.0.0.9:30000 check" in text
    assert f"server b 127.0.0.1:{port} check" in text
