"""Replicas that come and go: starting, serving, draining; and who gets the next request.

Routers as Ray Serve and others have them: the least ongoing requests, or the better of two drawn
at random. A replica takes no more than `ongoing` requests; the others wait at the router.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from loadtest.planner.engine import Engine


class Fleet:
    """Engines that serve. The router's choice costs the same whatever their number."""

    def __init__(self, make: Callable[[int], Engine], router: str, ongoing: int, seed: int) -> None:
        self._make = make
        self._rng = random.Random(f"router {seed}")
        self._least = router == "least"
        self.ongoing = ongoing
        self.serving: list[Engine] = []
        self._at: dict[int, int] = {}  # where in `serving` an engine is, by its number
        self._by_load: list[dict[int, Engine]] = [{}]
        self._load: dict[int, int] = {}
        self._lowest = 0
        self._made = 0

    def start(self) -> Engine:
        """A new engine that does not serve yet."""
        self._made += 1
        return self._make(self._made - 1)

    def serve(self, engine: Engine) -> None:
        """It takes requests from now on."""
        self._at[engine.number] = len(self.serving)
        self.serving.append(engine)
        if self._least:
            self._place(engine)

    def withdraw(self, engine: Engine) -> None:
        """It takes no more requests."""
        at = self._at.pop(engine.number)
        last = self.serving.pop()
        if last is not engine:
            self.serving[at] = last
            self._at[last.number] = at
        if self._least:
            del self._by_load[self._load.pop(engine.number)][engine.number]

    def serves(self, engine: Engine) -> bool:
        """Whether it takes requests."""
        return engine.number in self._at

    def choose(self) -> Engine | None:
        """Who takes the next request; nobody if all have as many as they may."""
        if not self.serving:
            return None
        found = self._of_all() if self._least else self._of_two()
        return found if found.ongoing < self.ongoing else self._any_free()

    def changed(self, engine: Engine) -> None:
        """Its number of ongoing requests is another."""
        known = self._load.get(engine.number)
        if known is not None and known != engine.ongoing:
            del self._by_load[known][engine.number]
            self._place(engine)

    def _of_two(self) -> Engine:
        engines, rng = self.serving, self._rng
        count = len(engines)
        first = engines[int(rng.random() * count)]
        second = engines[int(rng.random() * count)]
        return first if first.ongoing <= second.ongoing else second

    def _of_all(self) -> Engine:
        while not self._by_load[self._lowest]:
            self._lowest += 1
        return next(iter(self._by_load[self._lowest].values()))

    def _any_free(self) -> Engine | None:
        """Two at random may both be full while others are not."""
        if self._least:
            return None
        return next((each for each in self.serving if each.ongoing < self.ongoing), None)

    def _place(self, engine: Engine) -> None:
        load = engine.ongoing
        while len(self._by_load) <= load:
            self._by_load.append({})
        self._by_load[load][engine.number] = engine
        self._load[engine.number] = load
        self._lowest = min(self._lowest, load)


class Rollout:
    """A rolling update: which replicas are yet to be replaced, at most `surge` at a time."""

    def __init__(self, surge: int) -> None:
        self._surge = surge
        self._old: list[Engine] = []
        self._starting = 0  # to take the place of one
        self._leaving: set[int] = set()  # replaced, and ending what they have begun

    def begin(self, serving: Iterable[Engine]) -> None:
        """All that serve now are old."""
        self._old = list(serving)

    def due(self) -> int:
        """How many are to be started now; one that is leaving still has its GPU."""
        room = min(self._surge - len(self._leaving), len(self._old))
        found = max(0, room - self._starting)
        self._starting += found
        return found

    def replaced(self) -> Engine | None:
        """A replica is ready: whose place it takes, if anybody's."""
        if not self._starting:
            return None
        self._starting -= 1
        old = self._old.pop()
        self._leaving.add(old.number)
        return old

    def left(self, number: int) -> bool:
        """A replica is gone; whether it was one that had been replaced."""
        known = number in self._leaving
        self._leaving.discard(number)
        return known
