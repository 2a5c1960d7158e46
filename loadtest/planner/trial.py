"""What no equation tells: the runs are simulated until they take as long as they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from msgspec.structs import replace

from loadtest.core import Record
from loadtest.planner.check import again
from loadtest.planner.model import Replica

_HALVINGS = 10
_MOST_NOTICE = 0.05  # seconds
_ENOUGH = 5000  # requests of a run


def noticing(
    replica: Replica, runs: Sequence[Sequence[Record]], tiles_of: Mapping[str, int]
) -> Replica:
    """With how late its engine, when at work, knows of requests (`Costs.notice`), for first tokens
    to take as long in the mean as they did; 0 if they would be slower without."""

    runs = [sorted(run, key=lambda record: record.sent)[:_ENOUGH] for run in runs]

    def noticed(seconds: float) -> Replica:
        return replace(
            replica,
            costs=replace(replica.costs, notice=seconds),
            draws=tuple(replace(each, notice=seconds) for each in replica.draws),
        )

    def late(seconds: float) -> float:
        found = [again(noticed(seconds), run, tiles_of, 1) for run in runs]
        return fmean(_first(each) for each in found)

    return noticed(_bisected(late, fmean(_first(run) for run in runs), _MOST_NOTICE))


def crowding(
    replica: Replica, records: Sequence[Record], tiles_of: Mapping[str, int], replicas: int
) -> float:
    """How much the replicas of one machine slow each other down, for their answers to take as long
    in the mean as they did; 0 if they would be slower without."""

    def slow(share: float) -> float:
        return _whole(again(replace(replica, crowding=share), records, tiles_of, replicas))

    return _bisected(slow, _whole(records), 1.0)


def _bisected(rising: Callable[[float], float], wanted: float, most: float) -> float:
    """Where the function, from 0 to `most`, is what is wanted."""
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > wanted else (middle, high)
    return low


def _first(records: Sequence[Record]) -> float:
    """Mean seconds from when requests were sent to their first tokens."""
    return fmean(r.first_token - r.sent for r in records if not r.error and r.first_token)


def _whole(records: Sequence[Record]) -> float:
    """Mean seconds from when requests were sent to their last tokens."""
    return fmean(record.end - record.sent for record in records if not record.error)
