"""Comments in an event stream that is silent for long, so that proxies do not take it for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

from serving.gateway.watch import ClientLeft

SILENCE = 10.0  # seconds; proxies cut at 30 and more


class Pulse:
    """`async with Pulse(comment):` - awaits `comment()` after one to two `SILENCE`s of silence.

    The block sets `heard` with everything it sends: an attribute and no timer per token.
    """

    def __init__(self, comment: Callable[[], Awaitable[None]]) -> None:
        self.heard = False
        self._comment = comment

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
        with suppress(ClientLeft):  # who watches for that notices by itself
            while True:
                self.heard = False
                await asyncio.sleep(SILENCE)
                if not self.heard:
                    await self._comment()
