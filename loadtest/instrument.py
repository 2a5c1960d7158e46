"""What a run says of itself: the instrument's own error, and whether the run can be believed."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from loadtest.client import clock
from loadtest.histogram import Histogram, merged
from loadtest.series import Series

_TICK = 0.02


class Measured(msgspec.Struct, kw_only=True):
    """A finished run, or one worker's part of it: mergeable, and JSON on the way home.

    `window` is the time in which requests were due; `offered` the requests due in it (open loop)
    or the seconds that users were to be there (closed loop), of which `missed` nobody was: lost
    workers. Of `lost` workers, `replaced` had others take over.
    """

    series: Series
    open_loop: bool
    window: float
    offered: float
    started: int = 0
    unfinished: int = 0
    most_in_flight: int = 0
    opened: int = 0
    requests: int = 0
    cpu: float = 0.0  # seconds
    wall: float = 0.0
    busiest: float = 0.0  # CPU seconds per second of the busiest process
    lag: Histogram = msgspec.field(default_factory=Histogram)
    parsing: Histogram = msgspec.field(default_factory=Histogram)
    planned_hits: float | None = None
    workers: int = 1
    lost: int = 0
    replaced: int = 0
    missed: float = 0.0
    stopped: bool = False

    def merge(self, other: Measured) -> None:
        """Add another worker's part."""
        self.series.merge(other.series)
        self.offered += other.offered
        self.window = max(self.window, other.window)
        self.started += other.started
        self.unfinished += other.unfinished
        self.most_in_flight += other.most_in_flight
        self.opened += other.opened
        self.requests += other.requests
        self.cpu += other.cpu
        self.wall = max(self.wall, other.wall)
        self.busiest = max(self.busiest, other.busiest)
        self.lag = merged((self.lag, other.lag))
        self.parsing = merged((self.parsing, other.parsing))
        self.workers += other.workers
        self.missed += other.missed
        self.stopped = self.stopped or other.stopped

    def fold(self) -> Measured:
        """Make it ready to be encoded. Returns itself."""
        self.series.fold()
        self.lag.fold()
        self.parsing.fold()
        return self


class Meter:
    """The event loop's lag and the CPU time of this process, from now on until stopped."""

    def __init__(self) -> None:
        self.lag = Histogram(buckets={})
        self._cpu, self._began = time.process_time(), clock()
        self._task = asyncio.create_task(self._tick())

    @property
    def cpu(self) -> float:
        """Seconds."""
        return time.process_time() - self._cpu

    @property
    def wall(self) -> float:
        """Seconds."""
        return max(1e-9, clock() - self._began)

    def stop(self) -> None:
        """No more looks at the loop."""
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            due = clock() + _TICK
            await asyncio.sleep(_TICK)
            self.lag.add(clock() - due)


def loop_name() -> str:
    """Which event loop runs."""
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


def machine() -> dict[str, Any]:
    """What of this machine may bend a run: cores, load, the processor's governor."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "governor": governor.read_text().strip() if governor.exists() else None,
    }
