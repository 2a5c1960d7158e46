"""How much work comes and waits, for whoever decides on the number of replicas. Pure.

What is done in the background asks for nobody: it takes what is left.
"""

from __future__ import annotations

from serving.scaling import Work


class Demand:
    """Counts of one replica: all work that ever came, and what of it waits since when."""

    def __init__(self) -> None:
        self.arrived = Work()
        self._waiting: dict[object, tuple[float, Work]] = {}  # in order of when they came
        self._sum = Work()

    def come(self, work: Work) -> None:
        """A request is here; it is counted whatever becomes of it."""
        self.arrived = self.arrived.plus(work)

    def wait(self, item: object, work: Work, now: float) -> None:
        """One that has come waits."""
        self._sum = self._sum.plus(work)
        self._waiting[item] = now, work

    def leave(self, item: object) -> None:
        """It waits no more."""
        if found := self._waiting.pop(item, None):
            self._sum = self._sum.plus(found[1], -1)

    def correct(self, expected: Work, used: Work) -> None:
        """It is over; what it was is known."""
        self.arrived = self.arrived.plus(used).plus(expected, -1)

    def stats(self, now: float) -> dict[str, float]:
        """As Ray Serve takes them."""
        oldest = next(iter(self._waiting.values()), (now,))[0]
        return {
            "input": self.arrived.input,
            "output": self.arrived.output,
            "tiles": self.arrived.tiles,
            "waiting_input": self._sum.input,
            "waiting_output": self._sum.output,
            "waiting_tiles": self._sum.tiles,
            "queued": now - oldest,
        }
