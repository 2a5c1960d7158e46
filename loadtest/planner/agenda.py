"""What happens next in a simulation, in order of time; of equals what was planned first."""

from __future__ import annotations

from enum import IntEnum
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Event(IntEnum):
    """Kinds. TICK: the autoscaler looks; CUT: a request's pictures have been cut."""

    READY = 0
    STRETCH = 1
    DUE = 2
    TICK = 3
    FAIL = 4
    UPDATE = 5
    CUT = 6


Planned = tuple[float, int, int, Any, int]
"""When, which in order of planning, the kind, of what, and of which version of that."""


class Agenda:
    """What is planned."""

    def __init__(self) -> None:
        self._planned: list[Planned] = []
        self._order = count()

    def plan(self, at: float, kind: int, what: Any = None, version: int = 0) -> None:
        """Something will happen."""
        heappush(self._planned, (at, next(self._order), kind, what, version))

    def next_at(self) -> float:
        """When the next is; infinity if nothing is planned."""
        return self._planned[0][0] if self._planned else float("inf")

    def pop(self) -> Planned:
        """The next; there must be one."""
        return heappop(self._planned)

    def only_looks(self) -> bool:
        """Whether nothing is left but the autoscaler's looks."""
        return all(each[2] == Event.TICK for each in self._planned)
