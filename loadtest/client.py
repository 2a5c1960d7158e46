"""The token path: one asyncio protocol per connection, a time stamp at each read, then parsing.

HTTP/1.1 with keep-alive over TCP or TLS. httptools splits the HTTP, `reading` the frames.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from loadtest.core import Failure, UsageError
from loadtest.histogram import Histogram
from loadtest.reading import Reading

_WARMED = 32  # connections opened at a time
_IDLE = 4.0  # seconds a connection is kept unused: servers close theirs after 5 and more
_SAMPLED = 8  # of so many reads one is timed through the parser
clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go: a base URL taken apart."""

    host: str
    port: int
    tls: bool
    prefix: str
    insecure: bool = False  # do not verify the certificate

    @classmethod
    def parse(cls, url: str, insecure: bool = False) -> Endpoint:
        """Take a base URL apart.

        Raises:
            UsageError: it is not an http(s) URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"not a URL: {url!r}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"not an http or https URL: {url!r}")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/")
        return cls(parts.hostname, port or (443 if tls else 80), tls, prefix, insecure)

    @property
    def netloc(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Without the path."""
        return f"{'https' if self.tls else 'http'}://{self.netloc}"

    def context(self) -> ssl.SSLContext | None:
        """How TLS is done; `None` without it."""
        if not self.tls:
            return None
        context = ssl.create_default_context()
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Message:
    """A POST ready to be sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def encode(self, endpoint: Endpoint) -> bytes:
        """As HTTP/1.1."""
        lines = [
            f"POST {endpoint.prefix}{self.path} HTTP/1.1",
            f"Host: {endpoint.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(slots=True)
class Exchange:
    """A request and what became of it. Times are those of `clock`."""

    reading: Reading
    sent: float
    connect: float = 0.0
    end: float = 0.0


@dataclass(slots=True)
class Traffic:
    """What a transport saw of itself."""

    opened: int = 0
    requests: int = 0
    parsing: Histogram = field(default_factory=Histogram)  # from a read to the end of its parsing


class Transport(Protocol):
    """Sends messages. Never raises for what the server or the network does: see `Reading`."""

    traffic: Traffic

    async def send(self, message: Message, limit: float) -> Exchange:
        """Send and read to the end, for `limit` seconds at most."""

    async def warm(self, connections: int) -> None:
        """Open connections beforehand; those that fail are left to the requests."""

    async def close(self) -> None:
        """Close all connections."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._reading: Reading | None = None
        self._done: asyncio.Future[None] | None = None
        self._now = 0.0
        self._kind, self._framed = b"", False
        self._retry_after: str | None = None
        self._reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._now = clock()
        self.transport = cast(asyncio.Transport, transport)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._reading is None and not self.transport.is_closing()

    def ask(self, data: bytes, reading: Reading) -> asyncio.Future[None]:
        """Send a request; done when the answer is complete or the connection is gone."""
        self._parser = httptools.HttpResponseParser(self)
        self._kind, self._retry_after, self._framed = b"", None, False
        self._reading = reading
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._done

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse."""
        now = self._now = clock()
        reading = self._reading
        if reading is None:  # nobody asked
            self.transport.close()
            return
        if reading.first_byte is None:
            reading.first_byte = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            reading.fail(Failure.PROTOCOL)
            self._finish(close=True)
        self._reads += 1
        if self._reads % _SAMPLED == 0:
            self._traffic.parsing.add(clock() - now)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        name = name.lower()
        if name == b"content-type":
            self._kind = value
        elif name == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._reading:
            self._reading.head(self._parser.get_status_code(), self._kind, self._retry_after)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._reading:
            self._reading.body(data, self._now)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._reading and self._reading.status >= 200:
            self._reading.end(self._now)
            self._finish(close=not self._parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. A body without a length ends so; anything else is cut off."""
        self._now = clock()
        if self._reading:
            if self._reading.status and not self._framed:
                self._reading.end(self._now)
            else:
                self._reading.fail(Failure.TRUNCATED)
            self._finish(close=True)

    def _finish(self, close: bool) -> None:
        self._reading = None
        if close:
            self.transport.close()
        if self._done and not self._done.done():
            self._done.set_result(None)

    @property
    def last_read(self) -> float:
        """When the last bytes came, or the connection went."""
        return self._now


class Pool:
    """A `Transport` over raw connections to one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = endpoint.context()
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self.traffic = Traffic()

    async def send(self, message: Message, limit: float) -> Exchange:
        """See `Transport`."""
        data = message.encode(self._endpoint)
        reading = Reading()
        began = clock()
        self.traffic.requests += 1
        connection = self._reuse()
        connect = 0.0
        if connection is None:
            connection = await self._open(reading, limit)
            if connection is None:
                return Exchange(reading, began, end=clock())
            connect = clock() - began
        sent = clock()
        await self._ask(connection, data, reading, limit - connect)
        return Exchange(reading, sent, connect, connection.last_read)

    async def warm(self, connections: int) -> None:
        """See `Transport`. A few at a time, so as not to overflow the backlog of the server."""
        for begin in range(0, connections, _WARMED):
            count = min(_WARMED, connections - begin)
            found = await asyncio.gather(*(self._open(Reading(), 5.0) for _ in range(count)))
            self._idle.extend(each for each in found if each)

    async def close(self) -> None:
        """See `Transport`."""
        for connection in self._all:
            connection.transport.abort()
        self._all.clear()
        self._idle.clear()

    async def _ask(
        self, connection: Connection, data: bytes, reading: Reading, limit: float
    ) -> None:
        done = connection.ask(data, reading)
        timer = asyncio.get_running_loop().call_later(limit, _give_up, connection, reading)
        try:
            await done
        except asyncio.CancelledError:
            connection.transport.abort()
            raise
        finally:
            timer.cancel()
        if connection.usable:
            self._idle.append(connection)
        else:
            self._all.discard(connection)

    def _reuse(self) -> Connection | None:
        """The connection used last, which is the least likely to be closed by the server."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and clock() - connection.last_read < _IDLE:
                return connection
            connection.transport.close()
            self._all.discard(connection)
        return None

    async def _open(self, reading: Reading, limit: float) -> Connection | None:
        loop = asyncio.get_running_loop()
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(limit):
                _, connection = await loop.create_connection(
                    lambda: Connection(self.traffic),
                    endpoint.host,
                    endpoint.port,
                    ssl=self._context,
                )
        except TimeoutError:
            reading.fail(Failure.CONNECT)
            return None
        except (ssl.SSLError, ssl.CertificateError):
            reading.fail(Failure.TLS)
            return None
        except ConnectionResetError:  # after the connection was there: in the handshake
            reading.fail(Failure.TLS if self._context else Failure.CONNECT)
            return None
        except OSError:
            reading.fail(Failure.CONNECT)
            return None
        self.traffic.opened += 1
        self._all.add(connection)
        return connection


def _give_up(connection: Connection, reading: Reading) -> None:
    reading.fail(Failure.TIMEOUT)
    connection.transport.abort()
