"""The largest load that meets an objective, as an interval, with what it cost to find.

Each probe is a run that ends as soon as it is decided. Objectives on a percentile and on errors
are shares of requests (`ttft p95 < 500ms`: more than 95 % of requests below it), so they are
decided by a sequential test: an interval of the share that holds at every look (Wilson's, with
the error spread over the looks). Others are decided at the end of the probe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from loadtest.core import Record, RunError
from loadtest.intervals import wilson
from loadtest.slo import Objective

_LOOKS = 20  # of one probe; each is taken to spend an equal part of 5 % error
_LEVEL = 1 - 0.05 / _LOOKS
_LEAST = 20  # requests before the first look
_CLIFF = 2.0


@dataclass(slots=True)
class Trial:
    """One objective against the requests of one probe, as they end."""

    objective: Objective
    allowed: float  # share of requests that may miss it
    count: int = 0
    misses: int = 0

    @classmethod
    def of(cls, objective: Objective) -> Trial | None:
        """`None` where the objective is not one on a share of requests."""
        if objective.quantity == "errors" and objective.below:
            return cls(objective, objective.limit)
        share = objective.share
        if share is None or not objective.below or objective.quantity == "itl":
            return None
        return cls(objective, 1 - share)

    def add(self, record: Record) -> None:
        """Count one request. A failed one misses every objective."""
        value = _value(self.objective.quantity, record)
        if value is None and not record.error:
            return
        self.count += 1
        self.misses += bool(record.error) or (value is not None and value >= self.objective.limit)

    def decision(self) -> bool | None:
        """Met, missed, or not known yet."""
        if self.count < _LEAST:
            return None
        low, high = wilson(self.misses, self.count, _LEVEL)
        if low > self.allowed:
            return False
        return True if high < self.allowed else None


@dataclass(frozen=True, slots=True)
class Probe:
    """One load and what came of it."""

    load: float
    met: bool
    decided: str  # "early" or "at the end"
    requests: int
    seconds: float
    values: dict[str, float | None]
    verdict: str


@dataclass(slots=True)
class Judge:
    """An observer of a probe that calls `stop` when all is decided, or one objective missed.

    That all are met is not believed before `patience` seconds: queues take time to grow.
    """

    objectives: tuple[Objective, ...]
    patience: float
    stop: Callable[[], None]
    tests: list[Trial] = field(default_factory=list)
    decided: bool | None = None
    _every: int = 0

    def __post_init__(self) -> None:
        self.tests = [test for test in map(Trial.of, self.objectives) if test]

    def __call__(self, record: Record) -> None:
        if self.decided is not None:
            return
        for test in self.tests:
            test.add(record)
        self._every += 1
        if self._every % _LEAST:
            return
        decisions = [test.decision() for test in self.tests]
        if False in decisions:
            self.decided = False
        elif (
            len(self.tests) == len(self.objectives)
            and None not in decisions
            and record.intended > self.patience
        ):
            self.decided = True
        if self.decided is not None:
            self.stop()


async def search(
    probe: Callable[[float], Awaitable[Probe]],
    begin: float,
    most: float,
    precision: float,
    whole: bool,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Double until a probe misses, then halve the bracket until it is `precision` narrow.

    `whole`: loads are whole numbers (users).

    Raises:
        RunError: not even the least load meets the objective.
    """
    probes: list[Probe] = []

    async def ask(load: float) -> Probe:
        found = await probe(load)
        probes.append(found)
        say(_said(found))
        return found

    low, high = await _bracket(ask, begin, most, whole)
    while high is not None and high - low > max(precision * low, 1.0 if whole else 0.0):
        middle = (low + high) / 2
        middle = float(round(middle)) if whole else middle
        if middle in (low, high):
            break
        if (await ask(middle)).met:
            low = middle
        else:
            high = middle
    return _answer(low, high, probes)


async def _bracket(
    ask: Callable[[float], Awaitable[Probe]], begin: float, most: float, whole: bool
) -> tuple[float, float | None]:
    load = begin
    if not (await ask(load)).met:
        while load > (1 if whole else begin / 64):
            high, load = load, max(1.0, load // 2) if whole else load / 2
            if (await ask(load)).met:
                return load, high
        raise RunError(f"not even {load:g} meets the objective")
    while load < most:
        low, load = load, min(most, load * 2)
        if not (await ask(load)).met:
            return low, load
    return load, None


def _answer(low: float, high: float | None, probes: list[Probe]) -> dict[str, Any]:
    return {
        "largest_met": low,
        "smallest_missed": high,
        "cliff": high is not None and _cliff(low, high, probes),
        "probes": len(probes),
        "seconds": round(sum(probe.seconds for probe in probes), 1),
        "trail": [{name: getattr(probe, name) for name in Probe.__slots__} for probe in probes],
    }


def _cliff(low: float, high: float, probes: list[Probe]) -> bool:
    """Whether a value more than doubled in the last step: there is no room beyond."""
    below = next(probe for probe in reversed(probes) if probe.load == low)
    above = next(probe for probe in reversed(probes) if probe.load == high)
    pairs = ((below.values[key], above.values[key]) for key in below.values)
    return any(a and b and b > _CLIFF * a * (high / low) for a, b in pairs)


def _said(probe: Probe) -> str:
    values = ", ".join(
        f"{key}: {'-' if value is None else f'{value:.4g}'}" for key, value in probe.values.items()
    )
    return (
        f"{probe.load:>8g}  {'met   ' if probe.met else 'missed'}  {values}  "
        f"({probe.requests} requests, {probe.seconds:.1f} s, decided {probe.decided}"
        f"{', INVALID' if probe.verdict == 'INVALID' else ''})"
    )


def _value(quantity: str, record: Record) -> float | None:
    if quantity == "errors":
        return None if record.error else -1.0
    begin = record.sent if quantity.startswith("service") else record.intended
    if quantity.endswith("e2e"):
        return record.end - begin
    if quantity == "tpot":
        return sum(record.gaps) / 1e6 / (record.tokens - 1) if record.tokens > 1 else None
    return None if record.first_token is None else record.first_token - begin
