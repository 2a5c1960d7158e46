"""What all parts of a plan are computed from: what a replica bears, alone and in a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from loadtest.core import UsageError
from loadtest.planner.capacity import Capacity, capacity, interval
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Replica

_DRAWS = 8
_FLEET = 4  # replicas simulated for what a fleet does to one's capacity


@dataclass(frozen=True, slots=True)
class Basis:
    """`low` to `high`: requests a second of one replica, by models that fit about as well."""

    forecast: Forecast
    replica: Replica
    alone: Capacity
    fleet: Capacity
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Of one replica among others, or alone if that is less."""
        return min(self.fleet.rate, self.alone.rate)

    def needed(self, rate: float, capacity: float | None = None) -> int:
        """Replicas for a mean rate with its bursts, and nothing to spare."""
        wanted = rate * self.forecast.burst / (capacity or self.rate)
        return max(self.forecast.fleet.least, ceil(wanted - 1e-9))


def basis(forecast: Forecast, replica: Replica) -> Basis:
    """Simulate what is asked about.

    Raises:
        UsageError: not even one request at a time keeps the objectives.
    """
    alone = capacity(replica, forecast)
    if not alone.rate:
        missed = "; ".join(alone.missed.missed)
        raise UsageError(f"not even one request at a time keeps the objectives: {missed}")
    fleet = capacity(replica, forecast, _FLEET, alone.rate, 1.15)
    low, high = interval(replica, forecast, _DRAWS, alone.rate)
    return Basis(forecast, replica, alone, fleet, min(low, alone.rate), max(high, alone.rate))
