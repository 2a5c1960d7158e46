"""The order at the engine: tenants take turns, and each one's own requests keep their order.

Self-clocked fair queueing (Golestani, "A Self-Clocked Fair Queueing Scheme for Broadband
Applications", INFOCOM 1994) of requests, not of what they cost, which the turns before have shared
out: a request's tag is one more than that of its tenant's last, over the weight, and no less than
that of whoever ended last. So what a tenant has let in at once does not come before what another
sends next, and one that is gone for a while does not save turns up. Pure.
"""

from __future__ import annotations

from collections import Counter

from serving.admission.fair import Waiting


class Order:
    """Of the requests that run at one engine."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()  # by tenant
        self._tags: dict[Waiting, float] = {}
        self._last: dict[str, float] = {}  # of each tenant that runs
        self._now = 0.0

    def enter(self, item: Waiting) -> None:
        """It runs from now on; `leave` must follow."""
        tag = max(self._now, self._last.get(item.flow, 0.0)) + 1 / item.weight
        self._tags[item] = self._last[item.flow] = tag
        self.running[item.flow] += 1

    def leave(self, item: Waiting) -> None:
        """It has ended."""
        self._now = max(self._now, self._tags.pop(item))
        self.running[item.flow] -= 1
        if not self.running[item.flow]:
            del self.running[item.flow], self._last[item.flow]

    def tag(self, item: Waiting) -> float:
        """Less goes first. Of one that runs."""
        return self._tags[item]
