"""What clients find when the process that answers them is killed, or HAProxy's before it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import cloudflare
import httpx
import openai
import pytest
from ray.serve._private import haproxy
from sqlalchemy import select

from serving.cluster import truncation
from serving.cluster.tenants import Tenancy
from serving.settings import Settings
from serving.tenancy import ledger, record, tables
from tests.cluster.test_affinity import ONE, Proxy, Replica, before, patched, running
from tests.servers import free_port
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN, bearer, nothing_set, path, sqlite

__all__ = ["nothing_set", "patched", "sqlite"]  # the fixtures

PROMPT = "a " * 200
"""The engine echoes it, in 10 seconds."""
TURNS: Any = [{"role": "user", "content": PROMPT}]
AGAIN = "Service temporarily unavailable, please try again."


@dataclass
class Served:
    """A replica's process, HAProxy's before it, and what clients use."""

    replica: asyncio.subprocess.Process
    proxy: asyncio.subprocess.Process
    address: str

    @property
    def account(self) -> str:
        return f"{self.address}/client/v4/accounts/{ACCOUNT}/ai"


@pytest.fixture
async def served(tmp_path: Path, sqlite: Settings) -> AsyncIterator[Served]:
    inner, outer = free_port(), free_port()
    command = ("-m", "tests.tenancy.victim", str(inner), str(sqlite.state_dir), "")
    replica = await asyncio.create_subprocess_exec(
        sys.executable, *command, str(tmp_path / "log"), "0.05"
    )
    try:
        async with before(tmp_path, outer, {"a": Replica("a", port=inner)}) as proxy:
            made = Served(replica, proxy, f"http://127.0.0.1:{outer}")
            await _ready(made)
            yield made
    finally:
        if replica.returncode is None:
            replica.kill()
        await replica.wait()


async def _ready(served: Served) -> None:
    async with httpx.AsyncClient(headers=bearer(TOKEN)) as client, asyncio.timeout(60):
        body = {"prompt": "a"}
        while (await client.post(served.address + path(), json=body)).status_code != 200:
            assert served.replica.returncode is None
            await asyncio.sleep(0.1)


Begun = Callable[[], None]
Stream = Callable[[Served, Begun], Awaitable[None]]


def _openai(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.account}/v1", api_key=TOKEN, max_retries=0)


async def chat(served: Served, begun: Begun) -> None:
    async with _openai(served) as client:
        asked = {"model": MODEL, "messages": TURNS}
        async for _ in await client.chat.completions.create(**asked, stream=True):
            begun()


async def completions(served: Served, begun: Begun) -> None:
    async with _openai(served) as client:
        asked: Any = {"model": MODEL, "prompt": PROMPT}
        async for _ in await client.completions.create(**asked, stream=True):
            begun()


async def responses(served: Served, begun: Begun) -> None:
    async with _openai(served) as client:
        asked: Any = {"model": MODEL, "input": PROMPT}
        async for _ in await client.responses.create(**asked, stream=True):
            begun()


async def messages(served: Served, begun: Begun) -> None:
    options: Any = {"base_url": served.account, "api_key": TOKEN, "max_retries": 0}
    async with anthropic.AsyncAnthropic(**options) as client:
        asked: Any = {"model": MODEL, "messages": TURNS, "max_tokens": 256}
        async with client.messages.stream(**asked) as stream:
            async for _ in stream:
                begun()


SDKS: list[Stream] = [chat, completions, responses, messages]


async def native(served: Served, begun: Begun) -> list[str]:
    """The events as they are."""
    found, body = [], {"prompt": PROMPT, "stream": True}
    async with (
        httpx.AsyncClient(headers=bearer(TOKEN), timeout=20) as client,
        client.stream("POST", served.address + path(), json=body) as response,
    ):
        async for line in response.aiter_lines():
            found.append(line)
            begun()
        return [response.headers["cf-ai-req-id"], *filter(None, found)]


async def by_cloudflare(served: Served, begun: Begun) -> list[str]:
    options: Any = {"base_url": f"{served.address}/client/v4", "api_token": TOKEN}
    async with cloudflare.AsyncCloudflare(**options, max_retries=0) as client:
        asked: Any = {"account_id": ACCOUNT, "prompt": PROMPT, "stream": True}
        found = []
        async with client.ai.with_streaming_response.run(MODEL, **asked) as response:
            async for line in response.iter_lines():
                found.append(line)
                begun()
            return [response.headers["cf-ai-req-id"], *filter(None, found)]


async def ended(served: Served, asked: list[Any], victim: asyncio.subprocess.Process) -> list[Any]:
    """What each has seen, or its error, after the process is killed while all are answered."""
    flags = [asyncio.Event() for _ in asked]
    tasks = [
        asyncio.create_task(ask(served, flag.set)) for ask, flag in zip(asked, flags, strict=True)
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*(flag.wait() for flag in flags))
        victim.kill()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_stream_whose_replica_is_killed_ends_with_an_error_of_its_dialect(
    served: Served, sqlite: Settings
) -> None:
    """And no account is charged for it as for a whole answer."""
    asked = [*SDKS, native, by_cloudflare]
    *by_openai, by_anthropic, raw, cloudflares = await ended(served, asked, served.replica)
    for error in by_openai:
        assert isinstance(error, openai.APIError), error
        assert not isinstance(error, openai.APIConnectionError)
        assert (error.code, error.type) == ("3050", "api_error")
        assert AGAIN in error.message
    assert isinstance(by_anthropic, anthropic.APIStatusError), by_anthropic
    assert AGAIN in str(by_anthropic)
    for id_, *events in (raw, cloudflares):
        *texts, last = (json.loads(each.removeprefix("data: ")) for each in events)
        assert all(text["response"] for text in texts)
        assert (last["response"], last["success"]) == ("", False)
        told = {"code": 3050, "message": f"AiError: AiError: {AGAIN} ({id_})"}
        assert last["errors"] == [told]
    assert _outcomes(sqlite) == {"ok": 1, record.CRASHED: len(asked)}


def _outcomes(settings: Settings) -> dict[str, int]:
    """Of all requests, once another replica has shipped what the killed one left."""
    database = Tenancy.open(settings).database
    ledger.ship_left(database, settings.state_dir / "journal")
    with database.begin() as connection:
        found = list(connection.execute(select(tables.usage.c.outcome)).scalars())
    database.close()
    return {each: found.count(each) for each in found}


async def test_a_stream_whose_proxy_is_killed_is_no_whole_answer_to_any_client(
    served: Served,
) -> None:
    """Nobody is left to tell them; they find the connection broken."""
    found = await ended(served, [*SDKS, native, by_cloudflare], served.proxy)
    for error in found[:3]:
        assert isinstance(error, openai.APIConnectionError), error
    for error in found[3:]:
        assert type(error).__name__ == "RemoteProtocolError", error


def events(count: int, size: int) -> bytes:
    """Chunks of one event each, as a replica sends them."""
    event = b"data: " + b"x" * size + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event) * count


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
    b"cf-ai-req-id: an-id\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENTS, WHOLE = HEAD % b"text/event-stream", b"0\r\n\r\n"


def replying(
    monkeypatch: pytest.MonkeyPatch, reply: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """Have replicas write this to whoever asks, and be gone; HAProxy still finds that they live."""
    ask = Replica.answer

    async def send(
        each: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"POST"):
            reader.feed_data(head)
            return await ask(each, reader, writer)
        return await reply(writer)

    monkeypatch.setattr(Replica, "answer", send)


@asynccontextmanager
async def answered(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    *,
    reset: bool = False,
    address: str = ONE,
) -> AsyncIterator[httpx.Response]:
    """The answer of a replica that sends these bytes and is gone."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if reset:
            await asyncio.sleep(0.2)  # what HAProxy has not read by then is lost
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    replying(monkeypatch, reply)
    async with running(folder, 1) as made, made.client.stream("POST", address) as response:
        yield response


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("cut", [0, 5])
async def test_whatever_is_left_of_the_last_event_the_error_is_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, reset: bool
) -> None:
    sent = EVENTS + events(3, 20)
    async with answered(tmp_path, monkeypatch, sent[: len(sent) - cut], reset=reset) as response:
        *_, last = [each async for each in response.aiter_lines() if each]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("api_error", "3050")
    assert error["message"].endswith(" (an-id)")


@pytest.mark.parametrize("cut", [0, 5])
@pytest.mark.parametrize("size", [20, 18_000])
async def test_the_last_event_and_the_end_may_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, cut: int
) -> None:
    """As when HAProxy is busy: here it sleeps while the replica sends and is gone."""
    sent, proxies = EVENTS + events(3, size), list[Proxy]()

    async def reply(writer: asyncio.StreamWriter) -> None:
        proxies[0].process.send_signal(signal.SIGSTOP)
        writer.write(sent[: len(sent) - cut])
        await writer.drain()
        writer.close()
        await asyncio.sleep(0.1)
        proxies[0].process.send_signal(signal.SIGCONT)

    replying(monkeypatch, reply)
    async with running(tmp_path, 1) as made:
        proxies.append(made)
        for _ in range(5):  # the error was missing one time in four
            async with made.client.stream("POST", ONE) as response:
                lines = [each async for each in response.aiter_lines() if each]
            assert len(lines) == 4
            assert "3050" in lines[-1]


async def test_who_reads_slowly_gets_all_that_came_and_then_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answered(tmp_path, monkeypatch, EVENTS + events(400, 50_000)) as response:
        await asyncio.sleep(1)
        *texts, last = [each async for each in response.aiter_lines() if each]
    assert len(texts) == 400
    assert "3050" in last


@pytest.mark.parametrize("name", ["messages", "responses", "responses/"])
async def test_the_error_has_a_name_where_events_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    address = f"/client/v4/accounts/{ACCOUNT}/ai/v1/{name}?beta=true"
    sent = EVENTS + events(1, 20)
    async with answered(tmp_path, monkeypatch, sent, address=address) as response:
        lines = [each async for each in response.aiter_lines() if each]
    assert lines[1] == "event: error"
    assert json.loads(lines[2].removeprefix("data: "))["type"] == "error"


async def test_a_stream_that_ends_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = EVENTS + events(3, 20) + WHOLE
    async with answered(tmp_path, monkeypatch, sent) as response:
        assert (await response.aread()).decode() == ("data: " + "x" * 20 + "\n\n") * 3


async def test_what_is_no_stream_of_events_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = HEAD % b"application/json" + events(1, 20)
    async with answered(tmp_path, monkeypatch, sent) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()


def test_another_template_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", "frontend other\n")
    with pytest.raises(RuntimeError, match="template has changed"):
        truncation.apply()
