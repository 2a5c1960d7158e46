"""Noticing that a client has left, while there is work being done for it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from serving.gateway.asgi import Message, Receive, Scope, Send


class ClientLeft(Exception):  # noqa: N818 - it is an event, not an error
    """The client closed the connection before its answer was complete."""


class Watch:
    """`async with Watch(receive):` - the block is cancelled and `ClientLeft` raised on disconnect.

    One task per request listens, and none per token: whatever the block awaits (the engine, a slow
    client) is interrupted by cancelling the task that entered, as `asyncio.timeout` does it. If
    somebody else cancels the task as well, theirs wins and the `CancelledError` passes through.

    Leave the block before sending the last piece of the answer: servers also report a completed
    answer as a disconnect.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._listener = asyncio.create_task(self._listen())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.cancel()
        # Its error holds the frame that holds this: a circle, left to the garbage collector.
        del self._listener
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientLeft from None

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()


def noticing(scope: Scope, send: Send) -> Send:
    """`send`, with the `OSError` of servers since ASGI 2.4 as `ClientLeft`; others say nothing."""
    version = scope.get("asgi", {}).get("spec_version", "2.0")
    if tuple(map(int, version.split("."))) < (2, 4):
        return send

    async def checked(message: Message) -> None:
        try:
            await send(message)
        except OSError as error:
            raise ClientLeft from error

    return checked
