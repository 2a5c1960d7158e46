"""AI Gateway's headers: what it adds to answers, and the one of its requests' that acts here.

A request comes through it by its address, or by naming a gateway in `cf-aig-gateway-id`. There is
no cache, no retry and no second provider behind this one; headers that are about those are legal
and change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving.core import Delta, Generation
from serving.engine import Engine, Spent, unheard
from serving.errors import InvalidInput, TimedOut
from serving.gateway.asgi import Headers

NAMED = b"cf-aig-gateway-id"
_TIMEOUT = b"cf-aig-request-timeout"


def answered(request_id: str) -> Headers:
    """What its clients look for in an answer: where to find it in the log, where it is from."""
    return [
        (b"cf-aig-log-id", request_id.encode()),
        (b"cf-aig-cache-status", b"MISS"),
        (b"cf-aig-step", b"0"),
    ]


def hurried(engine: Engine, headers: Headers) -> Engine:
    """The engine, giving up on a request that has not begun to answer when its caller says so.

    Raises:
        InvalidInput: the header is not a number of milliseconds.
    """
    for name, value in headers:
        if name == _TIMEOUT:
            if not value.isdigit() or not 0 < len(value) < 10 or not int(value):
                raise InvalidInput("cf-aig-request-timeout must be a number of milliseconds")
            return Hurried(engine, int(value) / 1000)
    return engine


class Hurried:
    """Satisfies `Engine`: the first delta comes within some seconds, or none does."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.generate`.

        Raises:
            TimedOut: there was no delta in time.
        """
        async with aclosing(self._engine.generate(generation, spent)) as deltas:
            try:
                async with asyncio.timeout(self._seconds) as limit:
                    first = await anext(deltas, None)
            except TimeoutError as error:
                raise TimedOut if limit.expired() else error from error
            if first is not None:
                yield first
            async for delta in deltas:
                yield delta

    async def count(self, generation: Generation) -> int:
        """See `Engine.count`."""
        return await self._engine.count(generation)

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        await self._engine.check_health()
