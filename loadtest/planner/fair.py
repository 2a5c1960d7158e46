"""The queue: first in first out within a tenant, fair between tenants by what each has cost.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024),
which the service's admission queue has as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Tenants' items; the tenant with the least counter is next."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[T, float]]] = {}
        self._counters: dict[str, float] = {}
        self._level = 0.0
        self.count = 0

    def __iter__(self) -> Iterator[T]:
        return (item for queue in self._waiting.values() for item, _ in queue)

    def push(self, tenant: str, item: T, cost: float) -> None:
        """Append; `cost` is over the tenant's weight."""
        queue = self._waiting.get(tenant)
        if queue is None:
            # Back from idleness: nobody saves up.
            self._counters[tenant] = max(self._counters.get(tenant, 0.0), self._level)
            queue = self._waiting[tenant] = deque()
        queue.append((item, cost))
        self.count += 1

    def pass_through(self, tenant: str, cost: float) -> None:
        """Push and pop at once, of a queue in which nobody waits."""
        self._level = max(self._counters.get(tenant, 0.0), self._level)
        self._counters[tenant] = self._level + cost

    def peek(self) -> T:
        """The next item; there must be one."""
        return self._waiting[self._next()][0][0]

    def pop(self) -> T:
        """Remove and return the next item."""
        tenant = self._next()
        queue = self._waiting[tenant]
        item, cost = queue.popleft()
        self._level = self._counters[tenant]
        self._counters[tenant] += cost
        if not queue:
            del self._waiting[tenant]
        self.count -= 1
        return item

    def _next(self) -> str:
        if len(self._waiting) == 1:
            return next(iter(self._waiting))
        return min(self._waiting, key=self._counters.__getitem__)
