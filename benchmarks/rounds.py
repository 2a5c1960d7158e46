"""Comparing two sides fairly on a machine that others use: in pairs, alternating, as ratios.

Load that comes and goes slows both members of a pair; the ratio within the pair, and the median of
these ratios over the rounds, hold still where rates do not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest value it was taken from."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))

    @classmethod
    def confident(cls, values: Sequence[float]) -> Spread:
        """The median of at least six values and where that of many more would be, at 95 %.

        By order statistics, which suppose nothing of how the values are distributed.
        """
        ordered, count = sorted(values), len(values)
        tails = list(accumulate(comb(count, k) / 2**count for k in range(count)))
        outside = max((k for k, tail in enumerate(tails) if 2 * tail <= 0.05), default=None)
        if outside is None:
            raise ValueError(f"{count} values tell too little of their median")
        return cls(median(ordered), ordered[outside], ordered[-1 - outside])

    def text(self, digits: int = 2) -> str:
        """For people: `1.04 (0.98 to 1.10)`."""
        shown = (f"{value:.{digits}f}" for value in (self.median, self.low, self.high))
        return "{} ({} to {})".format(*shown)

    def json(self) -> dict[str, float]:
        """For files, at four significant digits."""
        values = {"median": self.median, "min": self.low, "max": self.high}
        return {name: float(f"{value:.4g}") for name, value in values.items()}


def orders(sides: Sequence[str], rounds: int, seed: int = 0) -> list[list[str]]:
    """The order of the sides in each round: alternately forwards and backwards when there are two.

    With more, each round shuffles them. An advantage of going first or last so averages out.
    """
    if len(sides) == 2:
        return [list(sides) if index % 2 == 0 else list(reversed(sides)) for index in range(rounds)]
    generator = random.Random(seed)
    return [generator.sample(sides, len(sides)) for _ in range(rounds)]


def ratios(rounds: Sequence[Mapping[str, float]], numerator: str, denominator: str) -> Spread:
    """The spread over the rounds of one side's figure over the other's."""
    return Spread.of([figures[numerator] / figures[denominator] for figures in rounds])


def each(rounds: Sequence[Mapping[str, float]], side: str) -> Spread:
    """The spread of one side's figure."""
    return Spread.of([figures[side] for figures in rounds])
