"""A closed-loop HTTP client for loopback, lean enough to share the machine with what it loads.

Each of N connections sends its next request when the last one is answered, until the given requests
are used up: load is bounded in number, and the servers in how long they may take. Nothing is parsed
on the way but what tells that an answer has begun, has ended, and how many tokens it had.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

HOST = "127.0.0.1"
# An answer's last bytes, in which its usage is.
_TAIL = 1024
_EVENT = b"data: "
_COMPLETION = re.compile(rb'"completion_tokens": ?(\d+)')
_PROMPT = re.compile(rb'"prompt_tokens": ?(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from sending the request to the first byte of the body and to the last."""

    status: int
    first: float
    last: float
    tail: bytes
    events: int  # of the event stream; 0 in a plain answer
    ended: float = 0.0  # by `time.perf_counter`

    @property
    def completion_tokens(self) -> int:
        """By the answer's own count; -1 if it has none."""
        return _count(_COMPLETION, self.tail)

    @property
    def prompt_tokens(self) -> int:
        """By the answer's own count; -1 if it has none."""
        return _count(_PROMPT, self.tail)


def _count(pattern: re.Pattern[bytes], tail: bytes) -> int:
    found = pattern.findall(tail)
    return int(found[-1]) if found else -1


@dataclass(frozen=True, slots=True)
class Burst:
    """Answers in the order they ended, and the seconds all of them took together."""

    answers: list[Answer]
    seconds: float

    def failures(self, tokens: int, fewest: int | None = None) -> int:
        """How many were not a 200 with exactly `tokens` tokens, or with `fewest` to `tokens`."""
        right = range(tokens if fewest is None else fewest, tokens + 1)
        return sum(a.status != 200 or a.completion_tokens not in right for a in self.answers)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._answer: asyncio.Future[Answer] | None = None

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._tail = b"", b""
        self._events = 0
        self._status, self._left = 0, 0  # bytes left of the body; -1: until the last chunk
        self._first: float | None = None
        self._sent = time.perf_counter()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else -1
        if data or self._left == 0:
            self._body(data)

    def _body(self, data: bytes) -> None:
        now = time.perf_counter() - self._sent
        if self._first is None:
            self._first = now
        self._tail = (self._tail + data)[-_TAIL:]
        self._events += data.count(_EVENT)
        if self._left >= 0:
            self._left -= len(data)
        if self._left == 0 or (self._left < 0 and self._tail.endswith(b"0\r\n\r\n")):
            ended = self._sent + now
            self._end(Answer(self._status, self._first, now, self._tail, self._events, ended))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Answer(0, 0.0, 0.0, b"", 0))

    def _end(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


async def burst(port: int, requests: Sequence[bytes], concurrency: int, limit: float) -> Burst:
    """Send `requests` over `concurrency` connections to a port of this machine.

    Raises:
        OSError: nobody listens.
        TimeoutError: not all were answered within `limit` seconds.
    """
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(_Connection, HOST, port))[1] for _ in range(concurrency)
    ]
    answers: list[Answer] = []
    rest = iter(requests)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(limit):
            await asyncio.gather(*(_loop(each, rest, answers) for each in connections))
        return Burst(answers, time.perf_counter() - began)
    finally:
        for each in connections:
            each.transport.close()


async def _loop(connection: _Connection, rest: Iterator[bytes], answers: list[Answer]) -> None:
    for request in rest:
        answer = await connection.ask(request)
        answers.append(answer)
        if answer.status == 0:  # the connection is gone
            return


def post(path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """A request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Seconds between random moments, `rate` a second on average, without end."""
    generator = random.Random(seed)
    while True:
        yield generator.expovariate(rate)


async def paced(port: int, requests: Sequence[bytes], gaps: Iterable[float]) -> list[Answer]:
    """Send each request so many seconds after the last, whatever is answered when."""
    connections: list[_Connection] = []
    idle: list[_Connection] = []
    asked: list[asyncio.Task[Answer]] = []
    try:
        for request, gap in zip(requests, gaps, strict=False):
            await asyncio.sleep(gap)
            # Servers end connections that were silent for long.
            idle[:] = [each for each in idle if not each.transport.is_closing()]
            if not idle:
                idle.append(await _connect(port))
                connections.append(idle[-1])
            asked.append(asyncio.create_task(_once(idle.pop(), request, idle)))
        return await asyncio.gather(*asked)
    finally:
        for each in connections:
            each.transport.close()


async def flood(
    port: int, requests: Iterator[bytes], concurrency: int, seconds: float
) -> list[Answer]:
    """Keep `concurrency` requests under way; the answers that ended within `seconds`."""
    connections = [await _connect(port) for _ in range(concurrency)]
    answers: list[Answer] = []
    loops = [asyncio.create_task(_loop(each, requests, answers)) for each in connections]
    await asyncio.sleep(seconds)
    ended = list(answers)
    for each, running in zip(connections, loops, strict=True):
        running.cancel()
        each.transport.close()
    return ended


async def _connect(port: int) -> _Connection:
    return (await asyncio.get_running_loop().create_connection(_Connection, HOST, port))[1]


async def _once(connection: _Connection, request: bytes, idle: list[_Connection]) -> Answer:
    answer = await connection.ask(request)
    idle.append(connection)
    return answer
