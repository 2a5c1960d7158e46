"""Where limits are kept: here in this process, or in `redis` for all replicas."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from serving.admission.charges import Charge, Lease, Quota, Rate, Refusal

Differences = Sequence[tuple[Charge, int]]
"""What settling adds to each charge; a lease ends whatever is added."""
_ROOM = 100_000  # rates and quotas that are kept before any is forgotten

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
        self._running: dict[str, float] = {}
        self._used: dict[str, float] = {}
        self._numbers = {Rate: self._tats, Lease: self._running, Quota: self._used}
        self._ends: dict[str, float] = {}  # of quotas
        self._room = _ROOM

    async def reserve(self, request: str, charges: Sequence[Charge]) -> Refusal | dict[str, float]:
        """See `Store.reserve`."""
        used, tats = self._used, {}
        new = [c for c in charges if isinstance(c, Quota) and c.key not in used]
        if new:
            for key, before in (await self._before(new)).items():
                used.setdefault(key, before)  # whoever else asked meanwhile may have counted
            self._ends |= {quota.key: quota.ends for quota in new}
        now = time.time()
        reserved = []
        for charge in charges:
            numbers, key = self._numbers[type(charge)], charge.key
            number = charge.reserved(numbers.get(key, 0), now)
            wait = charge.wait(number, now)
            if wait > 0:
                return Refusal(charge, wait)
            reserved.append((numbers, key, number))
        for numbers, key, number in reserved:
            numbers[key] = number
            if numbers is self._tats:
                tats[key] = number
        if len(self._tats) + len(used) > self._room:
            self._forget(now)
        return tats

    def settle(self, request: str, differences: Differences) -> None:
        """See `Store.settle`."""
        now = time.time()
        for charge, more in differences:
            numbers, key = self._numbers[type(charge)], charge.key
            numbers[key] = charge.settled(numbers.get(key, 0), now, more)

    def _forget(self, now: float) -> None:
        """What says nothing any more."""
        for key in [key for key, tat in self._tats.items() if tat < now]:
            del self._tats[key]
        for key in [key for key, running in self._running.items() if not running]:
            del self._running[key]
        for key in [key for key, end in self._ends.items() if end < now]:
            del self._ends[key]
            self._used.pop(key, None)
        self._room = max(_ROOM, 2 * (len(self._tats) + len(self._used)))
