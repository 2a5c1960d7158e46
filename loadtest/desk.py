"""One tenant at work: dialogues drawn ahead of need, and held turn by turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.client import Message, clock
from loadtest.core import Ask, Record, Turn
from loadtest.scenario import Tenant
from loadtest.wire import Identity, Wire
from loadtest.workload import Author, Question

_SHELF_BYTES = 32 << 20
_SHELF_LENGTH = 256
_REST = 0.001  # seconds between draws, so that they stay out of the way of sends and reads


@dataclass(frozen=True, slots=True)
class Opening:
    """A dialogue whose first request is ready to be sent."""

    questions: list[Question]
    message: Message


class Desk:
    """One tenant at work: openings drawn ahead of need, so that drawing delays no request."""

    def __init__(self, tenant: Tenant, identity: Identity, author: Author) -> None:
        self.identity = identity
        self.stream = tenant.stream
        self.planned_hits = tenant.workload().planned_hit_rate
        self._author = author
        self._ready: deque[Opening] = deque()
        self._wanted = asyncio.Event()

    def take(self) -> Opening:
        """The next one; drawn now if none is ready."""
        self._wanted.set()
        return self._ready.popleft() if self._ready else self._draw()

    def fill(self, depth: int) -> None:
        """Draw `depth` openings, or as many as may be held."""
        while len(self._ready) < min(depth, _SHELF_LENGTH) and not self._full():
            self._ready.append(self._draw())

    async def keep_filled(self, depth: int) -> None:
        """Draw one at a time while others are being answered."""
        while True:
            await self._wanted.wait()
            if len(self._ready) >= min(depth, _SHELF_LENGTH) or self._full():
                self._wanted.clear()
            else:
                self._ready.append(self._draw())
                await asyncio.sleep(_REST)

    def ask(self, history: list[Turn], question: Question) -> Ask:
        """The request for the next turn of a dialogue."""
        turn = Turn("user", question.text, question.images)
        adapter = self.identity.adapter
        return Ask((*history, turn), question.max_tokens, self.stream, adapter=adapter)

    def _draw(self) -> Opening:
        questions = self._author.dialogue()
        return Opening(questions, self.identity.message(self.ask([], questions[0])))

    def _full(self) -> bool:
        held = len(self._ready)
        return held > 1 and held * len(self._ready[-1].message.body) > _SHELF_BYTES


async def converse(
    wire: Wire, desk: Desk, opening: Opening, due: float, deadline: Callable[[], float]
) -> Record:
    """Hold one dialogue, its first request at `due`; a failure or the deadline ends it.

    Each later turn is due when the user has thought about the answer to the one before.
    """
    history: list[Turn] = []
    message = opening.message
    for question, following in zip(opening.questions, [*opening.questions[1:], None], strict=True):
        record, reading = await wire.send(
            message, desk.identity.name, intended=due, stream=desk.stream
        )
        if record.error or following is None:
            break
        due = wire.began + record.end + following.think
        if due >= deadline():
            break
        asked = Turn("user", question.text, question.images)
        history += [asked, Turn("assistant", reading.text)]
        message = desk.identity.message(desk.ask(history, following))
        await until(due)
    return record


async def until(due: float) -> None:
    """Sleep to the moment `due`; the last millisecond, which timers cannot tell, awake."""
    while (left := due - clock()) > 0:  # noqa: ASYNC110 - time is what is waited for
        await asyncio.sleep(int(left * 1e3) / 1e3)
