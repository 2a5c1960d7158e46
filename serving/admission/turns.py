"""The queue before the engine: as many requests at once as it batches, the others by fair shares.

Some places more are kept for tenants that have less than their share, of the places or of the
service lately: a tenant that sends no more than its share need not wait for another's request to
end, and one that is alone misses none. The queue is
bounded in tokens and pixels: when it is full the newest request of whoever fills most of it makes
room; whoever waits longer than `patience` is told to come back, and when.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from serving.admission.fair import LAST, FairQueue, Waiting
from serving.admission.order import Order
from serving.errors import Overloaded

_BUSY = "Capacity temporarily exceeded, please try again."
_MEMORY = 0.99  # how much of what was done, and of the time it took, is kept per request
_LOWEST = 1000  # priorities beyond are all alike to the engine, which knows 64 bits
_BAND = 1 << 50  # between priorities; whoever is owed service is in its lower half
_TURN = 1000  # from a tag to the next, in the engine's whole numbers


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that wait, their tokens and pixels; requests at the engine."""

    waiting: int
    tokens: int
    pixels: int
    running: int


class Turns:
    """Turns at one engine. For one event loop."""

    def __init__(
        self, slots: int, tokens: int, pixels: int, patience: float, kept: int = 0
    ) -> None:
        """At most `slots` at the engine, and `kept` more of tenants below their share.

        At most `tokens` and `pixels` wait, for `patience` seconds.
        """
        self._slots = slots
        self._kept = kept
        self._tokens = tokens
        self._pixels = pixels
        self._patience = patience
        self._order = Order()
        self._running = self._order.running
        self._queue = FairQueue()
        self._turns: dict[Waiting, asyncio.Future[None]] = {}
        # Requests lately, their cost, and in how many seconds.
        self._many = self._done = self._took = 0.0
        self._ended = time.monotonic()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._turns)

    @property
    def load(self) -> Load:
        """What waits and runs. For any thread: nothing here is gone through step by step."""
        queue = self._queue
        return Load(self.waiting, queue.tokens, queue.pixels, self._running.total())

    def standing(self, item: Waiting) -> int:
        """Where the item stands among those at the engine, by vLLM's rule: lower goes first.

        By priority, then who is owed service, then in turns between the tenants.
        """
        place = int(_TURN * self._order.tag(item))
        if not self._queue.owes(item, self._running):
            place += _BAND // 2
        return min(item.priority, _LOWEST) * _BAND + place

    def enter(self, item: Waiting) -> bool:
        """Whether it is the item's turn already; then `give` must follow."""
        if not self._running:
            self._ended = time.monotonic()  # the engine was idle: that was not slowness
        if not self._has_place(item) or (self._turns and self._is_behind(item)):
            return False
        self._order.enter(item)
        self._queue.serve(item)
        return True

    async def take(self, item: Waiting, may_wait: bool = True) -> None:
        """Return when it is the item's turn; `give` must follow.

        Raises:
            Overloaded: no room to wait, or it took too long.
        """
        if self.enter(item):
            return
        if not may_wait:
            raise self._busy()
        self._make_room(item)
        turn = self._turns[item] = asyncio.get_running_loop().create_future()
        self._queue.push(item)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            self._give_up(item, turn)
            if isinstance(error, TimeoutError):
                raise self._busy() from None
            raise

    def give(self, item: Waiting, cost: float) -> None:
        """The item is done and cost this much."""
        self._queue.correct(item, cost - item.cost)
        now = time.monotonic()
        # Of all that runs at once, one has ended: the speed of the whole engine. Many end with one
        # of its steps, and so with no time between them.
        self._many = _MEMORY * self._many + 1
        self._done = _MEMORY * self._done + cost
        self._took = _MEMORY * self._took + now - self._ended
        usual = self._done / self._many
        self._queue.credit = self._slots * usual  # as much as it runs at once
        self._ended = now
        self._leave(item)

    def _leave(self, item: Waiting) -> None:
        self._order.leave(item)
        if self._turns:
            self._next()

    def _has_place(self, item: Waiting) -> bool:
        """Whether the engine has a place for the item; the last ones are not for everybody."""
        running = self._running.total()
        if running < self._slots:
            return True
        return running < self._slots + self._kept and self._is_below_share(item)

    def _is_below_share(self, item: Waiting) -> bool:
        """Of the places, or of the service; what gives way to everything has no share."""
        if item.priority == LAST:
            return False
        places = self._places(item.flow)
        return self._running[item.flow] < places or (
            places > 0 and self._queue.owes(item, self._running)
        )

    def _places(self, *more: str) -> float:
        """Each tenant's share of the places; nobody has one who is alone."""
        tenants = len(self._running.keys() | self._queue.flows | set(more))
        return self._slots / tenants if tenants > 1 else 0.0

    def _is_behind(self, item: Waiting) -> bool:
        """Whether it must queue although there is a place: that is somebody else's."""
        return item.flow in self._queue.flows or not self._is_below_share(item)

    def _next(self) -> None:
        while (item := self._first()) is not None:
            self._queue.pop(item)
            turn = self._turns.pop(item)
            if turn.done():  # cancelled a moment ago: its task has not run yet
                self._queue.correct(item, -item.cost)
                continue
            self._order.enter(item)
            turn.set_result(None)

    def _first(self) -> Waiting | None:
        """Who is next of those that there is a place for."""
        heads, running = self._queue.heads(), self._running.total()
        if running < self._slots:
            return next(iter(heads), None)
        if running >= self._slots + self._kept:
            return None
        places = self._places()
        heads = [head for head in heads if head.priority != LAST]
        # Whether somebody is owed service takes looking at all others: asked for one of them only.
        owed = self._queue.owed(self._running) if places else None
        below = (head for head in heads if self._running[head.flow] < places)
        return owed if owed in heads else next(below, None)

    def _give_up(self, item: Waiting, turn: asyncio.Future[None]) -> None:
        """The item leaves: from the queue, or with a turn that came at the same moment."""
        if item in self._turns:
            del self._turns[item]
            self._queue.remove(item)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            self._queue.correct(item, -item.cost)
            self._leave(item)

    def _make_room(self, item: Waiting) -> None:
        queue = self._queue
        while (
            queue.tokens + item.tokens > self._tokens or queue.pixels + item.pixels > self._pixels
        ):
            pushed_out = queue.last_of_longest(item)
            if pushed_out is None:
                raise self._busy()
            queue.remove(pushed_out)
            turn = self._turns.pop(pushed_out)
            if not turn.done():
                turn.set_exception(self._busy())

    def _busy(self) -> Overloaded:
        """Come back when what waits now will have been served."""
        wait = self._queue.cost * self._took / self._done if self._done else 1.0
        return Overloaded(_BUSY, min(max(wait, 1.0), 60.0))
