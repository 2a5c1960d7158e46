"""Where HAProxy, configured as Ray Serve configures it, sends requests that begin alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve._private import haproxy, replica
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from serving.cluster import affinity, hook
from tests.servers import free_port

NAMES = ("a", "b", "c", "d")
ONE, OTHER = (f"/client/v4/accounts/{digit * 32}/ai/run/@cf/x" for digit in "1e")


@dataclass
class Replica:
    """Answers with its name; requests to `/slow` only when it is `released`."""

    name: str
    server: asyncio.Server = field(init=False)
    port: int = 0
    waiting: int = 0
    head: bytes = b""  # of the last request, in lower case
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = self.head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, announced, rest = head.partition(b"content-length: ")
            if announced:
                await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            if b"/slow" in head:
                self.waiting += 1
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
    process: asyncio.subprocess.Process

    async def replica(self, session: str | None, path: str = ONE) -> str:
        """The name of the replica that answers."""
        headers = {} if session is None else {affinity.HEADER: session}
        return (await self.client.get(path, headers=headers)).text

    async def answered(self, session: str, count: int) -> list[str]:
        """The replicas that answer so many at `/slow`, who all wait together.

        They come one after the other, so that HAProxy has counted each when the next one comes.
        """
        tasks: list[asyncio.Task[str]] = []
        async with asyncio.timeout(20):
            while len(tasks) < count:
                tasks.append(asyncio.create_task(self.replica(session, "/slow")))
                while sum(each.waiting for each in self.replicas.values()) < len(tasks):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        for each in self.replicas.values():
            each.released.set()
        return await asyncio.gather(*tasks)

    async def asked(self, body: Any, path: str = ONE) -> str:
        """The name of the replica that answers a request with this body."""
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.text


@asynccontextmanager
async def running(folder: Path, count: int, names: Sequence[str] = NAMES) -> AsyncIterator[Proxy]:
    replicas = {name: Replica(name) for name in names[:count]}
    async with AsyncExitStack() as stack:
        for each in replicas.values():
            await each.start()
            stack.callback(each.server.close)
            stack.callback(each.released.set)
        port = free_port()
        process = await stack.enter_async_context(before(folder, port, replicas))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)
        yield Proxy(await stack.enter_async_context(client), replicas, process)


@asynccontextmanager
async def before(
    folder: Path, port: int, replicas: dict[str, Replica]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """HAProxy, configured as Ray does it for these replicas; Ray itself does not run."""
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
    backend = BackendConfig("app", "/", servers=servers, http_health_check_path="/-/healthz")
    file = folder / "haproxy.cfg"
    HAProxyApi(config, {"app": backend}, str(file))._generate_config_file_internal()
    command = (haproxy.get_haproxy_binary(), "-db", "-f", str(file))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(10):
            while not await _listens(port):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        yield process
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
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Ray's worker processes, for the length of a test."""
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", haproxy.HAPROXY_CONFIG_TEMPLATE)
    for name in ("add_port_to_grpc_server", "start_asgi_http_server"):
        monkeypatch.setattr(replica, name, getattr(replica, name))
    monkeypatch.setattr(HAProxyApi, "set_backend_configs", HAProxyApi.set_backend_configs)
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
    assert set(first) == set(NAMES[:3])


async def test_sessions_of_one_name_in_two_accounts_are_two(proxy: Proxy) -> None:
    sessions = [f"ses_{n}" for n in range(30)]
    mine = [await proxy.replica(session, ONE) for session in sessions]
    theirs = [await proxy.replica(session, OTHER) for session in sessions]
    assert mine != theirs


async def test_requests_without_a_session_go_round(proxy: Proxy) -> None:
    assert {await proxy.replica(None) for _ in range(9)} == set(NAMES[:3])


async def test_a_session_whose_replica_is_gone_goes_elsewhere_and_comes_back(
    proxy: Proxy,
) -> None:
    home = await proxy.replica("ses")
    gone = proxy.replicas[home]
    gone.server.close()
    assert await proxy.replica("ses") in set(NAMES[:3]) - {home}
    await gone.start()
    async with asyncio.timeout(10):
        while await proxy.replica("ses") != home:  # noqa: ASYNC110 - HAProxy decides
            await asyncio.sleep(0.05)


async def test_a_session_leaves_a_replica_that_has_more_than_its_share(proxy: Proxy) -> None:
    """Hardly more than 1.25 times the mean wait where it is; its others go on in one order."""
    found = Counter(await proxy.answered("ses", 48))
    (home, most), (_, second), (_, least) = found.most_common()
    assert home == await proxy.replica("ses", "/slow")
    assert most <= 24  # if HAProxy takes one of them for down, else 18
    assert least < second


async def test_what_waits_is_few_enough_to_follow_on_idle_replicas(proxy: Proxy) -> None:
    assert len(set(await proxy.answered("ses", 4))) == 1


async def test_a_single_replica_has_no_rules(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as made:
        assert await made.replica("ses") == "a"
    assert "use-server" not in (tmp_path / "haproxy.cfg").read_text()


def test_another_template_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", "backend app\n")
    with pytest.raises(RuntimeError, match="template has changed"):
        affinity.apply()


def question(size: int, seed: int) -> str:
    """Words with what JSON must escape and what it must not take for its own."""
    words = ['"', "\\", '\\"', "{", "}]", "url", '"role":"user"', "assistant", "é", "\n", "words"]
    return " ".join(random.Random(seed).choices(words, k=size))


def about(text: str, picture: str) -> dict[str, Any]:
    """A request of each dialect about a picture in base64: Workers AI's, OpenAI's, Anthropic's."""
    uri = f"data:image/png;base64,{picture}"
    instruction = {"role": "system", "content": text[::-1]}
    source = {"type": "base64", "media_type": "image/png", "data": picture}

    def messages(part: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": text}, part]}]

    return {
        "prompt": {"prompt": text, "image": picture, "max_tokens": 5},
        "messages": {"messages": [instruction, {"role": "user", "content": text}], "image": uri},
        "chat": {
            "messages": [instruction, *messages({"type": "image_url", "image_url": {"url": uri}})]
        },
        "responses": {"input": messages({"type": "input_image", "image_url": uri})},
        "anthropic": {
            "system": text[::-1],
            "messages": messages({"type": "image", "source": source}),
        },
    }


def pictures(count: int, size: int) -> list[str]:
    """Of `size` bytes each, in base64; the first 1,000 are the same, as headers are."""
    head = bytes(1000)
    made = (head + random.Random(seed).randbytes(size - len(head)) for seed in range(count))
    return [b64encode(each).decode() for each in made]


@pytest.mark.parametrize("size", [3_000, 300_000])
async def test_a_picture_goes_to_one_replica_whatever_is_asked_of_it(
    proxy: Proxy, size: int
) -> None:
    homes = []
    for picture in pictures(8, size):
        asked = [
            *about(question(3, 1), picture).values(),
            *about(question(900, 2), picture).values(),
        ]
        found = {await proxy.asked(body) for body in asked}
        assert len(found) == 1
        homes.append(found.pop())
    assert len(set(homes)) > 1


async def test_a_picture_as_a_list_of_numbers_goes_to_one_replica(proxy: Proxy) -> None:
    for size in (500, 60_000):
        homes = []
        for seed in range(8):
            picture = list(random.Random(seed).randbytes(size))
            bodies = [{"prompt": question(n, n), "image": picture} for n in (1, 50)]
            bodies.append({"image": picture, "messages": [{"role": "user", "content": "else"}]})
            found = {await proxy.asked(body) for body in bodies}
            assert len(found) == 1
            homes.append(found.pop())
        assert len(set(homes)) > 1


async def test_a_conversation_stays_with_one_replica_as_it_grows(proxy: Proxy) -> None:
    """All have the same instructions, and still are spread."""
    instruction = {"role": "system", "content": question(40, 0)}
    homes = []
    for seed in range(1, 13):
        turns = [instruction]
        found = set()
        for turn in range(3):
            turns.append({"role": "user", "content": question(10 * seed, seed + turn)})
            found.add(await proxy.asked({"messages": turns, "max_tokens": turn}))
            turns.append({"content": question(1000, turn), "role": "assistant"})
        assert len(found) == 1
        homes.append(found.pop())
    assert set(homes) == set(NAMES[:3])


async def test_a_long_prompt_goes_where_its_beginning_went(proxy: Proxy) -> None:
    homes = []
    for seed in range(12):
        prompt = question(400, seed)
        found = {await proxy.asked({"prompt": prompt + question(n, n)}) for n in (0, 5, 30_000)}
        assert len(found) == 1
        homes.append(found.pop())
    assert set(homes) == set(NAMES[:3])


async def test_one_picture_of_two_accounts_is_two(proxy: Proxy) -> None:
    made = [{"prompt": "What?", "image": picture} for picture in pictures(20, 3_000)]
    mine = [await proxy.asked(body, ONE) for body in made]
    assert mine != [await proxy.asked(body, OTHER) for body in made]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"messages": [', b'{"image": ""}', b'{"a": "\\', b"[" * 99_999],
)
async def test_what_begins_like_nothing_known_goes_round(proxy: Proxy, body: bytes) -> None:
    asked = [await proxy.client.post(ONE, content=body) for _ in range(9)]
    assert {each.status_code for each in asked} == {200}
    assert {each.text for each in asked} == set(NAMES[:3])


async def test_a_replica_that_goes_or_comes_moves_its_share_only(tmp_path: Path) -> None:
    """Ray's replacement of a replica has another name, and a place of its own in the list."""
    bodies = [{"prompt": question(200, seed)} for seed in range(80)]
    homes: list[dict[int, str]] = []
    for index, names in enumerate((("a", "b", "c", "d"), ("d", "c", "a"), ("a", "e", "c", "d"))):
        folder = tmp_path / str(index)
        folder.mkdir()
        async with running(folder, len(names), names) as made:
            homes.append({n: await made.asked(body) for n, body in enumerate(bodies)})
    before, less, after = homes
    assert {n: less[n] for n, home in before.items() if home != "b"} == {
        n: home for n, home in before.items() if home != "b"
    }
    assert {n: home for n, home in after.items() if home != "e"} == {
        n: less[n] for n, home in after.items() if home != "e"
    }
    assert 8 <= sum(home == "e" for home in after.values()) <= 32


async def test_a_body_in_pieces_is_awaited(proxy: Proxy) -> None:
    picture = pictures(1, 200_000)[0]
    body = json.dumps({"prompt": "What?", "image": picture}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, len(body), 50_000):
            yield body[first : first + 50_000]
            await asyncio.sleep(0.05)

    length = {"content-length": str(len(body))}
    answer = await proxy.client.post(ONE, content=pieces(), headers=length)
    assert answer.text == await proxy.asked({"prompt": "And?", "image": picture})
