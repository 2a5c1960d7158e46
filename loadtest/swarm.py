"""Workers that are actors of a Ray cluster: one for each core, on whatever nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import ray

from loadtest.core import RunError
from loadtest.jobs import Job, Order, Report, Work
from loadtest.team import LostError

_PINGS = 5
_EVERY = 1.0  # seconds between reports


class _Worker:
    """An actor. JSON on both sides, so that versions of Python need not agree."""

    async def prepare(self, job: bytes) -> None:
        """Be ready to begin."""
        self._work = Work(msgspec.json.decode(job, type=Job))
        await self._work.prepare()

    async def now(self) -> float:
        """This node's clock."""
        return time.time()

    async def tell(self, order: bytes) -> None:
        """Do as told."""
        self._work.obey(msgspec.json.decode(order, type=Order))

    async def report(self) -> bytes:
        """The next report."""
        return msgspec.json.encode(await self._work.report(_EVERY))


class Actor:
    """A `Hand`."""

    def __init__(self, actor: Any, offset: float) -> None:
        self._actor = actor
        self.offset = offset

    @classmethod
    async def hired(cls, job: Job) -> Actor:
        """Start one and wait until it is ready.

        Raises:
            LostError: it could not be started.
        """
        actor = ray.remote(num_cpus=1, max_restarts=0)(_Worker).remote()
        try:
            await actor.prepare.remote(msgspec.json.encode(job))
            return cls(actor, await _offset(actor))
        except ray.exceptions.RayError as error:
            ray.kill(actor)
            raise LostError from error

    async def tell(self, order: Order) -> None:
        """See `Hand`."""
        await self._asked(self._actor.tell.remote(msgspec.json.encode(order)))

    async def report(self) -> Report:
        """See `Hand`."""
        found = await self._asked(self._actor.report.remote())
        return msgspec.json.decode(found, type=Report)

    async def dismiss(self) -> None:
        """See `Hand`."""
        ray.kill(self._actor)

    async def _asked(self, answer: Any) -> Any:
        try:
            return await answer
        except ray.exceptions.RayError as error:
            raise LostError from error


@asynccontextmanager
async def cluster(address: str) -> AsyncIterator[int]:
    """A connection to the cluster at `address`, and its free cores.

    Raises:
        RunError: there is no such cluster.
    """
    try:
        await asyncio.to_thread(ray.init, address=address, log_to_driver=False)
    except ConnectionError as error:
        raise RunError(f"no Ray cluster at {address}") from error
    try:
        yield int(ray.available_resources().get("CPU", 0))
    finally:
        await asyncio.to_thread(ray.shutdown)


async def _offset(actor: Any) -> float:
    """Its clock less ours, from the quickest of some round trips."""
    best = float("inf"), 0.0
    for _ in range(_PINGS):
        before = time.time()
        theirs = await actor.now.remote()
        after = time.time()
        best = min(best, (after - before, theirs - (before + after) / 2))
    return best[1]
