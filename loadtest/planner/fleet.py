"""Replicas that come and go: starting, serving, draining.

A replica takes no more than `ongoing` requests; the others wait at the router.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from loadtest.planner.engine import Engine
from loadtest.planner.requests import Request
from loadtest.planner.routing import ROUTERS, Router


class Fleet:
    """Engines that serve, and their router."""

    def __init__(self, make: Callable[[int], Engine], router: str, ongoing: int, seed: int) -> None:
        self._make = make
        self.ongoing = ongoing
        self.serving: list[Engine] = []
        self._at: dict[int, int] = {}  # where in `serving` an engine is, by its number
        self._router: Router = ROUTERS[router](self.serving, seed)
        self._made = 0

    def start(self) -> Engine:
        """A new engine that does not serve yet."""
        self._made += 1
        return self._make(self._made - 1)

    def serve(self, engine: Engine) -> None:
        """It takes requests from now on."""
        self._at[engine.number] = len(self.serving)
        self.serving.append(engine)
        self._router.join(engine)

    def withdraw(self, engine: Engine) -> None:
        """It takes no more requests."""
        at = self._at.pop(engine.number)
        last = self.serving.pop()
        if last is not engine:
            self.serving[at] = last
            self._at[last.number] = at
        self._router.leave(engine)

    def serves(self, engine: Engine) -> bool:
        """Whether it takes requests."""
        return engine.number in self._at

    def choose(self, request: Request) -> Engine | None:
        """Who takes the next request; nobody if all have as many as they may."""
        if not self.serving:
            return None
        found = self._router.choose(request)
        return found if found.ongoing < self.ongoing else self._any_free()

    def changed(self, engine: Engine) -> None:
        """Its number of ongoing requests is another; it must be one that serves."""
        self._router.changed(engine)

    def _any_free(self) -> Engine | None:
        """Whoever was chosen may be full while others are not."""
        return next((each for each in self.serving if each.ongoing < self.ongoing), None)


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
