"""Where limits are kept: here in this process, or in `redis` for all replicas."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from serving.admission.charges import Charge, Lease, Quota, Rate, Refusal, arrive

Differences = Sequence[tuple[Charge, int]]
"""What settling adds to each charge; a lease ends whatever is added."""

Used = Callable[[Sequence[Quota]], Awaitable[Mapping[str, int]]]
"""What quotas have lost already by the usage in the database, by their keys.

Raises StoreDown. Asked when a quota is first met, and again when a store may have forgotten."""


async def unknown(quotas: Sequence[Quota]) -> Mapping[str, int]:
    """A `Used` for those who have no database: nothing yet."""
    return dict.fromkeys((quota.key for quota in quotas), 0)


class Store(Protocol):
    """Keeps the state of charges."""

    async def reserve(self, request: str, charges: Sequence[Charge]) -> Refusal | dict[str, float]:
        """Take all charges, or none; the TATs of the rates by key, in this process's Unix time.

        Raises:
            StoreDown: it cannot be reached.
        """
        ...

    def settle(self, request: str, differences: Differences) -> None:
        """Correct what was reserved and end leases. Never waits, never fails."""
        ...


class Memory:
    """A `Store` for one replica. For one thread."""

    def __init__(self, used: Used = unknown) -> None:
        self._before = used
        self._tats: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._ends: dict[str, float] = {}

    async def reserve(self, request: str, charges: Sequence[Charge]) -> Refusal | dict[str, float]:
        """See `Store.reserve`."""
        new = [c for c in charges if isinstance(c, Quota) and c.key not in self._used]
        if new:
            # Whoever else asked meanwhile may have counted already.
            self._used = {**await self._before(new), **self._used}
        now = time.time()
        tats: dict[str, float] = {}
        for charge in charges:
            wait = self._wait(charge, now, tats)
            if wait > 0:
                return Refusal(charge, wait)
        self._tats |= tats
        for charge in charges:
            self._take(charge)
        if len(self._tats) + len(self._ends) > 100_000:
            self._forget(now)
        return tats

    def settle(self, request: str, differences: Differences) -> None:
        """See `Store.settle`."""
        for charge, difference in differences:
            match charge:
                case Rate():
                    tat = max(self._tats.get(charge.key, 0.0), time.time())
                    self._tats[charge.key] = tat + difference * charge.interval
                case Quota():
                    self._used[charge.key] = self._used.get(charge.key, 0) + difference
                case Lease():
                    self._running[charge.key] -= 1
                    if not self._running[charge.key]:
                        del self._running[charge.key]

    def _wait(self, charge: Charge, now: float, tats: dict[str, float]) -> float:
        """Seconds until the charge fits, 0 or less if it does."""
        match charge:
            case Rate(limit=0):
                return charge.period
            case Rate():
                tats[charge.key], wait = arrive(self._tats.get(charge.key, 0.0), now, charge)
                return wait
            case Quota():
                full = self._used.get(charge.key, 0) + charge.cost > charge.limit
                return charge.ends - now if full else 0.0
            case Lease():
                return 1.0 if self._running.get(charge.key, 0) >= charge.limit else 0.0

    def _take(self, charge: Charge) -> None:
        match charge:
            case Quota():
                self._used[charge.key] = self._used.get(charge.key, 0) + charge.cost
                self._ends[charge.key] = charge.ends
            case Lease():
                self._running[charge.key] = self._running.get(charge.key, 0) + 1

    def _forget(self, now: float) -> None:
        """What says nothing any more."""
        self._tats = {key: tat for key, tat in self._tats.items() if tat > now}
        for key in [key for key, end in self._ends.items() if end < now]:
            del self._ends[key]
            self._used.pop(key, None)
