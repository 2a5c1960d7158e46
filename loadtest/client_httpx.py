"""`--transport httpx`: the same exchanges through httpx, for gateways that need what it has.

It is many times dearer for each token than `client` (see benchmarks/harness.py); each user has a
client of its own, since one shared by all collapses at some hundred streams.
"""

from __future__ import annotations

import asyncio
import ssl

import httpx

from loadtest.client import Endpoint, Exchange, Message, Traffic, clock
from loadtest.core import Failure
from loadtest.reading import Reading


class HttpxTransport:
    """A `Transport`. Clients are kept and reused one request at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = endpoint.context() or False
        self._idle: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []
        self.traffic = Traffic()

    async def send(self, message: Message, limit: float) -> Exchange:
        """See `Transport`. httpx does not tell how long connecting took."""
        reading = Reading()
        client = self._idle.pop() if self._idle else self._new()
        self.traffic.requests += 1
        sent = clock()
        try:
            async with asyncio.timeout(limit):
                await self._stream(client, message, reading)
        except TimeoutError:
            reading.fail(Failure.TIMEOUT)
        except httpx.ConnectError as error:
            tls = isinstance(error.__cause__, ssl.SSLError) or "SSL" in str(error)
            reading.fail(Failure.TLS if tls else Failure.CONNECT)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            reading.fail(Failure.TRUNCATED)
        except httpx.HTTPError:
            reading.fail(Failure.PROTOCOL)
        self._idle.append(client)
        return Exchange(reading, sent, end=clock())

    async def warm(self, connections: int) -> None:
        """See `Transport`. Clients are made; httpx connects with the first request."""
        self._idle.extend(self._new() for _ in range(connections))

    async def close(self) -> None:
        """See `Transport`."""
        for client in self._all:
            await client.aclose()

    def _new(self) -> httpx.AsyncClient:
        client = httpx.AsyncClient(verify=self._context, timeout=None)
        self._all.append(client)
        self.traffic.opened += 1
        return client

    async def _stream(self, client: httpx.AsyncClient, message: Message, reading: Reading) -> None:
        url = self._endpoint.origin + self._endpoint.prefix + message.path
        headers = {"content-type": "application/json", **message.headers}
        async with client.stream("POST", url, headers=headers, content=message.body) as answer:
            now = reading.first_byte = clock()
            kind = answer.headers.get("content-type", "").encode()
            reading.head(answer.status_code, kind, answer.headers.get("retry-after"))
            async for data in answer.aiter_raw():
                now = clock()
                reading.body(data, now)
                self.traffic.parsing.add(clock() - now)
            reading.end(now)
