"""What the gateway needs of a queue, for requests with `?queueRequest=true`."""

from __future__ import annotations

from typing import Protocol

from serving.core import Caller
from serving.protocol.dialect import Ask


class Queue(Protocol):
    """Keeps requests until they have run, and their answers for a while."""

    async def answer(self, body: bytes, ask: Ask, caller: Caller) -> bytes:
        """The body of the answer to a submission or a poll.

        Raises:
            BadRequest: a request in it can never be served, or the body is no such thing.
            UnknownObject: the account has no such batch, or no longer.
            RateLimited: the account has too much in the queue.
            NotAgreed: see `agreement`.
            StoreDown: nobody can tell now.
        """
        ...
