"""A model held against a run it has not seen: the same requests, simulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadtest.core import Record
from loadtest.planner.model import Replica
from loadtest.planner.requests import Load, of_records
from loadtest.planner.simulate import Setting, Simulation
from loadtest.series import Series, Tally, total
from loadtest.summary import quantiles

_QUANTITIES = ("service_ttft", "tpot", "service_e2e")
_STATISTICS = ("p50", "p95", "mean")
_TIMES = 3  # that a fleet is simulated: which replica a request falls on is chance


def tally(records: Iterable[Record]) -> Tally:
    """All of them together."""
    series = Series.over(None)
    for record in records:
        series.add(record)
    return total(series.timeline())


def check(
    replica: Replica, records: Sequence[Record], tiles_of: Mapping[str, int], replicas: int = 1
) -> list[dict[str, Any]]:
    """What was measured and what is predicted, in ms, for all requests and for those with images
    and without."""
    found = []
    simulated = again(replica, records, tiles_of, replicas)
    for part, chosen in (("all", None), ("text", False), ("image", True)):
        sides = [
            tally(r for r in each if chosen in (None, tiles_of.get(r.tenant, 0) > 0))
            for each in ([r for r in records if not r.error], simulated)
        ]
        if chosen is not None and sides[1].requests in (0, len(simulated)):
            continue
        found += [
            _row(part, name, statistic, sides) for name in _QUANTITIES for statistic in _STATISTICS
        ]
    return found


def again(
    replica: Replica, records: Sequence[Record], tiles_of: Mapping[str, int], replicas: int
) -> list[Record]:
    """The same requests, simulated."""
    found: list[Record] = []
    for seed in range(_TIMES if replicas > 1 else 1):
        load = Load(of_records(records, tiles_of))
        setting = Setting(replicas, seed=seed, together=replicas)
        found += Simulation(replica, load, setting).records()
    return found


def _row(part: str, name: str, statistic: str, sides: Sequence[Tally]) -> dict[str, Any]:
    measured, predicted = (quantiles(getattr(each, name))[statistic] for each in sides)
    error = predicted / measured - 1 if measured and predicted is not None else None
    return {
        "requests": part,
        "quantity": f"{name} {statistic}",
        "measured_ms": measured,
        "predicted_ms": predicted,
        "error": None if error is None else round(error, 4),
    }
