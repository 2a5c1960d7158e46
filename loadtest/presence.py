"""How long users were there, whoever they were: what a closed loop offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loadtest.client import clock


class Presence:
    """User-seconds of a run that ends at `deadline`, which may yet come sooner."""

    def __init__(self, deadline: Callable[[], float]) -> None:
        self._deadline = deadline
        self._since: dict[object, float] = {}  # when users came who are there
        self._gone = 0.0

    @contextmanager
    def stay(self, begin: float) -> Iterator[None]:
        """A user is there from `begin` to the end of the block."""
        who = object()
        self._since[who] = begin
        try:
            yield
        finally:
            self._gone += self._until_now(self._since.pop(who))

    @property
    def seconds(self) -> float:
        """Of those who are gone and of those who are there, so far."""
        return self._gone + sum(map(self._until_now, self._since.values()))

    def _until_now(self, begin: float) -> float:
        return max(0.0, min(clock(), self._deadline()) - begin)
