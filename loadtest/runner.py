"""Doing a run: users in a closed loop or due times in an open one, against one target."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine

from loadtest import arrivals, due
from loadtest.actors import Actors, Classes, Replay, Tenants
from loadtest.client import clock
from loadtest.core import Record, RunError
from loadtest.desk import until
from loadtest.events import Events
from loadtest.going import Controls, Share
from loadtest.instrument import Measured, Meter
from loadtest.presence import Presence
from loadtest.scenario import Scenario
from loadtest.series import Series
from loadtest.slo import attained
from loadtest.traces import Arrival, read
from loadtest.users import Crew, LoadShape
from loadtest.wire import Observer, Wire, transport

_WARM = 1024  # connections opened beforehand, at most
_LEAD = 0.05  # seconds from being ready to the start
_STEP = 0.001  # seconds between the starts of users: at once, they would wait for each other
_IDS = 10**9  # requests that no worker makes: the ids of who takes its place lie beyond
_LOOK = 0.1  # seconds between looks at what is wanted
_TICK = 1.0  # seconds between the questions to a shape


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
        self._objectives = scenario.objectives()
        self.wire = Wire(
            transport(scenario.target),
            [self._count, *(observers or [])],
            scenario.target.timeout,
            share.of(scenario.load.limit) or 1,
            share.index,
            share.count,
        )
        self._events = Events()
        self._trace: list[Arrival] = []
        self._shape: LoadShape | None = None
        self._actors = self._cast()
        self.left = share.of(scenario.requests) if scenario.requests else None
        if share.left is not None:
            self.left = share.left
        self._tasks: set[asyncio.Task[None]] = set()
        self._meter: Meter | None = None
        self._resumed = 0.0
        self._deadline = float("inf")
        self._unfinished = 0
        self._wanted = 0
        self._due = 0  # requests due so far and to come, in an open loop
        self._pending: deque[float] = deque()  # when those are due that have not been sent
        self._skipped = 0  # of those, requests that a lost worker was to send
        self._presence = Presence(lambda: self._deadline)
        self._failure: BaseException | None = None

    def _cast(self) -> Actors:
        scenario, share = self.scenario, self._share
        place = share.run, f"{share.index}" + "'" * share.life, share.index, share.count
        if scenario.users:
            crew = Crew.load(scenario.users)
            self._events = crew.events
            self.wire.observers.append(crew.events.requested)
            self._shape = crew.shape() if crew.shape else None
            return Classes(crew, scenario, self.wire, *place)
        trace = scenario.load.trace
        if trace:
            self._trace = read(trace.file, trace.format, trace.speed)
            self._trace = self._trace[: scenario.requests][share.index :: share.count]
            return Replay(self._trace, scenario, self.wire, share.run)
        return Tenants(scenario, self.wire, *place)

    def _count(self, record: Record) -> None:
        self.series.add(record, attained(self._objectives[record.tenant], record))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return max(0.0, clock() - self.wire.began) if self._meter else 0.0

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self.wire.inflight

    @property
    def wanted(self) -> int:
        """Users there should be."""
        return self._wanted

    async def prepare(self) -> None:
        """Draw the first requests and open connections, before the start."""
        depth = self._depth()
        self._beside = self._actors.prepare(depth)
        await self.wire.transport.warm(min(depth, _WARM))

    async def execute(self, start: float | None = None, resume: float = 0.0) -> Measured:
        """Do it, and wait for every answer (each has the target's timeout).

        `start` is when all workers begin, in seconds since the epoch; what was due before `resume`
        seconds after it is left out.

        Raises:
            RunError: a user raised an exception.
        """
        if start is None:
            await self.prepare()
        refills = [asyncio.create_task(each) for each in self._beside]
        try:
            await self._begin(start, resume)
            self._events.test_start.fire(environment=None)
            await self._drive()
            await self._drain()
            self._events.test_stop.fire(environment=None)
        finally:
            for task in refills:
                task.cancel()
            if self._meter:
                self._meter.stop()
            await self.wire.transport.close()
        if self._failure is not None:
            error = self._failure
            raise RunError(f"a user failed: {type(error).__name__}: {error}") from error
        return self.measured()

    def _depth(self) -> int:
        """How many dialogues may have to begin at once."""
        load = self.scenario.load
        if load.concurrency:
            return self._share.of(load.concurrency)
        rate = max(r for _, r in arrivals.profile(load.rate, 1.0).knots) if load.rate else 16
        return max(4, int(rate / self._share.count))

    async def _begin(self, start: float | None, resume: float) -> None:
        """Wait for the common start, and set the zero of all times."""
        wait = _LEAD if start is None else start - time.time()
        self.wire.began = clock() + wait
        self._resumed = resume
        self._deadline = self.wire.began + (self.scenario.duration or float("inf"))
        self._meter = Meter()
        await until(self.wire.began + resume)

    async def _drive(self) -> None:
        """Make load until the time is over, it is all done, or somebody stops it."""
        driver = asyncio.create_task(self._driver())
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
            # What is due later than an early end was never to be sent.
            end = self._deadline - self.wire.began
            self._due -= sum(each > end for each in self._pending)

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
        self.wire.first += self._share.life * _IDS * self._share.count
        while True:
            self._wanted = self._share.of(self.controls.users or load.concurrency or 0)
            now = clock() if spawned else self.wire.began + self._resumed
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
        """A user, until there are too many or no time."""

        def more(due: float) -> bool:
            if number >= self._wanted or due >= self._deadline or self._exhausted():
                return False
            self.left = None if self.left is None else self.left - 1
            return True

        with self._presence.stay(begin):
            await self._actors.user(number, begin, more, lambda: self._deadline)

    def _exhausted(self) -> bool:
        return self.left is not None and self.left <= 0

    async def _driver(self) -> None:
        """What makes load: a shape decides every second, the rest is decided."""
        if self._shape is None:
            await (self._closed() if self.scenario.load.concurrency else self._open(self._plan()))
            return
        self._shape.begin(self.wire.began)
        made: asyncio.Task[None] | None = None
        users = 0.0
        while (wanted := self._shape.tick()) is not None:
            if isinstance(wanted, tuple):
                users = min(float(wanted[0]), users + wanted[1] * _TICK)
                self.controls.users = max(1, round(users))
                made = made or asyncio.create_task(self._closed())
            else:
                self.controls.change(rate=str(wanted))
                made = made or asyncio.create_task(self._open(deque()))
            await asyncio.sleep(_TICK)
        if made:
            made.cancel()

    async def _open(self, plan: deque[float]) -> None:
        """Send what is due when it is due, however many are still being answered."""
        self._pending = plan
        while self._pending or self._shape:
            following = self.wire.began + self._pending[0] if self._pending else self._deadline
            if await self._changed_before(following):
                self._pending = self._plan(self.controls.rate, clock() - self.wire.began)
            elif self._pending:
                self._pending.popleft()
                self._spawn(self._actors.visit(following, lambda: self._deadline))
        if self.scenario.duration is not None:
            await until(self._deadline)

    def _plan(self, rate: str | None = None, at: float = 0.0) -> deque[float]:
        """Due times from `at` on, of this worker."""
        share = self._share
        traced = [arrival.at for arrival in self._trace]
        times = traced or due.times(self.scenario, share, rate, at)
        end = self.scenario.duration or float("inf")
        ours = [at + each for each in times if at + each < end]
        if rate is None and self._resumed:
            self._skipped = sum(each < self._resumed for each in ours)
            self._actors.skip(self._skipped)
            self.wire.first += self._skipped * share.count
            ours = ours[self._skipped :]
        self._due = self._skipped + self.wire.started + len(ours)
        return deque(ours)

    async def _changed_before(self, moment: float) -> bool:
        """Wait for it; early and true if the load is changed meanwhile."""
        changed = self.controls.changed
        while (left := moment - clock()) > _LOOK and not changed.is_set():  # noqa: ASYNC110
            await asyncio.sleep(min(_LOOK, left - _LOOK / 2))
        if changed.is_set():
            changed.clear()
            return True
        await until(moment)
        return False

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nothing a user does wrong goes unnoticed: it ends the run."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self.controls.stop.set()

    def measured(self) -> Measured:
        """What has been measured so far, or at the end in all."""
        traffic, wire, meter = self.wire.transport.traffic, self.wire, self._meter
        if meter is None:
            raise RunError("the run has not begun")
        closed = self.scenario.load.concurrency is not None
        return Measured(
            series=self.series,
            open_loop=not closed,
            window=min(clock(), self._deadline) - wire.began,
            offered=self._presence.seconds if closed else float(self._due),
            started=wire.started,
            unfinished=self._unfinished,
            most_in_flight=wire.most,
            opened=traffic.opened,
            requests=traffic.requests,
            cpu=meter.cpu,
            wall=meter.wall,
            busiest=meter.cpu / meter.wall,
            lag=meter.lag,
            parsing=traffic.parsing,
            planned_hits=self._actors.planned_hits,
            stopped=self.controls.stop.is_set(),
        )

    def take_series(self) -> Series:
        """What came since it was last taken."""
        taken, self.series = self.series, Series.over(self.scenario.duration)
        return taken
