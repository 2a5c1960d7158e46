"""Where requests for the queue are handed in and their results are handed out.

`Desk` satisfies the gateway's `Queue`. It knows a batch by its id and its account together: to
everybody else there is none.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from sqlalchemy import Connection

from serving.batch.steps import ROUTE, Bounds
from serving.core import Caller
from serving.errors import RateLimited, StoreDown, UnknownObject
from serving.gateway.agreement import Agreements
from serving.protocol import batch
from serving.protocol.batch import Poll, Response, Submission
from serving.protocol.dialect import Ask
from serving.tenancy import batches
from serving.tenancy.accounts import now
from serving.tenancy.database import Database, Down

_LATELY = 300.0  # seconds in which it is counted how fast items end
_COME_BACK, _LONGEST = 60.0, 3600.0  # seconds: where none has ended lately; and at most


class Desk:
    """Satisfies the gateway's `Queue`."""

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        arrived: Callable[[], None],
        agreements: Agreements | None = None,
    ) -> None:
        """`arrived` is called whenever something was handed in."""
        self._database = database
        self._bounds = bounds
        self._arrived = arrived
        self._agreements = agreements

    async def answer(self, body: bytes, ask: Ask, caller: Caller) -> bytes:
        """See `Queue.answer`."""
        # In a thread: megabytes of JSON must not hold up the streams of others.
        asked = await asyncio.to_thread(batch.parse, body, ask)
        if isinstance(asked, Submission) and self._agreements is not None:
            model = ask.models.find(asked.model)
            await self._agreements.check(caller, model, asked.items[0].generation)
        try:
            return await asyncio.to_thread(self._work, asked, caller)
        except Down as error:
            raise StoreDown(self._database.wait()) from error

    def _work(self, asked: Submission | Poll, caller: Caller) -> bytes:
        if isinstance(asked, Poll):
            return self._show(asked.id, caller.account)
        answer = self._keep(asked, caller)
        self._arrived()
        return answer

    def _keep(self, asked: Submission, caller: Caller) -> bytes:
        inputs = [(item.reference, item.data) for item in asked.items]
        with self._database.begin() as connection:
            items, size = batches.waiting(connection, caller.account)
            if (over := items + len(inputs) - self._bounds.items) > 0:
                wait = _wait(connection, caller.account, over)
                raise RateLimited(f"limit of {self._bounds.items} queued requests", wait)
            more = sum(len(data) for _, data in inputs)
            if (excess := size + more - self._bounds.bytes) > 0:
                wait = _wait(connection, caller.account, math.ceil(items * excess / max(size, 1)))
                raise RateLimited(f"limit of {self._bounds.bytes} queued bytes", wait)
            id_ = batches.submit(
                connection, caller.account, caller.token, asked.model, inputs, now()
            )
        return batch.queued(id_, asked.model)

    def _show(self, id_: str, account: str) -> bytes:
        with self._database.begin() as connection:
            found = batches.find(connection, account, id_)
            if found is None:
                raise UnknownObject(f"request {id_[:64]}")
            if found.ended_at is None:
                return batch.pending(id_, batches.is_running(connection, found))
            ended = batches.ended_of(connection, id_)
        responses = (Response(e.reference, e.success, e.output, e.usage) for e in ended)
        return batch.ended(responses)


def _wait(connection: Connection, account: str, ahead: int) -> float:
    """Seconds until so many more items have ended, at the pace of late."""
    ended = batches.pace(connection, account, ROUTE, now() - int(_LATELY * 1000))
    return min(max(ahead * _LATELY / ended, 1.0), _LONGEST) if ended else _COME_BACK
