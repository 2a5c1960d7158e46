"""A worker's part of a run: what it is told, how it does it, what it reports every second."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from loadtest.core import LoadtestError, Record
from loadtest.going import Share
from loadtest.instrument import Measured
from loadtest.records import encode
from loadtest.runner import Run
from loadtest.scenario import Scenario, build, revealed


class Job(msgspec.Struct, frozen=True):
    """One worker's part. `left` and `life`: see `Share`."""

    scenario: dict[str, Any]
    run: str
    index: int
    count: int
    records: bool = False
    left: int | None = None
    life: int = 0


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The start of the run, in seconds since the epoch by the worker's clock. What was due before
    `resume` seconds after it is left out."""

    start: float
    resume: float = 0.0


class Change(msgspec.Struct, frozen=True, tag="change"):
    """Another load, or an end."""

    users: int | None = None
    rate: str | None = None
    stop: bool = False


Order = Begin | Change


class Report(msgspec.Struct, frozen=True):
    """Where a worker is. Of `measured` the numbers are of all its run, the series is what came
    since its last report, as are `records`, which are lines."""

    measured: Measured
    records: bytes
    in_flight: int
    users: int  # there should be
    left: int | None
    done: bool = False
    problem: str = ""


class Work:
    """One job, in this process."""

    def __init__(self, job: Job) -> None:
        share = Share(job.run, job.index, job.count, job.left, job.life)
        self._lines = bytearray()
        self._run = Run(build(job.scenario), share, [self._note] if job.records else [])
        self._doing: asyncio.Task[Measured] | None = None

    async def prepare(self) -> None:
        """Be ready to begin."""
        await self._run.prepare()

    def obey(self, order: Order) -> None:
        """Begin, change the load, or stop."""
        controls = self._run.controls
        if isinstance(order, Begin):
            self._doing = asyncio.create_task(self._run.execute(order.start, order.resume))
        elif order.stop:
            controls.stop.set()
        else:
            controls.change(order.users, order.rate)

    async def report(self, within: float) -> Report:
        """The next report, after so many seconds, or at the end.

        Raises:
            RuntimeError: it has not begun.
        """
        if self._doing is None:
            raise RuntimeError("a worker is asked for a report before it begins")
        done, _ = await asyncio.wait({self._doing}, timeout=within)
        problem = ""
        if done and (error := self._doing.exception()) is not None:
            if not isinstance(error, LoadtestError):
                raise error
            problem = str(error)
        return self._reported(bool(done), problem)

    def _reported(self, done: bool, problem: str) -> Report:
        run, lines = self._run, bytes(self._lines)
        self._lines.clear()
        measured = msgspec.structs.replace(run.measured(), series=run.take_series())
        return Report(measured.fold(), lines, run.in_flight, run.wanted, run.left, done, problem)

    def _note(self, record: Record) -> None:
        encode(record, self._lines)


def jobs(scenario: Scenario, run: str, count: int, records: bool) -> list[Job]:
    """Those of `count` workers."""
    data = revealed(scenario)
    return [Job(data, run, index, count, records) for index in range(count)]
