"""Runs what waits in the queue, beside the gateway of a replica and behind its clients.

Each replica has a `Worker`. It claims items for the length of a lease, renews the leases of what
it runs, and ends an item in one transaction that keeps its result, deletes its prompt and counts
its usage. A replica that dies loses its leases, and others run its items again; whoever comes back
too late finds the claim gone and changes nothing. At the engine, items give way to requests that
somebody waits for (`Generation.background`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress

from serving.batch import steps
from serving.batch.steps import ROUTE, Bounds
from serving.catalog import Catalog
from serving.core import Receipt
from serving.engine import Engine
from serving.errors import EngineFailed, ServingError
from serving.gateway.errors import declared
from serving.gateway.finetunes import Finetunes, adapted
from serving.gateway.receipts import Draft, Observer
from serving.gateway.stream import complete
from serving.gateway.tenant import Admission, Tenant, Unlimited
from serving.protocol import batch
from serving.protocol.dialect import Ask
from serving.tenancy import batches, record
from serving.tenancy.accounts import now
from serving.tenancy.batches import Claimed
from serving.tenancy.database import Database, Down
from serving.tenancy.identity import Identity
from serving.tenancy.prices import Prices

_PERIOD = 1.0  # seconds between looking for what others handed in
_CLEANING = 600.0  # seconds between deleting old results

_log = logging.getLogger("serving.batch")


class Worker:
    """Runs items of the models in the catalogue. For the event loop of the engine."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        engine: Engine,
        models: Catalog,
        prices: Prices,
        bounds: Bounds,
        *,
        admission: Admission | None = None,
        adapters: Finetunes | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        """`observers` get each item's receipt; counting its usage is done here."""
        self._database = database
        self._identity = identity
        self._engine = engine
        self._models = models
        self._prices = prices
        self._bounds = bounds
        self._admission = admission or Unlimited()
        self._adapters = adapters
        self._observers = tuple(observers)
        self._running: dict[asyncio.Task[None], Claimed] = {}
        self._wake = asyncio.Event()
        self._renewed = self._cleaned = 0.0
        self._down = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """Something has arrived. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """Stop, and let others have what runs. From any thread; nothing after this is kept."""
        if self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._cancel)
        self._loop = None
        if claims := [item.claim for item in self._running.values()]:
            with suppress(*Down), self._database.begin() as connection:
                batches.give_back(connection, claims, now())

    def _cancel(self) -> None:
        for task in (self._task, *self._running):
            task.cancel()

    async def _run(self) -> None:
        """Renew, claim, clean; whenever an item has ended or arrived, and once in a while."""
        while True:
            self._wake.clear()
            try:
                await self._round()
                self._down = False
            except Down as error:
                if not self._down:
                    _log.warning("the database is away, the queue waits: %s", type(error).__name__)
                self._down = True
            except Exception:
                _log.exception("looking after the queue failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD):
                    await self._wake.wait()

    async def _round(self) -> None:
        moment = time.monotonic()
        if self._running and moment - self._renewed > self._bounds.lease / 4:
            await asyncio.to_thread(self._renew, [i.claim for i in self._running.values()])
            self._renewed = moment
        if room := self._bounds.concurrency - len(self._running):
            for item in await asyncio.to_thread(self._claim, room):
                self._begin(item)
        if moment - self._cleaned > _CLEANING or not self._cleaned:
            await asyncio.to_thread(self._clean)
            self._cleaned = moment

    def _renew(self, claims: list[str]) -> None:
        with self._database.begin() as connection:
            batches.renew(connection, claims, now() + _ms(self._bounds.lease))

    def _claim(self, room: int) -> list[Claimed]:
        at, models = now(), tuple(self._models.models)
        with self._database.begin() as connection:
            shares = steps.share(batches.demands(connection, models, at), room)
            until = at + _ms(self._bounds.lease)
            return batches.claim(connection, models, shares, at, until)

    def _clean(self) -> None:
        keep, at = _ms(self._bounds.keep), now()
        with self._database.begin() as connection:
            # What nobody ran in twice the time that it may wait, nobody will.
            while batches.purge(connection, at - keep, at - 2 * keep):
                pass

    def _begin(self, item: Claimed) -> None:
        task = asyncio.create_task(self._perform(item))
        self._running[task] = item
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        item = self._running.pop(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("queued request %s: %s", item.id, type(error).__name__)  # its lease ends

    async def _perform(self, item: Claimed) -> None:
        """Run it, and keep what came of it, or let it be tried again."""
        draft = Draft(item.id, item.account, item.token, route=ROUTE, model=item.model)
        try:
            output, success = await self._output(item, draft), True
        except Exception as error:
            failure = declared(error, item.id)
            age = (now() - item.created_at) / 1000
            if again := steps.retry(failure, item.attempts, age, self._bounds.keep):
                await asyncio.to_thread(self._give_back, item, again)
                return
            output, success = self._failed(failure, item, draft), False
        await self._end(item, success, output, draft)

    async def _output(self, item: Claimed, draft: Draft) -> bytes:
        if item.attempts > steps.ATTEMPTS:
            raise EngineFailed("whoever ran it died of it, or beside it")
        caller = await self._identity.holder(item.token, item.account)
        ask = Ask(item.id, self._models, item.model, item.created_at // 1000)
        generation, writer = await asyncio.to_thread(batch.parse_item, item.input, ask)
        generation = await adapted(self._adapters, caller, generation)
        draft.adapter = generation.adapter.id if generation.adapter else ""
        engine = Tenant(self._engine, self._admission, None, caller, draft)
        return writer.whole(await complete(engine, generation, draft))

    def _failed(self, failure: ServingError, item: Claimed, draft: Draft) -> bytes:
        draft.failed(failure)
        return batch.failure(failure, item.id)

    def _give_back(self, item: Claimed, again: steps.Again) -> None:
        with suppress(*Down), self._database.begin() as connection:
            at = now() + _ms(again.seconds)
            batches.give_back(connection, [item.claim], at, tried=again.tried)

    async def _end(self, item: Claimed, success: bool, output: bytes, draft: Draft) -> None:
        """Keep it as soon as the database is there; then it may be another's already."""
        receipt = draft.receipt()
        counted = record.of(receipt, self._prices)
        while True:
            try:
                if await asyncio.to_thread(self._keep, item, success, output, counted):
                    self._observe(receipt)
                return
            except Down:
                await asyncio.sleep(_PERIOD)

    def _keep(self, item: Claimed, success: bool, output: bytes, counted: record.Record) -> bool:
        with self._database.begin() as connection:
            return batches.end(connection, item, success, output, counted, now())

    def _observe(self, receipt: Receipt) -> None:
        for observer in self._observers:
            try:
                observer(receipt)
            except Exception:
                _log.exception("an observer failed on queued request %s", receipt.id)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
