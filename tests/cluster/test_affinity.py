"""Where HAProxy, configured as Ray Serve configures it, sends the requests of sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from ray.serve._private import haproxy, replica
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from serving.cluster import affinity, hook
from tests.servers import free_port

NAMES = ("a", "b", "c")
ONE, OTHER = "/client/v4/accounts/one/ai/run", "/client/v4/accounts/other/ai/run"


@dataclass
class Replica:
    """Answers with its name; requests to `/slow` only when it is `released`."""

    name: str
    server: asyncio.Server = field(init=False)
    port: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/slow" in head:
                await self.released.wait()
            told = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n{self.name}"
            writer.write(told.encode())
            await writer.drain()
        writer.close()


@dataclass
class Proxy:
    """A running HAProxy and the replicas behind it."""

    client: httpx.AsyncClient
    replicas: dict[str, Replica]

    async def replica(self, session: str | None, path: str = ONE) -> str:
        """The name of the replica that answers."""
        headers = {} if session is None else {affinity.HEADER: session}
        return (await self.client.get(path, headers=headers)).text


@asynccontextmanager
async def running(folder: Path, count: int) -> AsyncIterator[Proxy]:
    replicas = {name: Replica(name) for name in NAMES[:count]}
    async with AsyncExitStack() as stack:
        for each in replicas.values():
            await each.start()
            stack.callback(each.server.close)
            stack.callback(each.released.set)
        port = free_port()
        await stack.enter_async_context(_haproxy(folder, port, replicas))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)
        yield Proxy(await stack.enter_async_context(client), replicas)


@asynccontextmanager
async def _haproxy(folder: Path, port: int, replicas: dict[str, Replica]) -> AsyncIterator[None]:
    """With the configuration that Ray writes for these replicas; Ray itself does not run."""
    config = HAProxyConfig(
        socket_path=str(folder / "s"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=free_port(),
        metrics_port=free_port(),
        metrics_enabled=False,
        health_check_inter="2s",  # and the longest that a check may take
        health_check_fastinter="200ms",
        health_check_downinter="200ms",
        http_options=HTTPOptions(host="127.0.0.1", port=port),
    )
    servers = [ServerConfig(name, "127.0.0.1", each.port) for name, each in replicas.items()]
    backend = BackendConfig("app", "/", servers=servers, http_health_check_path="/ready")
    file = folder / "haproxy.cfg"
    HAProxyApi(config, {"app": backend}, str(file))._generate_config_file_internal()
    command = (haproxy.get_haproxy_binary(), "-db", "-f", str(file))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(10):
            while not await _listens(port):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture(autouse=True)
def _patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Ray's worker processes, for the length of a test."""
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", haproxy.HAPROXY_CONFIG_TEMPLATE)
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)
    hook.apply()


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running(tmp_path, 3) as made:
        yield made


async def test_a_session_stays_with_one_replica_and_sessions_are_spread(proxy: Proxy) -> None:
    sessions = [f"ses_{n}" for n in range(60)]
    first = [await proxy.replica(session) for session in sessions]
    assert [await proxy.replica(session) for session in sessions] == first
    assert all(count >= 10 for count in Counter(first).values())
    assert set(first) == set(NAMES)


async def test_sessions_of_one_name_in_two_accounts_are_two(proxy: Proxy) -> None:
    sessions = [f"ses_{n}" for n in range(30)]
    mine = [await proxy.replica(session, ONE) for session in sessions]
    theirs = [await proxy.replica(session, OTHER) for session in sessions]
    assert mine != theirs


async def test_requests_without_a_session_go_round(proxy: Proxy) -> None:
    assert {await proxy.replica(None) for _ in range(9)} == set(NAMES)


async def test_a_session_whose_replica_is_gone_goes_elsewhere_and_comes_back(
    proxy: Proxy,
) -> None:
    home = await proxy.replica("ses")
    gone = proxy.replicas[home]
    gone.server.close()
    assert await proxy.replica("ses") in set(NAMES) - {home}
    await gone.start()
    async with asyncio.timeout(10):
        while await proxy.replica("ses") != home:  # noqa: ASYNC110 - HAProxy decides
            await asyncio.sleep(0.05)


async def test_a_session_leaves_a_replica_that_has_twice_its_share(proxy: Proxy) -> None:
    """Its first requests wait where the session is, the many after them do not."""
    waiting = [asyncio.create_task(proxy.replica("ses", "/slow")) for _ in range(30)]
    await asyncio.sleep(0.5)
    for each in proxy.replicas.values():
        each.released.set()
    found = Counter([await each for each in waiting])
    assert set(found) == set(NAMES)
    home, most = found.most_common(1)[0]
    assert home == await proxy.replica("ses", "/slow")
    assert 12 <= most <= 26


async def test_a_single_replica_has_no_rules(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as made:
        assert await made.replica("ses") == "a"
    assert "use-server" not in (tmp_path / "haproxy.cfg").read_text()


def test_another_template_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", "backend app\n")
    with pytest.raises(RuntimeError, match="template has changed"):
        affinity.apply()
