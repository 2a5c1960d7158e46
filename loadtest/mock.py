"""A server without a model that stamps its own truth: `loadtest mock`, and the calibration.

It speaks both dialects, writes its frames at absolute times, and says in each when it was written
and at the end what a perfect client would have measured (`truth`). `GET /truth` sums that up.
It can be slow, refuse and break in every way that `core.Failure` knows.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import httptools
import msgspec

from loadtest.core import Failure
from loadtest.distributions import Distribution
from loadtest.histogram import Histogram

_encode = msgspec.json.Encoder().encode
_BLOCK = 16  # words of a block of the prefix cache
_CACHED = 100_000
_CLOSED = {Failure.TRUNCATED, Failure.CONNECT}


@dataclass(frozen=True, slots=True)
class Manners:
    """How it answers. Times in seconds; `faults` are shares of requests by kind of failure."""

    ttft: Distribution = field(default_factory=lambda: Distribution.parse(0.05))
    itl: Distribution = field(default_factory=lambda: Distribution.parse(0.02))
    faults: tuple[tuple[str, float], ...] = ()
    together: int = 1  # tokens in one frame
    capacity: int = 1_000_000  # requests served at a time; more wait
    seed: int = 0


@dataclass(slots=True)
class Truth:
    """What all answers so far were, by the server's clock."""

    requests: int = 0
    tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ttft: Histogram = field(default_factory=Histogram)
    itl: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def metrics(self) -> str:
        """For `GET /metrics`: the few of vLLM's that a decomposition needs."""
        times = {"time_to_first_token": self.ttft, "request_queue_time": self.queue}
        lines = [
            f"vllm:{name}_seconds_{part} {value}"
            for name, each in times.items()
            for part, value in (("sum", each.total / 1e6), ("count", each.count))
        ]
        lines.append(f"vllm:prefix_cache_queries_total {self.prompt_tokens}")
        lines.append(f"vllm:prefix_cache_hits_total {self.cached_tokens}")
        return "\n".join(lines) + "\n"

    def summary(self) -> dict[str, Any]:
        """For `GET /truth`."""
        shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
        times = {
            f"{name}_ms": {
                **{p: 1e3 * each.quantile(share) for p, share in shares.items()},
                "mean": 1e3 * each.mean,
                "count": each.count,
            }
            for name, each in (("ttft", self.ttft), ("itl", self.itl))
        }
        return {"requests": self.requests, "tokens": self.tokens, "faults": self.faults, **times}


class Mock:
    """The state that connections share."""

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.truth = Truth()
        self.rng = random.Random(f"mock {manners.seed}")
        self.gate = asyncio.Semaphore(manners.capacity)
        self._seen: OrderedDict[int, None] = OrderedDict()

    def fault(self) -> str:
        """What is to go wrong with a request; mostly nothing."""
        mark = self.rng.random()
        for kind, share in self.manners.faults:
            mark -= share
            if mark < 0:
                return kind
        return ""

    def prompt(self, body: dict[str, Any]) -> tuple[int, int]:
        """Tokens of the prompt and how many of them a prefix cache would have held."""
        words = _words(body)
        cached, key = 0, 0
        for begin in range(0, len(words) - _BLOCK + 1, _BLOCK):
            key = hash((key, *words[begin : begin + _BLOCK]))
            if key in self._seen:
                cached += _BLOCK
                self._seen.move_to_end(key)
            else:
                self._seen[key] = None
        while len(self._seen) > _CACHED:
            self._seen.popitem(last=False)
        return len(words), cached


class _Connection(asyncio.Protocol):
    """One request at a time, as HTTP clients send them."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._task: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._arrived = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._body, self._path = b"", b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._path.endswith(b"/truth"):
            self._json(200, self._mock.truth.summary())
            return
        if self._path.endswith(b"/metrics"):
            self._write(200, "text/plain", self._mock.truth.metrics().encode())
            return
        try:
            body = msgspec.json.decode(self._body)
        except msgspec.MsgspecError:
            self._json(400, _problem(5006, "not JSON"))
            return
        answer = _Answer(self._mock, self, body, b"/ai/run/" in self._path, self._arrived)
        self._task = asyncio.ensure_future(answer.give())

    def _json(self, status: int, body: Any, headers: str = "") -> None:
        self._write(status, "application/json", _encode(body), headers)

    def _write(self, status: int, kind: str, data: bytes, headers: str = "") -> None:
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        self.transport.write(head.encode() + data)


class _Answer:
    """One answer on its way."""

    def __init__(
        self, mock: Mock, connection: _Connection, body: dict[str, Any], native: bool, at: float
    ) -> None:
        self._mock, self._connection, self._arrived = mock, connection, at
        self._native = native
        self._stream = bool(body.get("stream"))
        self._tokens = int(body.get("max_tokens") or 256)
        self._prompt, self._cached = mock.prompt(body)
        self._stamps: list[float] = []
        self._due = self._queued = 0.0

    async def give(self) -> None:
        """Write it, or what is to go wrong instead."""
        fault = self._mock.fault()
        self._mock.truth.faults[fault or "none"] += 1
        if fault.startswith("http_"):
            self._refuse(fault)
        elif fault == Failure.TIMEOUT:
            await asyncio.Event().wait()
        elif fault in _CLOSED and not self._stream:
            self._connection.transport.abort()
        else:
            async with self._mock.gate:
                self._queued = time.perf_counter() - self._arrived
                await (self._frames(fault) if self._stream else self._whole(fault))

    def _refuse(self, fault: str) -> None:
        status = int(fault.split("_")[1])
        wait = (
            "" if fault.endswith("without_retry_after") or status != 429 else "Retry-After: 1\r\n"
        )
        code = 3040 if status == 429 else 3043
        self._connection._json(status, _problem(code, "injected"), wait)

    async def _whole(self, fault: str) -> None:
        for index in range(self._tokens):
            await self._pause(index)
        text = "" if fault == Failure.EMPTY else " token" * self._tokens
        result: dict[str, Any] = {"usage": self._usage()}
        if self._native:
            body = {"result": {"response": text, **result}, "success": True, "errors": []}
        else:
            body = {"choices": [{"message": {"content": text}}], **result}
        if fault == Failure.IN_200:
            body = _problem(3043, "injected")
        self._connection._json(200, body)
        self._account()

    async def _frames(self, fault: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        self._connection.transport.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        step = self._mock.manners.together
        for index in range(0, 0 if fault == Failure.EMPTY else self._tokens, step):
            await self._pause(index)
            if fault and index >= self._tokens // 2:
                self._break(fault)
                return
            self._token(min(step, self._tokens - index))
        self._event({"usage": self._usage(), "response": "", "truth": self._truth()})
        self._connection.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self._account()

    async def _pause(self, index: int) -> None:
        """Until the next frame is due; absolute, so that delays do not add up."""
        manners = self._mock.manners
        wait = (manners.itl if index else manners.ttft).draw(self._mock.rng)
        self._due = (self._due if index else time.perf_counter()) + wait
        await asyncio.sleep(self._due - time.perf_counter())

    def _token(self, count: int) -> None:
        text = " token" * count
        now = time.perf_counter()
        self._stamps.append(now)
        if self._native:
            data = b'data: {"response":"%s","sent":%d}\n\n' % (text.encode(), now * 1e6)
        else:
            data = b'data: {"choices":[{"delta":{"content":"%s"}}],"sent":%d}\n\n' % (
                text.encode(),
                now * 1e6,
            )
        self._connection.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _event(self, body: Any) -> None:
        data = b"data: " + _encode(body) + b"\n\n"
        self._connection.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _break(self, fault: str) -> None:
        if fault == Failure.IN_200:
            self._event({"response": "", **_problem(3043, "injected")})
            self._connection.transport.write(b"0\r\n\r\n")
        else:
            self._connection.transport.abort()

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt + self._tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }

    def _truth(self) -> dict[str, int]:
        """Microseconds: on a clock that processes of one machine share, and from arrival."""
        if not self._stamps:
            return {}
        return {
            "arrived": round(self._arrived * 1e6),
            "first": round(self._stamps[0] * 1e6),
            "last": round(self._stamps[-1] * 1e6),
        }

    def _account(self) -> None:
        truth, stamps = self._mock.truth, self._stamps
        truth.requests += 1
        truth.tokens += self._tokens
        truth.prompt_tokens += self._prompt
        truth.cached_tokens += self._cached
        truth.queue.add(self._queued)
        if stamps:
            truth.ttft.add(stamps[0] - self._arrived)
            truth.itl.extend([round((b - a) * 1e6) for a, b in pairwise(stamps)])


def _problem(code: int, message: str) -> dict[str, Any]:
    errors = [{"code": code, "message": message}]
    return {"result": {}, "success": False, "errors": errors, "messages": []}


def _words(body: dict[str, Any]) -> list[str]:
    """The words of a prompt; a picture is one."""
    words = str(body.get("prompt") or "").split()
    for message in body.get("messages") or []:
        content = message.get("content") or ""
        for part in [{"text": content}] if isinstance(content, str) else content:
            words += str(part.get("text") or "<image>").split()
    return words


async def start(
    manners: Manners, host: str, port: int, context: ssl.SSLContext | None = None
) -> tuple[asyncio.Server, Mock]:
    """Listen; with a `context`, over TLS.

    Raises:
        OSError: the port is taken.
    """
    mock = Mock(manners)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(mock), host, port, backlog=4096, ssl=context
    )
    return server, mock
