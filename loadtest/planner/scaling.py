"""Autoscaling policies: what is observed of the fleet -> how many replicas there should be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from statistics import fmean
from typing import Protocol, TypeVar

from loadtest.planner.engine import Engine
from serving.scaling import Memory, Reading, Rule, Seen, Work, decide

T = TypeVar("T")
_LOOK_BACK = 30.0  # seconds that reports cover, as Ray Serve has it


@dataclass(frozen=True, slots=True)
class Observed:
    """The fleet at a moment. `ongoing` requests run or wait, in the mean of the last 30 s;
    `ongoing` is `None`, and there are no `readings`, if the reports are missing. `target` replicas
    serve or are being started."""

    at: float
    target: int
    serving: int
    ongoing: float | None
    readings: tuple[Reading, ...] = ()


class Policy(Protocol):
    """Asked every `interval` seconds."""

    interval: float

    def desired(self, seen: Observed) -> int:
        """How many replicas there should be."""


@dataclass(slots=True)
class QueueAndBacklog:
    """The service's own: the step that its replicas' autoscaler takes."""

    rule: Rule
    least: int = 1
    most: int = 1
    interval: float = 10.0
    _memory: Memory = field(default=Memory(), init=False)

    def desired(self, seen: Observed) -> int:
        """See `Policy`."""
        what = Seen(seen.at, seen.target, seen.serving, seen.readings)
        found = decide(self.rule, self._memory, what, self.least, self.most)
        self._memory = found.memory
        return found.replicas


@dataclass(slots=True)
class OngoingRequests:
    """Ray Serve's default: ongoing requests over the target for one replica, once that has asked
    for the same direction throughout the delay. Missing reports count as no requests, as those of
    handles that Serve has dropped; with `fail_static` as the last ones, which is what it does with
    reports that replicas themselves send."""

    target_ongoing: float
    least: int = 1
    most: int = 1
    upscale_delay: float = 30.0
    downscale_delay: float = 600.0
    interval: float = 10.0
    fail_static: bool = False
    _since: float = field(default=0.0, init=False)
    _direction: int = field(default=0, init=False)

    def desired(self, seen: Observed) -> int:
        """See `Policy`."""
        if seen.ongoing is None and self.fail_static:
            return seen.target
        wanted = ceil((seen.ongoing or 0) / self.target_ongoing - 1e-9)
        wanted = min(self.most, max(self.least, wanted))
        direction = (wanted > seen.target) - (wanted < seen.target)
        if direction != self._direction:
            self._direction, self._since = direction, seen.at
        delay = self.upscale_delay if direction > 0 else self.downscale_delay
        if direction == 0 or seen.at - self._since < delay:
            return seen.target
        self._since, self._direction = seen.at, 0
        return wanted


class Reports:
    """What replicas have told, for as long as it is looked back."""

    def __init__(self) -> None:
        self._ongoing: deque[tuple[float, int]] = deque()
        self._arrived: dict[int, deque[tuple[float, tuple[float, ...]]]] = {}

    def observed(
        self, at: float, target: int, engines: Iterable[Engine], queued: int, blind: bool
    ) -> Observed:
        """A look at replicas that serve; `queued` requests wait at the router."""
        engines = list(engines)
        ongoing = queued + sum(each.ongoing for each in engines)
        _append(self._ongoing, at, ongoing)
        known = {each.number for each in engines}
        self._arrived = {n: kept for n, kept in self._arrived.items() if n in known}
        readings = tuple(self._reading(at, each) for each in engines)
        if blind:
            return Observed(at, target, len(engines), None)
        mean = fmean(count for _, count in self._ongoing)
        return Observed(at, target, len(engines), mean, tuple(filter(None, readings)))

    def _reading(self, at: float, engine: Engine) -> Reading | None:
        kept = self._arrived.setdefault(engine.number, deque())
        now = tuple(engine.arrived)
        _append(kept, at, now)
        then, first = kept[0]
        if at <= then:
            return None
        came = Work(*(b - a for a, b in zip(first, now, strict=True))).over(at - then)
        waiting, oldest = Work(), at
        for request in engine.waiting:
            waiting = waiting.plus(Work(request.prompt, request.output, request.tiles))
            oldest = min(oldest, request.due)
        return Reading(came, waiting, at - oldest)


def _append(kept: deque[tuple[float, T]], at: float, value: T) -> None:
    kept.append((at, value))
    while kept[0][0] < at - _LOOK_BACK - 1e-9:
        kept.popleft()
