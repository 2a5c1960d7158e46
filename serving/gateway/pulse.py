"""Comments in an event stream that is silent for long, so that proxies do not take it for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

SILENCE = 15.0  # seconds; proxies cut at 30 and more


class Pulse:
    """`async with Pulse(comment):` - awaits `comment()` whenever `silence` seconds pass unheard.

    The block sets `heard` with everything it sends: an attribute and no timer per token.
    """

    def __init__(
        self, comment: Callable[[], Awaitable[None]], silence: float | None = None
    ) -> None:
        self.heard = False
        self._comment = comment
        self._silence = SILENCE if silence is None else silence

    async def __aenter__(self) -> Pulse:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            self.heard = False
            await asyncio.sleep(self._silence)
            if not self.heard:
                await self._comment()
