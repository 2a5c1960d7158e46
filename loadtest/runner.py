"""Doing a run: users in a closed loop or due times in an open one, against one target."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field

from loadtest import arrivals
from loadtest.client import clock
from loadtest.core import Failure, Record, UsageError
from loadtest.desk import Desk, converse, until
from loadtest.instrument import Measured, Meter
from loadtest.scenario import Scenario
from loadtest.series import Series
from loadtest.slo import Objective, attained, parse
from loadtest.wire import Identity, Observer, Wire, transport
from loadtest.workload import Author

_WARM = 1024  # connections opened beforehand, at most
_LEAD = 0.05  # seconds from being ready to the start
_STEP = 0.001  # seconds between the starts of users: at once, they would wait for each other
_LOOK = 0.1  # seconds between looks at what is wanted
_BACKOFF = 0.2  # seconds a user waits after a connection failed
_PATIENCE = 3600.0  # a bounded number of requests comes to an end before so many seconds each


@dataclass(frozen=True, slots=True)
class Share:
    """This process's part of a run: worker `index` of `count`. `run` names the run, and `start`
    is when its workers begin, as seconds since the epoch."""

    run: str
    index: int = 0
    count: int = 1
    start: float | None = None

    def of(self, whole: int) -> int:
        """This worker's part of so many things."""
        return whole // self.count + (self.index < whole % self.count)


@dataclass(slots=True)
class Controls:
    """What may change while a run is going. `users` and `rate` override the scenario's."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    users: int | None = None
    rate: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, users: int | None = None, rate: str | None = None) -> None:
        """Another load from now on."""
        self.users, self.rate = users or self.users, rate or self.rate
        self.changed.set()


class Run:
    """One process's part of one run."""

    def __init__(
        self,
        scenario: Scenario,
        share: Share,
        observers: list[Observer] | None = None,
        controls: Controls | None = None,
    ) -> None:
        self.scenario = scenario
        self.controls = controls or Controls()
        self.series = Series.over(scenario.duration)
        self._share = share
        self._objectives = _objectives(scenario)
        self.wire = Wire(
            transport(scenario.target),
            [self._count, *(observers or [])],
            scenario.target.timeout,
            share.of(scenario.load.limit) or 1,
            share.index,
            share.count,
        )
        self._desks = [
            Desk(each, Identity.of(each, scenario.target), self._author(number))
            for number, each in enumerate(scenario.tenants)
        ]
        self._left = share.of(scenario.requests) if scenario.requests else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = 0
        self._due = 0  # requests due so far and to come, in an open loop
        self._user_seconds = 0.0

    def _author(self, number: int) -> Author:
        seed = f"{self.scenario.seed}/{number}/{self._share.index}"
        return Author(self.scenario.tenants[number].workload(), seed, self._share.run)

    def _count(self, record: Record) -> None:
        self.series.add(record, attained(self._objectives[record.tenant], record))

    async def execute(self) -> Measured:
        """Do it, and wait for every answer (each has the target's timeout).

        Raises:
            UsageError: a trace or a file of users cannot be read.
        """
        depth = self._depth()
        for desk in self._desks:
            desk.fill(depth)
        await self.wire.transport.warm(min(depth, _WARM))
        refills = [asyncio.create_task(desk.keep_filled(depth)) for desk in self._desks]
        try:
            async with Meter.running() as meter:
                await self._begin()
                await self._drive()
                window = min(clock(), self._deadline) - self.wire.began
                await self._drain()
        finally:
            for task in refills:
                task.cancel()
            await self.wire.transport.close()
        return self._measured(meter, window)

    def _depth(self) -> int:
        """How many dialogues may have to begin at once."""
        load = self.scenario.load
        if load.concurrency:
            return self._share.of(load.concurrency)
        rate = max(r for _, r in arrivals.profile(load.rate, 1.0).knots) if load.rate else 16
        return max(4, int(rate / self._share.count))

    async def _begin(self) -> None:
        """Wait for the common start, and set the zero of all times."""
        start = self._share.start
        wait = _LEAD if start is None else max(0.0, start - time.time())
        self.wire.began = clock() + wait
        self._deadline = self.wire.began + (self.scenario.duration or float("inf"))
        await until(self.wire.began)

    async def _drive(self) -> None:
        """Make load until the time is over, it is all done, or somebody stops it."""
        driver = asyncio.create_task(
            self._closed() if self.scenario.load.concurrency else self._open()
        )
        stop = asyncio.create_task(self.controls.stop.wait())
        left = None if self.scenario.duration is None else self._deadline - clock()
        try:
            done = asyncio.FIRST_COMPLETED
            await asyncio.wait({driver, stop}, timeout=left, return_when=done)
            if driver.done():
                driver.result()
        finally:
            for task in (driver, stop):
                task.cancel()
            await asyncio.gather(driver, stop, return_exceptions=True)
            self._deadline = min(self._deadline, clock())

    async def _drain(self) -> None:
        """Wait for what is in flight; when stopped, leave it."""
        stop = asyncio.create_task(self.controls.stop.wait())
        while self._tasks and not stop.done():
            await asyncio.wait({*self._tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        self._unfinished = self.wire.inflight
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _closed(self) -> None:
        """Keep as many users at work as are wanted."""
        load, spawned = self.scenario.load, 0
        while True:
            self._wanted = self._share.of(self.controls.users or load.concurrency or 0)
            now = clock() if spawned else self.wire.began
            step = _STEP if load.ramp is None else load.ramp / max(1, self._wanted)
            for number in range(self._at_work(), self._wanted):
                lead = 0.0 if spawned >= self._wanted else step * number
                self._spawn(self._user(number, now + lead))
                spawned += 1
            if not self._tasks:
                return
            await asyncio.sleep(_LOOK)

    def _at_work(self) -> int:
        return len(self._tasks) if not self._exhausted() else self._wanted

    async def _user(self, number: int, begin: float) -> None:
        """Hold dialogues one after the other, until there are too many users or no time."""
        desk, due = self._desks[self._seat(number)], begin
        await until(due)
        while number < self._wanted and due < self._deadline and not self._exhausted():
            self._left = None if self._left is None else self._left - 1
            record = await converse(self.wire, desk, desk.take(), due, lambda: self._deadline)
            due = self.wire.began + record.end
            if record.error in (Failure.CONNECT, Failure.TLS):
                due += _BACKOFF
                await until(min(due, self._deadline))
        self._user_seconds += max(0.0, min(clock(), self._deadline) - begin)

    def _exhausted(self) -> bool:
        return self._left is not None and self._left <= 0

    def _seat(self, number: int) -> int:
        """Users take the tenant that is furthest behind its share."""
        shares = [tenant.share for tenant in self.scenario.tenants]
        taken = [0] * len(shares)
        for _ in range(self._share.index + number * self._share.count + 1):
            seat = min(range(len(shares)), key=lambda i: (taken[i] + 0.5) / shares[i])
            taken[seat] += 1
        return seat

    async def _open(self) -> None:
        """Send what is due when it is due, however many are still being answered."""
        mix = random.Random(f"mix {self.scenario.seed} {self._share.index}")
        weights = [tenant.share for tenant in self.scenario.tenants]
        plan = self._plan(self.scenario.load.rate, 0.0)
        while plan:
            due = self.wire.began + plan.popleft()
            if await self._changed_before(due):
                plan = self._plan(self.controls.rate, clock() - self.wire.began)
                continue
            (desk,) = mix.choices(self._desks, weights)
            self._spawn(self._visit(desk, due))
        if self.scenario.duration is not None:
            await until(self._deadline)

    def _plan(self, rate: str | None, at: float) -> deque[float]:
        """Due times from `at` on, of this worker."""
        load, duration = self.scenario.load, self.scenario.duration or 0.0
        if rate is None:
            raise UsageError("an open loop needs a rate")
        if self.scenario.duration is None:
            duration = (self.scenario.requests or 0) * _PATIENCE
        profile = arrivals.profile(rate, duration - at)
        process = arrivals.process(load.arrivals)
        times = arrivals.schedule(profile, process, duration - at, str(self.scenario.seed))
        mine = times[: self.scenario.requests][self._share.index :: self._share.count]
        self._due = self.wire.started + len(mine)
        return deque(at + each for each in mine)

    async def _changed_before(self, due: float) -> bool:
        """Wait for `due`; early and true if the load is changed meanwhile."""
        changed = self.controls.changed
        while (left := due - clock()) > _LOOK and not changed.is_set():  # noqa: ASYNC110 - time is waited for too
            await asyncio.sleep(min(_LOOK, left - _LOOK / 2))
        if changed.is_set():
            changed.clear()
            return True
        await until(due)
        return False

    async def _visit(self, desk: Desk, due: float) -> None:
        await converse(self.wire, desk, desk.take(), due, lambda: self._deadline)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _measured(self, meter: Meter, window: float) -> Measured:
        traffic, wire = self.wire.transport.traffic, self.wire
        closed = self.scenario.load.concurrency is not None
        planned = [desk.planned_hits for desk in self._desks if desk.planned_hits is not None]
        return Measured(
            series=self.series,
            open_loop=not closed,
            window=window,
            offered=self._user_seconds / window if closed and window else float(self._due),
            started=wire.started,
            unfinished=self._unfinished,
            most_in_flight=wire.most,
            opened=traffic.opened,
            requests=traffic.requests,
            cpu=meter.cpu,
            wall=meter.wall,
            busiest=meter.cpu / meter.wall if meter.wall else 0.0,
            lag=meter.lag,
            parsing=traffic.parsing,
            planned_hits=sum(planned) / len(planned) if planned else None,
            stopped=self.controls.stop.is_set(),
        )


def _objectives(scenario: Scenario) -> dict[str, tuple[Objective, ...]]:
    """By tenant: its own, or those of the run."""
    texts = {tenant.name: tenant.slo or scenario.slo for tenant in scenario.tenants}
    return {name: parse(text) if text else () for name, text in texts.items()}
