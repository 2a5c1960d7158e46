"""One run by many workers: begun together, watched, put together, and a lost one replaced.

Histograms are merged. What a worker had reported before it was lost stays; who takes its place
goes on with the rest of its schedule, or its users. What nobody sent meanwhile counts as load that
was not achieved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from loadtest.core import RunError
from loadtest.going import Controls, Share
from loadtest.instrument import Measured
from loadtest.jobs import Begin, Change, Job, Order, Report
from loadtest.jobs import jobs as split
from loadtest.scenario import Scenario
from loadtest.series import Series

_LEAD = 0.5  # seconds from the last worker being ready to the start
_AGAIN = 0.1  # seconds from a replacement being ready to its first request
_READY = 30.0  # seconds in which a worker must be
_SILENCE = 10.0  # seconds without a report after which a worker is lost
_LIVES = 3  # workers that may take the place of one


class LostError(Exception):
    """A worker is gone, with whatever it has not reported."""


class Hand(Protocol):
    """A worker that is ready. `offset` is its clock less ours."""

    offset: float

    async def tell(self, order: Order) -> None:
        """Raises `LostError`."""

    async def report(self) -> Report:
        """Its next report. Raises `LostError`."""

    async def dismiss(self) -> None:
        """End it, if it is still there."""


Hire = Callable[[Job], Awaitable[Hand]]


@dataclass(slots=True)
class Part:
    """What is known of one share of the run."""

    job: Job
    users: int  # there should be
    hand: Hand | None = None
    last: Report | None = None  # of the worker that has it now
    heard: float = 0.0  # seconds after the start, when that came
    due: float | None = None  # requests, in an open loop


class Team:
    """See the module. It is watched and controlled as a `Run` is."""

    def __init__(
        self,
        scenario: Scenario,
        run: str,
        count: int,
        hire: Hire,
        controls: Controls,
        keep: Callable[[bytes], None] | None,
    ) -> None:
        """`keep` is given the lines of records, if they are wanted."""
        self.controls = controls
        self.series = Series.over(scenario.duration)
        self.scenario, self._hire, self._keep = scenario, hire, keep
        users = scenario.load.concurrency or 0
        self._parts = [
            Part(job, Share(run, job.index, count).of(users))
            for job in split(scenario, run, count, keep is not None)
        ]
        self._settled: list[Measured] = []
        self._start = self._missed = 0.0
        self.lost = self.replaced = 0
        self._problem = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return max(0.0, time.time() - self._start) if self._start else 0.0

    @property
    def in_flight(self) -> int:
        """Requests being answered, as last reported."""
        return sum(part.last.in_flight for part in self._parts if part.last)

    async def execute(self) -> Measured:
        """Do the run with all workers.

        Raises:
            RunError: there are none, or all were lost, or a user raised an exception.
        """
        orders = asyncio.create_task(self._pass_on())
        try:
            await asyncio.gather(*(self._fill(part) for part in self._parts))
            if not any(part.hand for part in self._parts):
                raise RunError("all workers were lost")
            self._start = time.time() + _LEAD
            await asyncio.gather(*(self._see_through(part) for part in self._parts))
        finally:
            orders.cancel()
            hands = [part.hand for part in self._parts if part.hand]
            await asyncio.gather(*(hand.dismiss() for hand in hands), return_exceptions=True)
        if self._problem:
            raise RunError(self._problem)
        return self._whole()

    async def _fill(self, part: Part) -> None:
        """Hire somebody for a share; nobody, if that fails."""
        try:
            async with asyncio.timeout(_READY):
                part.hand = await self._hire(part.job)
        except (LostError, TimeoutError):
            part.hand = None

    async def _see_through(self, part: Part) -> None:
        """A share to its end, by as many workers as it takes."""
        resume = 0.0
        for life in range(1, _LIVES + 2):
            served = await self._served(part, resume)
            self._settle(part)
            if served:
                return
            self.lost += part.hand is not None or life == 1
            if life > _LIVES or not self._worth_it():
                break
            part.job = msgspec.structs.replace(part.job, life=life)
            await self._fill(part)
            resume = self.elapsed + _AGAIN
            self._absent(part, resume)
        self._absent(part, self.scenario.duration or self.elapsed)

    async def _served(self, part: Part, resume: float) -> bool:
        """Whether the worker who has a share came to the end of it."""
        hand, controls = part.hand, self.controls
        if hand is None:
            return False
        try:
            await hand.tell(Begin(self._start + hand.offset, resume))
            if controls.users or controls.rate:
                await hand.tell(Change(controls.users, controls.rate))
            self.replaced += part.job.life > 0
            while not (await self._listen(part, hand)).done:
                pass
        except (LostError, TimeoutError):
            await hand.dismiss()
            return False
        return True

    async def _listen(self, part: Part, hand: Hand) -> Report:
        async with asyncio.timeout(_SILENCE):
            report = await hand.report()
        part.last, part.heard, part.users = report, self.elapsed, report.users
        part.job = msgspec.structs.replace(part.job, left=report.left)
        self.series.merge(report.measured.series)
        if self._keep:
            self._keep(report.records)
        if report.problem:
            self._problem = report.problem
            self.controls.stop.set()
        return report

    def _worth_it(self) -> bool:
        """Whether there is load left to be made."""
        duration = self.scenario.duration
        ended = duration is not None and self.elapsed > duration - _LEAD
        return not ended and not self.controls.stop.is_set()

    def _settle(self, part: Part) -> None:
        """Keep what the worker who had a share has said."""
        if part.last is None:
            return
        last, said = part.last, part.last.measured
        said.series = Series.over(self.scenario.duration)  # it is in ours
        said.unfinished += 0 if last.done else last.in_flight
        if said.open_loop:  # who takes over counts the whole schedule again
            part.due, said.offered = said.offered, 0.0
        self._settled.append(said)
        part.last = None

    def _absent(self, part: Part, until: float) -> None:
        """Nobody was there for the users of a share from the last report until then."""
        self._missed += part.users * max(0.0, until - part.heard)
        part.heard = until

    def _whole(self) -> Measured:
        if not self._settled:
            raise RunError("all workers were lost")
        whole, *rest = self._settled
        for each in rest:
            whole.merge(each)
        due = [part.due for part in self._parts if part.due is not None]
        # What those were to send who never said a word is owed too.
        whole.offered += sum(due) * len(self._parts) / len(due) if due else self._missed
        return msgspec.structs.replace(
            whole,
            series=self.series,
            workers=len(self._parts),
            missed=self._missed,
            lost=self.lost,
            replaced=self.replaced,
        )

    async def _pass_on(self) -> None:
        """Tell the workers what the controls are told."""
        controls = self.controls
        while not controls.stop.is_set():
            waits = [asyncio.create_task(e.wait()) for e in (controls.stop, controls.changed)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
            controls.changed.clear()
            order = Change(controls.users, controls.rate, controls.stop.is_set())
            hands = [part.hand for part in self._parts if part.hand]
            await asyncio.gather(*(hand.tell(order) for hand in hands), return_exceptions=True)
