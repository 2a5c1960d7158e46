"""Fair shares under overload: who is next, by what each has cost the engine so far.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024):
every tenant has a counter of service received, over its weight; the one with the least is next. A
tenant that comes back from idleness starts at the counter of those who are waiting less a credit:
whoever sends its share at random moments is ahead of it now and behind it then, and waits for none
of that, but nobody saves up more. What is served while nobody waits is at nobody's expense and
counts for nothing: who had an idle engine for itself is not behind those who come then. Costs are
estimates when a turn is given, corrected when the truth is known. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from math import inf
from typing import Final

import msgspec

LAST: Final = 1 << 62
"""The priority of what gives way to everything."""
_PIXELS_PER_TOKEN = 196  # a tile of 560 x 560 becomes 1601 tokens
_MARGIN = 2  # requests; of those who always have somebody waiting each is one behind at times


class Waiting(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A request in the queue. `cost` in tokens of prompt-equivalent work."""

    flow: str
    cost: float
    tokens: int = 0
    pixels: int = 0
    weight: int = 1
    priority: int = 0


@dataclass(slots=True)
class _Flow:
    """One tenant."""

    counter: float = 0.0
    weight: int = 1
    queue: deque[Waiting] = field(default_factory=deque)
    tokens: int = 0
    pixels: int = 0


class FairQueue:
    """Requests waiting for the engine: first in, first out within a tenant, fair between them."""

    def __init__(self) -> None:
        self.tokens = 0
        self.pixels = 0
        self.cost = 0.0
        self.credit = 0.0  # the service that a tenant may have had less, and make up for
        self._flows: dict[str, _Flow] = {}
        self._active: dict[str, _Flow] = {}  # those with somebody waiting
        self._level = 0.0  # the counter of whoever was served last
        self._free: set[Waiting] = set()  # those served while nobody waited

    def __len__(self) -> int:
        return sum(len(flow.queue) for flow in self._active.values())

    @property
    def flows(self) -> Set[str]:
        """Tenants that have somebody waiting."""
        return self._active.keys()

    def heads(self) -> list[Waiting]:
        """The first of each tenant in the order of turns: by priority, then the least served."""
        flows = sorted(
            self._active.values(), key=lambda flow: (flow.queue[0].priority, flow.counter)
        )
        return [flow.queue[0] for flow in flows]

    def owes(self, item: Waiting, running: Iterable[str]) -> bool:
        """Whether another, who waits or runs, had more service than the item's tenant, by far."""
        names = {*running, *self._active}
        names.discard(item.flow)
        if not names:
            return False
        others = (self._flows.get(name) for name in names)
        most = max((flow.counter for flow in others if flow is not None), default=-inf)
        own = self._flows.get(item.flow, _Flow(-inf)).counter
        behind = most - max(own, self._level - self.credit)
        return behind >= _MARGIN * item.cost / item.weight

    def owed(self, running: Iterable[str]) -> Waiting | None:
        """The first of the least served tenant, if another owes it service."""
        least = min(self._active.values(), key=lambda flow: flow.counter, default=None)
        if least is None or not self.owes(least.queue[0], running):
            return None
        return least.queue[0]

    def push(self, item: Waiting) -> None:
        """Behind the others of its tenant."""
        flow = self._entered(item)
        if not self._active:
            self._charge_free()
        flow.queue.append(item)
        self._active[item.flow] = flow
        self._count(flow, item, 1)

    def pop(self, head: Waiting | None = None) -> Waiting:
        """Take one of the `heads`, the first unless told, and charge its cost.

        Raises:
            IndexError: nobody waits.
        """
        item = head or self.heads()[0]
        flow = self._flows[item.flow]
        flow.queue.popleft()
        self._count(flow, item, -1)
        self._left(item.flow, flow)
        self._level = max(self._level, flow.counter)
        flow.counter += item.cost / item.weight
        return item

    def serve(self, item: Waiting) -> None:
        """Somebody who need not wait: charge the cost if others do."""
        flow = self._entered(item)
        if not self._active:
            self._free.add(item)
            flow.counter = self._level - self.credit
            return
        self._level = max(self._level, flow.counter)
        flow.counter += item.cost / item.weight

    def remove(self, item: Waiting) -> None:
        """Somebody gave up waiting."""
        flow = self._flows[item.flow]
        flow.queue.remove(item)
        self._count(flow, item, -1)
        self._left(item.flow, flow)

    def correct(self, item: Waiting, more: float) -> None:
        """The item is done and cost so much more, or less, than was thought."""
        if item in self._free:
            self._free.remove(item)
        elif (flow := self._flows.get(item.flow)) is not None:
            flow.counter += more / item.weight

    def last_of_longest(self, item: Waiting) -> Waiting | None:
        """Who should make room for `item`: the last of whoever fills more of the queue with it.

        `None` if that is the item's own tenant.
        """
        longest = max(self._active.values(), key=_fill, default=None)
        own = self._flows.get(item.flow)
        if longest is None or longest is own:
            return None
        would = _fill(own or _Flow()) + _fill(item)
        return longest.queue[-1] if _fill(longest) > would else None

    def _entered(self, item: Waiting) -> _Flow:
        flow = self._flows.get(item.flow)
        if flow is None:
            if len(self._flows) > 10_000:
                self._forget()
            flow = self._flows[item.flow] = _Flow(-inf)
        flow.weight = item.weight
        if not flow.queue:
            flow.counter = max(flow.counter, self._level - self.credit)
        return flow

    def _charge_free(self) -> None:
        """Somebody waits: from now on what runs is at others' expense."""
        running, self._free = self._free, set()
        for item in running:
            self.correct(item, item.cost)

    def _left(self, name: str, flow: _Flow) -> None:
        if not flow.queue:
            del self._active[name]

    def _forget(self) -> None:
        """Idle tenants that have nothing to make up for."""
        self._flows = {
            name: flow
            for name, flow in self._flows.items()
            if name in self._active or flow.counter > self._level - self.credit
        }

    def _count(self, flow: _Flow, item: Waiting, sign: int) -> None:
        for each in (flow, self):
            each.tokens += sign * item.tokens
            each.pixels += sign * item.pixels
        self.cost += sign * item.cost


def _fill(what: _Flow | Waiting) -> float:
    return what.tokens + what.pixels / _PIXELS_PER_TOKEN
