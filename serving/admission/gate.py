"""Admission of a request: the caller's limits, then a turn at the engine.

`Gate` satisfies the gateway's `Admission`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from serving.admission import charges
from serving.admission.charges import Charge, Quota, Rate, Refusal
from serving.admission.demand import Demand
from serving.admission.fair import LAST, Waiting
from serving.admission.store import Memory, Store
from serving.admission.turns import Load, Turns
from serving.core import Caller, Generation, Size, Usage
from serving.errors import (
    ContextExceeded,
    InvalidImage,
    QuotaSpent,
    RateLimited,
    ServingError,
    StoreDown,
)
from serving.scaling import Work

Headers = list[tuple[bytes, bytes]]

# What tokens cost an engine, in prompt tokens: by the figures of benchmarks/README.md a token of
# output takes 8 times the computing of one of the prompt, a tile's 1601 together some 400.
OUTPUT = 8.0
TILE = 400.0
_USUAL = 0.8  # how much of an account's usual output is kept per request
_AT_LEAST = 32  # tokens of output that are always expected
_SAID = (b"limit", b"remaining", b"reset")
# Headers that say the limit, what remains of it, and when it is whole again: of tokens, or not.
_NAMES = {
    counts_tokens: tuple(b"x-ratelimit-%b-%b" % (each, kind) for each in _SAID)
    for counts_tokens, kind in ((False, b"requests"), (True, b"tokens"))
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator decides.

    The engine runs `slots` requests of whoever comes, and `kept` more of tenants that have less
    than their share there.
    No request takes more than `context` tokens, whatever it asks for.
    `fails_open`: while the shared store is away each replica limits alone, else nobody with limits
    is served.
    """

    slots: int
    kept: int = 0
    context: int = 1_000_000
    queue_tokens: int = 1_000_000
    queue_pixels: int = 1_000_000_000
    patience: float = 60.0
    fails_open: bool = True


class Gate:
    """Satisfies the gateway's `Admission`, for one engine."""

    def __init__(
        self,
        policy: Policy,
        store: Store,
        size: Callable[[Generation], Size],
        price: Callable[[str, Usage], int],
    ) -> None:
        """`size` of a request before it runs; `price` of a model's usage, in picodollars."""
        self.policy = policy
        self.demand = Demand()
        self._turns = Turns(
            policy.slots,
            policy.queue_tokens,
            policy.queue_pixels,
            policy.patience,
            policy.kept,
        )
        self._store = store
        self._alone = Memory() if policy.fails_open else None
        self._size = size
        self._price = price
        self._usual: dict[str, float] = {}  # output tokens by flow

    @property
    def load(self) -> Load:
        """What waits and runs now. For any thread."""
        return self._turns.load

    async def admit(self, caller: Caller, generation: Generation, headers: Headers) -> Ticket:
        """See the gateway's `Admission.admit`."""
        size = self._size(generation)
        _check(caller, generation, size)
        # What an account has in the background is in nobody's way, nor in its own.
        flow = f"{caller.account} {LAST}" if generation.background else caller.account
        most = min(generation.sampling.max_tokens, self.policy.context)
        usual = self._usual.get(flow, most)
        output = min(most, max(_AT_LEAST, int(2 * usual)))
        reserved, store = await self._reserve(caller, generation, size, output, headers)
        item = Waiting(
            flow=flow,
            cost=size.text_tokens + size.tiles * TILE + output * OUTPUT,
            tokens=size.text_tokens + output,
            pixels=size.pixels,
            weight=caller.account_limits.weight or 1,
            priority=LAST if generation.background else caller.account_limits.priority or 0,
        )
        work = Work(size.text_tokens, min(most, usual), size.tiles)
        ticket = Ticket(self, generation, item, reserved, store, size, work)
        if not generation.background:
            self.demand.come(work)
        if not self._turns.enter(item):
            await self._wait(ticket)
        return ticket

    async def _wait(self, ticket: Ticket) -> None:
        item, generation = ticket.item, ticket.generation
        if not generation.background:
            self.demand.wait(item, ticket.expected, time.monotonic())
        try:
            await self._turns.take(item, generation.may_wait)
        except BaseException:
            self.settled(ticket, Usage())
            raise
        finally:
            self.demand.leave(item)

    def standing(self, item: Waiting) -> int:
        """Of somebody who has a turn, among the others at the engine."""
        return self._turns.standing(item)

    async def _reserve(
        self,
        caller: Caller,
        generation: Generation,
        size: Size,
        output: int,
        headers: Headers,
    ) -> tuple[list[Charge], Store]:
        estimate = Usage(size.prompt_tokens, output)
        money = self._price(generation.model, estimate)
        now = time.time()
        planned = charges.plan(caller, size.prompt_tokens + output, money, now)
        if not planned:
            return planned, self._store
        found, store = await self._ask(generation.id, planned)
        if isinstance(found, Refusal):
            headers += _headers([found.charge], _fits(found, now), now)
            raise _refused(found)
        headers += _headers(planned, found, now)
        return planned, store

    async def _ask(
        self, request: str, planned: list[Charge]
    ) -> tuple[Refusal | dict[str, float], Store]:
        try:
            return await self._store.reserve(request, planned), self._store
        except StoreDown:
            if self._alone is None:
                raise
            return await self._alone.reserve(request, planned), self._alone

    def ended(self, ticket: Ticket, usage: Usage) -> None:
        """A request that had its turn is over; what it used is known."""
        tiles = usage.new_images * ticket.size.tiles
        work = usage.new_text_tokens + tiles * TILE
        cost = work + usage.completion_tokens * OUTPUT if usage.prompt_tokens else 0.0
        self._turns.give(ticket.item, cost)
        if usage.prompt_tokens and not ticket.generation.background:
            used = Work(usage.new_text_tokens, usage.completion_tokens, tiles)
            self.demand.correct(ticket.expected, used)
        if usage.completion_tokens:
            flow, output = ticket.item.flow, usage.completion_tokens
            usual = self._usual.get(flow, float(output))
            self._usual[flow] = _USUAL * usual + (1 - _USUAL) * output

    def settled(self, ticket: Ticket, usage: Usage) -> None:
        """Correct what was reserved by what was used."""
        if ticket.reserved:
            money = self._price(ticket.generation.model, usage)
            differences = charges.settled(ticket.reserved, usage, money)
            ticket.store.settle(ticket.generation.id, differences)


class Ticket(msgspec.Struct, frozen=True, eq=False):
    """Satisfies the gateway's `Ticket`."""

    gate: Gate
    generation: Generation
    item: Waiting
    reserved: list[Charge]
    store: Store
    size: Size
    expected: Work

    @property
    def priority(self) -> int:
        """See the gateway's `Ticket`."""
        return self.gate.standing(self.item)

    def settle(self, usage: Usage) -> None:
        """The request is over and used this much."""
        self.gate.ended(self, usage)
        self.gate.settled(self, usage)


def _check(caller: Caller, generation: Generation, size: Size) -> None:
    for limits in (caller.account_limits, caller.token_limits):
        if limits.max_images is not None and len(generation.images) > limits.max_images:
            raise InvalidImage(f"reason more than {limits.max_images} images in a request")
        asked = size.prompt_tokens + generation.sampling.max_tokens
        if limits.max_context is not None and asked > limits.max_context:
            raise ContextExceeded(asked, limits.max_context)


def _refused(refusal: Refusal) -> ServingError:
    if isinstance(refusal.charge, Quota):
        return QuotaSpent(refusal.charge.name, refusal.wait)
    return RateLimited(refusal.charge.name, refusal.wait)


def _fits(refusal: Refusal, now: float) -> dict[str, float]:
    """When a rate is whole again: not before there is room for what was refused."""
    charge = refusal.charge
    if not isinstance(charge, Rate):
        return {}
    return {charge.key: now + max(charge.period, refusal.wait)}


def _headers(planned: Iterable[Charge], tats: dict[str, float], now: float) -> Headers:
    """The tightest rate of each kind, in the words of OpenAI's API."""
    tightest: dict[bool, tuple[int, int, float]] = {}
    for charge in planned:
        if isinstance(charge, Rate) and charge.limit:
            tat = tats.get(charge.key, now + charge.period)
            found = charge.left(tat, now), charge.limit, tat - now
            kind = charge.counts_tokens
            if kind not in tightest or found < tightest[kind]:
                tightest[kind] = found
    headers: Headers = []
    for kind, (left, limit, reset) in tightest.items():
        limited, remaining, resets = _NAMES[kind]
        headers += (
            (limited, b"%d" % limit),
            (remaining, b"%d" % left),
            (resets, b"%.3fs" % max(0.0, reset)),
        )
    return headers
