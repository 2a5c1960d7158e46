"""One simulated engine: continuous batching, chunked prefill, KV memory, caches.

It advances by stretches: one step that prefills, or as many steps that only decode as there are
until a row ends. A stretch of k decode steps needs no more work than one: its time has a closed
form, for each step's context is larger by one token for each row. An arrival that there is room
for cuts the stretch at the end of the step it falls into.

Approximations, against vLLM: KV is reserved for the whole answer when a request is admitted, so
nothing is preempted; the gaps within a stretch are its mean.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import ceil, sqrt

from loadtest.planner.cache import Cache
from loadtest.planner.fair import FairQueue
from loadtest.planner.host import Host
from loadtest.planner.model import Costs, Limits, Work
from loadtest.planner.prompts import Prompts
from loadtest.planner.requests import Request
from loadtest.planner.tiles import computed

_KEPT = 4096  # stretches, before old ones are forgotten
_INSTANT = 1e-9  # seconds


class Engine:
    """The state of one replica. `until` is when its stretch ends; infinity if it is idle. Without
    `timed` it does not remember when tokens came. On a `host` with others it goes step by step."""

    def __init__(
        self,
        costs: Costs,
        limits: Limits,
        number: int,
        timed: bool = True,
        host: Host | None = None,
    ) -> None:
        self.number = number
        self._timed = timed
        self._host = host
        self._working = False  # as its host knows it
        self.costs, self.limits = costs, limits
        self.until = float("inf")
        self.version = 0  # of `until`
        self.ongoing = 0
        self.waiting: FairQueue[Request] = FairQueue()
        self._unnoticed: deque[tuple[float, Request]] = deque()  # from when it knows of them
        self.done = Work(steps=0)  # all work so far
        self.busy = 0.0
        self.kv_bound = 0  # admissions that had to wait for memory
        self.seat_bound = 0  # or for a place in the batch
        self.kv = 0.0
        self.arrived = [0.0, 0.0, 0.0]  # tokens to prefill, to generate; tiles
        self._rows: list[tuple[int, int, Request]] = []  # heap, by the step of the last token
        self._context = self._cross = 0.0
        self._prompts = Prompts(limits)
        self._tags: dict[str, float] = {}  # of each account's last, in the order of turns
        self._turn = 0.0  # of who ended last
        self._steps = 0
        self._began = 0.0
        self._stretch = 0  # steps in it; 0 of an idle engine
        self._mixed = Work()
        self._ends: list[tuple[int, float]] = []  # of stretches: steps so far, µs between tokens
        self._forgotten = 0
        self._order = 0
        self._cache = Cache()  # of the paged pool: beginnings of prompts, pictures

    def meet(self, request: Request) -> None:
        """Count a request that has come, whether there is room for it or not."""
        arrived = self.arrived
        arrived[0] += request.prompt
        arrived[1] += request.output
        arrived[2] += request.tiles

    def add(self, request: Request, now: float) -> None:
        """A request is taken in."""
        self.ongoing += 1
        cost = self._reserved(request) / request.weight
        if self._stretch == 0:  # then nobody waits
            self.waiting.pass_through(request.account, cost)
            self._let_in(request)
            self.plan(now)
            return
        if self.costs.notice:
            self._unnoticed.append((now + self.costs.notice, request))
            self._cut(now + self.costs.notice)
            return
        self.waiting.push(request.account, request, cost)
        if not self._prompts.count and self._fits(self.waiting.peek()):
            self._cut(now)

    def advance(self) -> list[Request]:
        """End the stretch at `until`; those that have their last token. Then `plan` the next."""
        now = self.until
        count = self._stretch
        rows = len(self._rows)
        work = self.done
        work.steps += count
        work.rows += count * rows
        work.context += count * self._context + rows * count * (count - 1) / 2
        work.cross += count * self._cross
        self.busy += now - self._began
        self._steps += count
        self._context += count * rows
        if rows and self._timed:
            self._ends.append((count, (now - self._began) / count * 1e6))
        finished = self._finished() if rows else []
        if self._prompts.count:
            finished += self._prefilled(now)
        return finished

    def lose(self) -> list[Request]:
        """The replica dies; whoever was there is lost."""
        lost = [request for _, _, request in self._rows] + self._prompts.lose()
        lost += [request for _, request in self._unnoticed]
        self._unnoticed.clear()
        while self.waiting.count:
            lost.append(self.waiting.pop())
        self.until, self.version, self.ongoing = float("inf"), self.version + 1, 0
        self._rows, self._stretch = [], 0
        self._tell()
        return lost

    def gaps(self, request: Request) -> list[int]:
        """µs between the tokens of a request that has just finished."""
        found: list[int] = []
        for count, gap in self._ends[request.begun - self._forgotten :]:
            found += [round(gap)] * count
        return found

    def _finished(self) -> list[Request]:
        rows, steps, found = self._rows, self._steps, []
        while rows and rows[0][0] <= steps:
            request = heappop(rows)[2]
            self._context -= request.prompt + request.output
            self._cross -= request.tiles
            self._leave(request)
            found.append(request)
        return found

    def _leave(self, request: Request) -> None:
        self.kv -= request.kv
        self.ongoing -= 1
        self._turn = max(self._turn, request.standing)
        if request.talk is not None and self.limits.prefixes:
            self._remember((request.talk,), request.prompt + request.output)

    def _prefilled(self, now: float) -> list[Request]:
        """Chunks have been computed; prompts that are complete have their first token."""
        mixed, work = self._mixed, self.done
        work.prompts += mixed.prompts
        work.prefill += mixed.prefill
        work.attention += mixed.attention
        work.tiles += mixed.tiles
        finished = []
        for request in self._prompts.ended():
            request.first = now
            if request.output > 1:
                self._order += 1
                last = self._steps + request.output - 1
                heappush(self._rows, (last, self._order, request))
                request.begun = self._forgotten + len(self._ends)
                self._context += request.prompt + 1
                self._cross += request.tiles
            else:
                self._leave(request)
                finished.append(request)
        return finished

    def plan(self, now: float) -> None:
        """Decide what the next stretch does."""
        self.version += 1
        self._began = now
        if self._unnoticed:
            self._notice(now)
        if self.waiting.count:
            self._admit()
        if len(self._ends) > _KEPT:
            self._forget()
        if self._prompts.count:
            self._stretch = 1
            self._mixed = work = Work(len(self._rows), self._context, self._cross)
            self._prompts.read(work, alone=self.ongoing == 1)
            self.until = now + self.costs.seconds(work)
        elif self._rows:
            self._stretch = self._rows[0][0] - self._steps
            self.until = now + self._decoding(self._stretch)
        else:
            self._stretch, self.until = 0, float("inf")
            self._ends.clear()
            self._forgotten = 0
        if self._host is not None:
            self._crowded(self._host, now)

    def _notice(self, now: float) -> None:
        """Take in whom it knows of by now; an engine with nothing else to do, all of them."""
        late, idle = self._unnoticed, not (self._rows or self._prompts.count or self.waiting.count)
        while late and (idle or late[0][0] <= now + _INSTANT):
            request = late.popleft()[1]
            cost = self._reserved(request) / request.weight
            self.waiting.push(request.account, request, cost)

    def _crowded(self, host: Host, now: float) -> None:
        """One step, as long as it takes beside whoever works now."""
        self._tell()
        if self._stretch > 1:
            self._stretch, self.until = 1, now + self._decoding(1)
        self.until = now + (self.until - now) * host.slowness

    def _tell(self) -> None:
        """The host knows whether it works."""
        if self._host is not None:
            self._host.working += (self._stretch > 0) - self._working
            self._working = self._stretch > 0

    def _decoding(self, steps: int) -> float:
        """Seconds of so many steps that only decode."""
        rows, costs = len(self._rows), self.costs
        each = costs.step + costs.row * rows + costs.context * self._context
        each += costs.cross * self._cross
        return steps * each + costs.context * rows * steps * (steps - 1) / 2

    def _cut(self, now: float) -> None:
        """End the stretch with the step that is being done."""
        first, passed = self._decoding(1), now - self._began
        growth = self.costs.context * len(self._rows) / 2
        if growth > 1e-9 * first:
            b = first - growth
            steps = (sqrt(b * b + 4 * growth * passed) - b) / (2 * growth)
        else:
            steps = passed / first if first > 0 else 1.0
        steps = max(1, ceil(steps - 1e-9))
        if steps < self._stretch:
            self._stretch = steps
            self.until = self._began + self._decoding(steps)
            self.version += 1

    def _fits(self, request: Request) -> bool:
        if len(self._rows) + self._prompts.count >= self.limits.seqs:
            return False
        return self.kv + self._reserved(request) <= self.limits.kv or self.kv == 0

    def _reserved(self, request: Request) -> float:
        return request.prompt + request.output + self.limits.tile_kv * request.tiles

    def _admit(self) -> None:
        waiting = self.waiting
        while waiting.count:
            request = waiting.peek()
            if not self._fits(request):
                seats = len(self._rows) + self._prompts.count >= self.limits.seqs
                self.seat_bound += seats
                self.kv_bound += not seats
                return
            waiting.pop()
            self._let_in(request)

    def _let_in(self, request: Request) -> None:
        request.kv = self._reserved(request)
        self.kv += request.kv
        self._look_up(request)
        before = max(self._turn, self._tags.get(request.account, 0.0))
        request.standing = self._tags[request.account] = before + 1 / request.weight
        self._prompts.add(request)

    def _look_up(self, request: Request) -> None:
        """What of it is cached."""
        limits = self.limits
        if request.prefix and limits.prefixes:
            known = self._cache.leading(request.prefix)
            request.cached = request.shared * known // len(request.prefix)
            self._remember(request.prefix, request.shared)
        request.cached = min(request.cached, request.prompt - 1)
        self.arrived[0] -= request.cached
        request.left = request.prompt - request.cached
        if not request.pictures:  # of a record, which only knows how many tiles
            request.encode = computed(request.tiles)
            return
        request.encode = sum(
            computed(cut) for each, cut in request.pictures if self._new(each, cut)
        )

    def _new(self, picture: object, cut: int) -> bool:
        """Whether it is not among those that are kept, and keep it."""
        limits = self.limits
        known = limits.pictures and self._cache.leading((picture,)) > 0
        if limits.pictures and not known:
            self._cache.put(picture, limits.tile_kv * cut, limits.kv - self.kv)
        return not known

    def _remember(self, prefix: tuple[object, ...], tokens: float) -> None:
        room = self.limits.kv - self.kv
        for key in prefix:
            self._cache.put(key, tokens / len(prefix), room)

    def _forget(self) -> None:
        oldest = min((r.begun for _, _, r in self._rows), default=self._forgotten + len(self._ends))
        del self._ends[: oldest - self._forgotten]
        self._forgotten = oldest
