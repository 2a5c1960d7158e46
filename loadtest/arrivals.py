"""When requests are due: absolute schedules, computed before the run from a seed.

A `Profile` says the rate at each moment, a `Process` how arrivals scatter around it; the schedule
is a process of rate one whose times are bent by the inverse of the profile's integral. So every
process follows every profile, and a Poisson count stays a Poisson count.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from loadtest.core import UsageError
from loadtest.expressions import Call, parse

_SINE_PIECES = 32  # straight pieces in one period: at most 0.5 % beside the sine


@dataclass(frozen=True, slots=True)
class Profile:
    """Rates (1/s) at moments (s), straight in between, constant after the last."""

    knots: tuple[tuple[float, float], ...]

    def rate(self, at: float) -> float:
        """Requests per second at a moment."""
        index = max(0, bisect_right(self.knots, (at, math.inf)) - 1)
        t0, r0 = self.knots[index]
        if index + 1 == len(self.knots):
            return r0
        t1, r1 = self.knots[index + 1]
        return r0 + (r1 - r0) * (at - t0) / (t1 - t0)

    def scaled(self, factor: float) -> Profile:
        """The same shape with `factor` times the rate."""
        return Profile(tuple((t, r * factor) for t, r in self.knots))

    def areas(self) -> list[float]:
        """Requests expected before each knot."""
        pieces = ((t1 - t0) * (r0 + r1) / 2 for (t0, r0), (t1, r1) in pairwise(self.knots))
        return list(accumulate(pieces, initial=0.0))


@dataclass(frozen=True, slots=True)
class Process:
    """Gaps of a process of rate one: `constant`, `poisson`, or `gamma` with a coefficient of
    variation (1 is Poisson, 4 is bursty)."""

    kind: str = "poisson"
    cv: float = 1.0

    def gaps(self, rng: random.Random) -> Iterator[float]:
        """Endless."""
        shape = 1 / self.cv**2
        while True:
            if self.kind == "constant":
                yield 1.0
            elif self.kind == "poisson":
                yield rng.expovariate(1.0)
            else:
                yield rng.gammavariate(shape, 1 / shape)


def schedule(
    profile: Profile, process: Process, duration: float, seed: str, most: int | None = None
) -> list[float]:
    """Seconds after the start at which requests are due, in order, all below `duration`.

    Of more than `most` the first.
    """
    rng = random.Random(f"arrivals {seed}")
    areas = profile.areas()
    times: list[float] = []
    # A constant process starts at once; the others in the middle of their first gap.
    position = -1.0 if process.kind == "constant" else 0.0
    for gap in process.gaps(rng):
        position += gap
        at = _inverse(profile, areas, position)
        if at >= duration or len(times) == most:
            return times
        times.append(at)
    raise AssertionError("the gaps are endless")


def _inverse(profile: Profile, areas: list[float], area: float) -> float:
    """The moment by which `area` requests are expected; infinity if never."""
    index = bisect_right(areas, area) - 1
    t0, r0 = profile.knots[index]
    rest = area - areas[index]
    if index + 1 == len(areas):
        return t0 + rest / r0 if r0 > 0 else math.inf
    t1, r1 = profile.knots[index + 1]
    slope = (r1 - r0) / (t1 - t0)
    if abs(slope) < 1e-12:
        return t0 + rest / r0
    return t0 + (math.sqrt(max(0.0, r0 * r0 + 2 * slope * rest)) - r0) / slope


def profile(text: str, duration: float) -> Profile:
    """Read a rate: `10`, `ramp(1, 20)`, `steps(5, 10, 20)`, `spike(5, 50)`, `sine(5, 20, 60)`.

    `ramp(from, to)` and `steps(...)` fill the duration; `spike(base, peak)` has its peak in the
    middle fifth, `spike(base, peak, at, for)` where told; `sine(low, high, period)` starts low.

    Raises:
        UsageError: it is none of these, or a rate is negative or never above zero.
    """
    call = parse(text)
    if call.name not in _SHAPES:
        raise UsageError(f"not a rate: {text!r}; try 10 or {', '.join(_SHAPES)}")
    try:
        found = Profile(_distinct(_SHAPES[call.name](call, duration)))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"not a rate: {text!r}") from error
    if min(r for _, r in found.knots) < 0 or max(r for _, r in found.knots) <= 0:
        raise UsageError(f"a rate must be above zero: {text!r}")
    return found


def process(text: str) -> Process:
    """Read an arrival process: `constant`, `poisson`, `gamma(cv)`.

    Raises:
        UsageError: it is none of these.
    """
    call = parse(text)
    if call.name == "gamma" and len(call.numbers) == 1 and call.numbers[0] > 0:
        return Process("gamma", call.numbers[0])
    if call.name in ("constant", "poisson") and not call.numbers:
        return Process(call.name)
    raise UsageError(f"not an arrival process: {text!r}; try constant, poisson or gamma(2)")


Knots = list[tuple[float, float]]


def _constant(call: Call, duration: float) -> Knots:
    (rate,) = call.numbers
    return [(0.0, rate)]


def _ramp(call: Call, duration: float) -> Knots:
    low, high = call.numbers
    return [(0.0, low), (duration, high)]


def _steps(call: Call, duration: float) -> Knots:
    width = duration / len(call.numbers)
    knots: Knots = []
    for index, rate in enumerate(call.numbers):
        knots += [(index * width, rate), ((index + 1) * width, rate)]
    return knots


def _spike(call: Call, duration: float) -> Knots:
    base, peak, *where = call.numbers
    at, width = where or (0.4 * duration, 0.2 * duration)
    return [(0.0, base), (at, base), (at, peak), (at + width, peak), (at + width, base)]


def _sine(call: Call, duration: float) -> Knots:
    low, high, period = call.numbers
    step = period / _SINE_PIECES
    middle, swing = (low + high) / 2, (high - low) / 2
    return [
        (i * step, middle - swing * math.cos(2 * math.pi * i / _SINE_PIECES))
        for i in range(math.ceil(duration / step) + 1)
    ]


_SHAPES = {"": _constant, "ramp": _ramp, "steps": _steps, "spike": _spike, "sine": _sine}


def _distinct(knots: Knots) -> tuple[tuple[float, float], ...]:
    """Jumps become slopes of a nanosecond, so that moments strictly rise."""
    rising: Knots = []
    for at, rate in knots:
        if rising and at <= rising[-1][0]:
            at = rising[-1][0] + 1e-9
        rising.append((at, rate))
    return tuple(rising)
