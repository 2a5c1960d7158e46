"""The engine as one caller sees it: with their own cache salt, within their limits, traced."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from msgspec.structs import replace

from serving.core import Caller, Delta, Generation, Usage
from serving.engine import Engine, Spent, unheard
from serving.gateway.asgi import Headers
from serving.gateway.receipts import Draft


class Ticket(Protocol):
    """Leave to use the engine, until settled."""

    @property
    def priority(self) -> int:
        """Where the request stands at the engine: lower goes first."""
        ...

    def settle(self, usage: Usage) -> None:
        """Charge what was used instead of what was reserved. Called once, never waits."""
        ...


class Admission(Protocol):
    """Decides who may use the engine, and when."""

    async def admit(self, caller: Caller, generation: Generation, headers: Headers) -> Ticket:
        """Wait for a turn. `headers` is extended by what the answer says about limits.

        Raises:
            RateLimited, QuotaSpent: the caller is over a limit.
            Overloaded: too many wait, or no turn came in time.
            ContextExceeded, InvalidImage: more than the caller may send.
        """
        ...


class Unlimited:
    """The `Admission` that lets everybody in at once, and its own ticket."""

    priority = 0

    async def admit(self, caller: Caller, generation: Generation, headers: Headers) -> Ticket:
        """See `Admission.admit`."""
        return self

    def settle(self, usage: Usage) -> None:
        """See `Ticket.settle`."""


Begin = Callable[[Draft], Callable[[Usage], None] | None]
"""Hears of a request that goes to the engine; what it returns hears all that the request has used,
each time it is more."""


Still = Callable[[], Awaitable[object]]
PATIENCE = 1.0
"""Seconds in the queue after which a caller is looked at again."""


class Tenant:
    """Satisfies `Engine`, for one request."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        begin: Begin | None,
        caller: Caller,
        draft: Draft,
        still: Still | None = None,
    ) -> None:
        """`still` raises when a caller who waited for a turn may no longer use the engine."""
        self._engine = engine
        self._admission = admission
        self._begin = begin
        self._caller = caller
        self._draft = draft
        self._still = still

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.generate`. Admission happens here, where the client is being watched."""
        usage = Usage()

        def given_up(total: Usage) -> None:
            nonlocal usage
            usage = total
            spent(total)

        self._note(generation)
        self._draft.admitting()
        try:
            ticket = await self._admission.admit(self._caller, generation, self._draft.headers)
        finally:
            self._draft.admitted()
        try:
            if self._still is not None and (self._draft.queued or 0.0) > PATIENCE:
                await self._still()
            theirs = self._theirs(generation, ticket.priority)
            async with aclosing(self._engine.generate(theirs, given_up)) as deltas:
                async for delta in deltas:
                    usage = delta.usage or usage
                    yield delta
        finally:
            ticket.settle(usage)

    def _note(self, generation: Generation) -> None:
        """From here on the request is accounted for."""
        draft = self._draft
        draft.images, draft.sampling = len(generation.images), generation.sampling
        if self._begin is not None:
            draft.progress = self._begin(draft)

    def _theirs(self, generation: Generation, priority: int) -> Generation:
        """With what the engine should know of the caller."""
        trace = self._draft.trace
        return replace(
            generation,
            salt=self._caller.salt,
            priority=priority,
            traceparent=trace.traceparent if trace and trace.sampled else "",
        )

    async def count(self, generation: Generation) -> int:
        """See `Engine.count`."""
        return await self._engine.count(generation)

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        await self._engine.check_health()
