"""Distributions of lengths, counts and times, in the notation of `expressions`."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from loadtest.core import UsageError
from loadtest.expressions import Call, parse

_ARGUMENTS = {"": 1, "uniform": 2, "normal": 2, "lognormal": 2, "exponential": 1}


@dataclass(frozen=True, slots=True)
class Distribution:
    """`12`, `uniform(a, b)`, `normal(mean, deviation)`, `lognormal(median, sigma)`,
    `exponential(mean)`, `choice(a, b, ...)`."""

    call: Call

    @classmethod
    def parse(cls, text: str | float) -> Distribution:
        """Read one.

        Raises:
            UsageError: it is none, or has the wrong number of arguments.
        """
        call = parse(text)
        if call.name == "choice" and call.numbers:
            return cls(call)
        if _ARGUMENTS.get(call.name) != len(call.numbers):
            raise UsageError(f"not a distribution: {text!r}; try 512 or lognormal(512, 0.5)")
        return cls(call)

    def draw(self, rng: random.Random) -> float:
        """Never negative."""
        numbers = self.call.numbers
        match self.call.name:
            case "":
                value = numbers[0]
            case "uniform":
                value = rng.uniform(*numbers)
            case "normal":
                value = rng.gauss(*numbers)
            case "lognormal":
                value = rng.lognormvariate(math.log(numbers[0]), numbers[1])
            case "exponential":
                value = rng.expovariate(1 / numbers[0]) if numbers[0] else 0.0
            case _:
                value = rng.choice(numbers)
        return max(0.0, value)

    def draw_count(self, rng: random.Random, least: int = 0) -> int:
        """A whole number, at least `least`."""
        if not self.call.name:
            return max(least, round(self.call.numbers[0]))
        return max(least, round(self.draw(rng)))
