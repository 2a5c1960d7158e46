"""Who makes the requests: tenants with distributions, User classes, or a recorded trace.

The runner decides when; an actor decides what. In a closed loop it plays users, in an open one it
answers each due time with a visit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Protocol

from loadtest.client import Message, clock
from loadtest.core import Ask, Failure, Turn, UsageError
from loadtest.desk import Desk, converse, until
from loadtest.scenario import Scenario
from loadtest.traces import Arrival
from loadtest.users import AI, Crew, User
from loadtest.wire import Identity, Wire
from loadtest.workload import Author

_BACKOFF = 0.2  # seconds a user waits after a connection failed

More = Callable[[float], bool]  # whether a user may begin something that is due then
Deadline = Callable[[], float]  # when nothing may begin any more


class Actors(Protocol):
    """See the module. `planned_hits` is the planned hit rate of a prefix cache, if any."""

    planned_hits: float | None

    def prepare(self, depth: int) -> list[Coroutine[None, None, None]]:
        """Draw what `depth` beginnings at once need; what is to run beside the load."""

    def skip(self, count: int) -> None:
        """The first visits are left out: a lost worker was to make them."""

    async def user(self, number: int, begin: float, more: More, deadline: Deadline) -> None:
        """One user of a closed loop, as long as there is to be more."""

    def visit(self, due: float, deadline: Deadline) -> Coroutine[None, None, None]:
        """One dialogue or task that begins at `due`."""


def seat(number: int, shares: list[float]) -> int:
    """Which group the user `number` belongs to: the one furthest behind its share."""
    taken = [0] * len(shares)
    found = 0
    for _ in range(number + 1):
        found = min(range(len(shares)), key=lambda i: (taken[i] + 0.5) / shares[i])
        taken[found] += 1
    return found


class Tenants:
    """The scenario's tenants, with their distributions."""

    def __init__(
        self, scenario: Scenario, wire: Wire, run: str, name: str, index: int, count: int
    ) -> None:
        self._wire = wire
        self._shares = [tenant.share for tenant in scenario.tenants]
        self._desks = []
        for tenant in scenario.tenants:
            author = Author(tenant.workload(), f"{scenario.seed}/{tenant.name}/{name}", run)
            self._desks.append(Desk(tenant, Identity.of(tenant, scenario.target), author))
        self._place = index, count
        self._mix = random.Random(f"mix {scenario.seed} {name}")
        planned = [each.planned_hits for each in self._desks if each.planned_hits is not None]
        self.planned_hits = sum(planned) / len(planned) if planned else None

    def prepare(self, depth: int) -> list[Coroutine[None, None, None]]:
        """See `Actors`."""
        for desk in self._desks:
            desk.fill(depth)
        return [desk.keep_filled(depth) for desk in self._desks]

    def skip(self, count: int) -> None:
        """See `Actors`. What is asked is drawn anew."""

    async def user(self, number: int, begin: float, more: More, deadline: Deadline) -> None:
        """See `Actors`. Each dialogue is due when the one before has ended."""
        index, count = self._place
        desk = self._desks[seat(index + number * count, self._shares)]
        await asyncio.sleep(begin - clock())
        due = clock()  # nobody waits for a user to come
        while more(due):
            record = await converse(self._wire, desk, desk.take(), due, deadline)
            due = self._wire.began + record.end
            if record.error in (Failure.CONNECT, Failure.TLS):
                due += _BACKOFF
                await until(due)

    def visit(self, due: float, deadline: Deadline) -> Coroutine[None, None, None]:
        """See `Actors`."""
        (desk,) = self._mix.choices(self._desks, self._shares)
        return self._converse(desk, due, deadline)

    async def _converse(self, desk: Desk, due: float, deadline: Deadline) -> None:
        await converse(self._wire, desk, desk.take(), due, deadline)


class Classes:
    """Instances of User classes."""

    planned_hits: float | None = None

    def __init__(
        self,
        crew: Crew,
        scenario: Scenario,
        wire: Wire,
        run: str,
        name: str,
        index: int,
        count: int,
    ) -> None:
        self._classes, self._wire = crew.users, wire
        self._shares = [float(each.weight) for each in crew.users]
        self._identities = {
            tenant.name: Identity.of(tenant, scenario.target) for tenant in scenario.tenants
        }
        for each in crew.users:
            if each.tenant is not None and each.tenant not in self._identities:
                raise UsageError(f"{each.__name__} is of an unknown tenant {each.tenant!r}")
        self._run = run
        self._name = f"{run} {scenario.seed} {name}"
        self._place = index, count
        self._mix = random.Random(f"mix {scenario.seed} {name}")
        self._made = 0

    def prepare(self, depth: int) -> list[Coroutine[None, None, None]]:
        """See `Actors`."""
        return []

    def skip(self, count: int) -> None:
        """See `Actors`. Users are no different from each other."""

    async def user(self, number: int, begin: float, more: More, deadline: Deadline) -> None:
        """See `Actors`."""
        index, count = self._place
        each = self._classes[seat(index + number * count, self._shares)]
        await until(begin)
        await self._made_of(each).work(begin, more)

    def visit(self, due: float, deadline: Deadline) -> Coroutine[None, None, None]:
        """See `Actors`: a new user does one task."""
        (each,) = self._mix.choices(self._classes, self._shares)
        once = iter((True,))
        return self._made_of(each).work(due, lambda at: next(once, False))

    def _made_of(self, each: type[User]) -> User:
        self._made += 1
        name = each.tenant or next(iter(self._identities))
        ai = AI(self._wire, self._identities[name], each.__name__)
        return each(ai, random.Random(f"user {self._name} {self._made}"), self._run)


class Replay:
    """A trace: the next recorded request at each visit."""

    planned_hits: float | None = None

    def __init__(self, arrivals: list[Arrival], scenario: Scenario, wire: Wire, run: str) -> None:
        self._wire, self._run = wire, run
        self._rest = iter(arrivals)
        tenant = scenario.tenants[0]
        self._stream = tenant.stream
        self._identity = Identity.of(tenant, scenario.target)
        self._words = random.Random(f"words {run} {scenario.seed}")
        self._next: Message | None = None

    def prepare(self, depth: int) -> list[Coroutine[None, None, None]]:
        """See `Actors`."""
        self._draw()
        return []

    def skip(self, count: int) -> None:
        """See `Actors`."""
        for _ in range(count):
            self._draw()

    async def user(self, number: int, begin: float, more: More, deadline: Deadline) -> None:
        """A trace has no users.

        Raises:
            UsageError: always.
        """
        raise UsageError("a trace is replayed in an open loop")

    def visit(self, due: float, deadline: Deadline) -> Coroutine[None, None, None]:
        """See `Actors`."""
        message = self._next
        if message is None:
            raise UsageError("more due times than requests in the trace")
        asyncio.get_running_loop().call_soon(self._draw)
        return self._send(message, due)

    async def _send(self, message: Message, due: float) -> None:
        name = self._identity.name
        await self._wire.send(message, name, intended=due, stream=self._stream, task="replay")

    def _draw(self) -> None:
        """Make the next request while the last one is being sent."""
        arrival = next(self._rest, None)
        self._next = None
        if arrival is not None:
            text = arrival.prompt(self._words, self._run)
            adapter = self._identity.adapter
            ask = Ask((Turn("user", text),), arrival.output_tokens, self._stream, adapter=adapter)
            self._next = self._identity.message(ask)
