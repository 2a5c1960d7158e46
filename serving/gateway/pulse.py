"""Comments in an event stream that is silent for long, so that proxies do not take it for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

from serving.gateway.watch import ClientLeft

SILENCE = 10.0  # seconds; proxies cut at 30 and more


class Pulse:
    """`with Pulse(comment):` - awaits `comment()` after one to two `SILENCE`s of silence.

    The block sets `heard` with everything it sends: an attribute and no timer per token. There is
    one timer per stream, and no task until there is something to say.
    """

    def __init__(self, comment: Callable[[], Awaitable[None]]) -> None:
        self.heard = True
        self._comment = comment
        self._speaking: asyncio.Task[None] | None = None

    def __enter__(self) -> Pulse:
        self._loop = asyncio.get_running_loop()
        self._beat()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._speaking is not None:
            self._speaking.cancel()

    def _beat(self) -> None:
        if not self.heard and (self._speaking is None or self._speaking.done()):
            self._speaking = self._loop.create_task(self._speak())
        self.heard = False
        self._timer = self._loop.call_later(SILENCE, self._beat)

    async def _speak(self) -> None:
        with suppress(ClientLeft):  # who watches for that notices by itself
            await self._comment()
