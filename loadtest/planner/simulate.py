"""A fleet in simulated time: the same loads as real runs, and the same records.

Discrete events: a request becomes due, an engine ends a stretch, a replica is ready, fails or is
updated, the autoscaler looks. Only what happens next is ever computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as counting
from typing import Any

from loadtest.core import Failure, Record
from loadtest.planner.agenda import Agenda, Event
from loadtest.planner.engine import Engine
from loadtest.planner.fair import FairQueue
from loadtest.planner.fleet import Fleet, Rollout
from loadtest.planner.host import Host
from loadtest.planner.model import Replica, Work
from loadtest.planner.record import answered, failed
from loadtest.planner.requests import Load, Request
from loadtest.planner.scaling import Policy, Reports


@dataclass(frozen=True, slots=True)
class Setting:
    """The fleet around a replica. `failures` are moments at which one replica dies; another is
    started at once. `updates` are moments of rolling updates, `surge` replicas at a time.
    `blind` are spans in which the autoscaler sees no metrics. `gaps`: whether records have them.
    So many replicas as are `together` share a machine.
    """

    replicas: int = 1
    router: str = "affinity"  # or another of `routing`
    ongoing: int = 1 << 62
    policy: Policy | None = None
    failures: tuple[float, ...] = ()
    updates: tuple[float, ...] = ()
    surge: int = 1
    blind: tuple[tuple[float, float], ...] = ()
    seed: int = 0
    gaps: bool = True
    together: int = 1


_NEVER = float("inf")
_STRETCH = int(Event.STRETCH)  # most events are this one


class Simulation:
    """One simulated run. After `records` is exhausted: what the fleet did."""

    def __init__(self, replica: Replica, load: Load, setting: Setting) -> None:
        self.replica, self.setting = replica, setting
        self.now = 0.0
        self.engines: list[Engine] = []
        self.refused = 0
        self.replica_seconds = 0.0
        self.sizes: list[tuple[float, int]] = []  # when the fleet's size changed, and to what
        self.decided: list[tuple[float, int, int]] = []  # when the autoscaler did, from and to
        self._load = load
        self._hosts: dict[int, Host] = {}
        self._fleet = Fleet(self._made, setting.router, setting.ongoing, setting.seed)
        self._queue: FairQueue[Request] = FairQueue()
        self._agenda = Agenda()
        self._ids = counting()
        self._starting = 0
        self._reports = Reports()
        self._born: dict[int, float] = {}
        self._rollout = Rollout(setting.surge)

    @property
    def work(self) -> Work:
        """All engines' work."""
        total = Work(steps=0)
        for engine in self.engines:
            for name in Work.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(engine.done, name))
        return total

    @property
    def busy(self) -> float:
        """Seconds that engines were at work."""
        return sum(engine.busy for engine in self.engines)

    @property
    def bound(self) -> Counter[str]:
        """How often an admission had to wait, by what for."""
        return Counter(
            kv=sum(engine.kv_bound for engine in self.engines),
            seats=sum(engine.seat_bound for engine in self.engines),
        )

    def records(self) -> Iterator[Record]:
        """Run it. Records come as requests end."""
        for _ in range(self.setting.replicas):
            self._serve(self._fleet.start())
        self._foreseen()
        opening = iter(self._load.opening)
        following, agenda = next(opening, None), self._agenda
        while True:
            at = agenda.next_at()
            if following is not None and following.due <= at:
                self.now = following.due
                if refused := self._due(following):
                    yield refused
                following = next(opening, None)
            elif at < _NEVER:
                self.now, _, kind, what, version = agenda.pop()
                if kind != _STRETCH:
                    yield from self._happens(kind, what)
                elif what.version == version:
                    yield from self._advance(what)
                if kind == Event.TICK and following is None and agenda.only_looks():
                    break
            else:
                break
        for number in list(self._born):
            self._gone(number)

    def _foreseen(self) -> None:
        for at in self.setting.failures:
            self._agenda.plan(at, Event.FAIL)
        for at in self.setting.updates:
            self._agenda.plan(at, Event.UPDATE)
        if self.setting.policy:
            self._agenda.plan(self.setting.policy.interval, Event.TICK)

    def _happens(self, kind: int, what: Any) -> list[Record]:
        """Anything but the end of a stretch."""
        if kind in (Event.DUE, Event.CUT):
            refused = self._due(what) if kind == Event.DUE else self._route(what)
            return [refused] if refused else []
        if kind == Event.FAIL:
            return self._fail()
        if kind == Event.READY:
            self._ready(what)
        elif kind == Event.TICK:
            self._look()
        else:
            self._update()
        return []

    def _due(self, request: Request) -> Record | None:
        """It has come; its pictures are to be cut before an engine can have it."""
        if request.tiles and (later := self.replica.costs.cut * request.tiles):
            self._agenda.plan(self.now + later, Event.CUT, request)
            return None
        return self._route(request)

    def _route(self, request: Request) -> Record | None:
        """Give it to a replica; it waits at the router if nobody may take it, or is refused."""
        engine = None if self._queue.count else self._fleet.choose(request)
        if engine is None:
            cost = (request.prompt + request.output) / request.weight
            self._queue.push(request.account, request, cost)
        elif engine.ongoing >= self.replica.limits.queue:
            self.refused += 1
            engine.meet(request)
            self._again(request, self.now)
            return failed(next(self._ids), request, self.now, "http_429", 429)
        else:
            self._give(engine, request)
        return None

    def _give(self, engine: Engine, request: Request) -> None:
        version = engine.version
        engine.meet(request)
        engine.add(request, self.now)
        self._fleet.changed(engine)
        if engine.version != version:
            self._agenda.plan(engine.until, _STRETCH, engine, engine.version)

    def _advance(self, engine: Engine) -> list[Record]:
        found = []
        for request in engine.advance():
            found.append(self._answer(engine, request))
            self._again(request, self.now)
        engine.plan(self.now)
        if engine.until != float("inf"):
            self._agenda.plan(engine.until, _STRETCH, engine, engine.version)
        if self._fleet.serves(engine):
            self._fleet.changed(engine)
            if self._queue.count:
                self._drain_queue()
        elif engine.ongoing == 0:
            self._gone(engine.number)
        return found

    def _drain_queue(self) -> None:
        while self._queue.count:
            engine = self._fleet.choose(self._queue.peek())
            if engine is None:
                return
            self._give(engine, self._queue.pop())

    def _again(self, request: Request, end: float) -> None:
        found = self._load.again(request, end)
        if found is not None:
            self._agenda.plan(found.due, Event.DUE, found)

    def _made(self, number: int) -> Engine:
        costs, limits = self.replica.costs, self.replica.limits
        engine = Engine(costs, limits, number, self.setting.gaps, self._host(number))
        self.engines.append(engine)
        self._born[number] = self.now  # a replica that loads its model is paid for as well
        self.sizes.append((self.now, len(self._born)))
        return engine

    def _host(self, number: int) -> Host | None:
        if self.setting.together == 1:
            return None
        place = number // self.setting.together
        return self._hosts.setdefault(place, Host(self.replica.crowding))

    def _gone(self, number: int) -> None:
        self.replica_seconds += self.now - self._born.pop(number)
        self.sizes.append((self.now, len(self._born)))
        if self._rollout.left(number):
            self._renew()

    def _serve(self, engine: Engine) -> None:
        self._fleet.serve(engine)
        if self._queue.count:
            self._drain_queue()

    def _start(self) -> None:
        self._starting += 1
        self._agenda.plan(self.now + self.replica.cold_start, Event.READY, self._fleet.start())

    def _ready(self, engine: Engine) -> None:
        self._starting -= 1
        self._serve(engine)
        if (old := self._rollout.replaced()) is not None:
            self._retire(old)

    def _retire(self, engine: Engine) -> None:
        """It ends what it has begun."""
        if self._fleet.serves(engine):
            self._fleet.withdraw(engine)
            if engine.ongoing == 0:
                self._gone(engine.number)

    def _fail(self) -> list[Record]:
        if not self._fleet.serving:
            return []
        engine = self._fleet.serving[-1]
        self._fleet.withdraw(engine)
        found = []
        for request in engine.lose():
            found.append(failed(next(self._ids), request, self.now, str(Failure.TRUNCATED), 0))
            self._again(request, self.now)
        self._gone(engine.number)
        self._start()
        return found

    def _update(self) -> None:
        self._rollout.begin(self._fleet.serving)
        self._renew()

    def _renew(self) -> None:
        for _ in range(self._rollout.due()):
            self._start()

    def _look(self) -> None:
        policy = self.setting.policy
        if policy is None:
            return
        serving = self._fleet.serving
        blind = any(begin <= self.now < end for begin, end in self.setting.blind)
        target = len(serving) + self._starting
        queued = self._queue.count
        seen = self._reports.observed(self.now, target, serving, queued, blind)
        wanted = policy.desired(seen)
        if wanted != target:
            self.decided.append((self.now, target, wanted))
        for _ in range(wanted - target):
            self._start()
        for engine in sorted(serving, key=lambda each: each.ongoing)[: max(0, target - wanted)]:
            self._retire(engine)
        self._agenda.plan(self.now + policy.interval, Event.TICK)

    def _answer(self, engine: Engine, request: Request) -> Record:
        timed = request.stream and request.output > 1 and self.setting.gaps
        gaps = engine.gaps(request) if timed else []
        return answered(next(self._ids), request, self.now, self.replica.costs.request, gaps)
