"""Who gets the next request, of the replicas that serve.

`affinity`, as the service's HAProxy does it (serving/cluster/affinity.lua): what begins alike goes
to one replica while that has hardly more than its share of open requests. What nobody has seen
falls on any of them, for its rank is a hash's. `least`: the fewest open requests, as HAProxy by
itself. `two`: the better of two at random, as Ray Serve's own router.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import sqrt
from typing import Protocol

from loadtest.planner.engine import Engine
from loadtest.planner.requests import Request

# As in the service: how many times the mean of open requests a replica may have to be followed,
# beside the root of the mean, and how many are nothing yet.
_ROOM, _FEW = 1.25, 4


class Router(Protocol):
    """It is told who serves, and how many requests they have."""

    def join(self, engine: Engine) -> None:
        """It serves from now on."""

    def leave(self, engine: Engine) -> None:
        """It serves no longer."""

    def changed(self, engine: Engine) -> None:
        """Its number of ongoing requests is another."""

    def choose(self, request: Request) -> Engine:
        """One of those that serve, of which there must be one."""


class Two:
    """The better of two at random. The choice costs the same whatever their number."""

    def __init__(self, serving: list[Engine], seed: int) -> None:
        self._serving = serving
        self._rng = random.Random(f"router {seed}")

    def join(self, engine: Engine) -> None:
        """See `Router`."""

    leave = changed = join

    def choose(self, request: Request) -> Engine:
        """See `Router`."""
        engines, rng = self._serving, self._rng
        count = len(engines)
        first = engines[int(rng.random() * count)]
        second = engines[int(rng.random() * count)]
        return first if first.ongoing <= second.ongoing else second


class Least:
    """The fewest ongoing requests. Nor does this choice cost more among many."""

    def __init__(self, serving: list[Engine], seed: int) -> None:
        self._by_load: list[dict[int, Engine]] = [{}]
        self._load: dict[int, int] = {}
        self._lowest = 0

    def join(self, engine: Engine) -> None:
        """See `Router`."""
        load = engine.ongoing
        while len(self._by_load) <= load:
            self._by_load.append({})
        self._by_load[load][engine.number] = engine
        self._load[engine.number] = load
        self._lowest = min(self._lowest, load)

    def leave(self, engine: Engine) -> None:
        """See `Router`."""
        del self._by_load[self._load.pop(engine.number)][engine.number]

    def changed(self, engine: Engine) -> None:
        """See `Router`."""
        if self._load[engine.number] != engine.ongoing:
            self.leave(engine)
            self.join(engine)

    def choose(self, request: Request) -> Engine:
        """See `Router`."""
        while not self._by_load[self._lowest]:
            self._lowest += 1
        return next(iter(self._by_load[self._lowest].values()))


class Affinity:
    """Whom a request's beginning ranks first of those that have room."""

    def __init__(self, serving: list[Engine], seed: int) -> None:
        self._serving = serving
        self._rng = random.Random(f"router {seed}")
        self._load: dict[int, int] = {}
        self._open = 0

    def join(self, engine: Engine) -> None:
        """See `Router`."""
        self._load[engine.number] = 0
        self.changed(engine)

    def leave(self, engine: Engine) -> None:
        """See `Router`."""
        self._open -= self._load.pop(engine.number)

    def changed(self, engine: Engine) -> None:
        """See `Router`."""
        self._open += engine.ongoing - self._load[engine.number]
        self._load[engine.number] = engine.ongoing

    def choose(self, request: Request) -> Engine:
        """See `Router`."""
        engines, like = self._serving, request.like
        mean = (self._open + 1) / len(engines)
        room = max(_FEW, _ROOM * mean + sqrt(mean)) - 1
        if like is not None:
            free = (each for each in engines if each.ongoing <= room)
            return max(free, key=lambda each: hash((like, each.number)))
        while True:  # in the order of ranks that nobody else has
            found = engines[int(self._rng.random() * len(engines))]
            if found.ongoing <= room:
                return found


ROUTERS: dict[str, Callable[[list[Engine], int], Router]] = {
    "affinity": Affinity,
    "least": Least,
    "two": Two,
}
