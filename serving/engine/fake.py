"""An engine without a model, for tests, rehearsals and the load test's check of itself.

It echoes: the answer is the words of the last turn, one token each, cut at `max_tokens` and before
the first of the `stop` texts. With `json` asked for, the answer is that echo in an object; when it
must call, the echo is the argument of a call of the first tool. Usage by the same rule: a token is
a word; a picture in the prompt counts as one, and has `IMAGE_TOKENS`. `Faults` make it slow, busy
or broken on demand.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace

from serving.core import Delta, Finish, Generation, Image, RawPrompt, Size, Stages, Usage
from serving.engine import Spent, unheard
from serving.errors import EngineDown, EngineFailed, Overloaded, ServingError

IMAGE_TOKENS = 1601
"""Of a picture, whatever its size."""
LOADING = 30.0
"""Seconds that a dead one says another takes."""
_TOKEN = re.compile(r"\s*\S+")


@dataclass(slots=True)
class Faults:
    """What goes wrong, for every request until changed. Delays in seconds.

    `full` refuses those who may not wait, `overloaded` everybody.
    `refuse` is raised before anything is generated; `fail_after` and `hang_after` count tokens,
    so 0 is before the first one. `dead` is an engine that takes nothing and
    fails its health check.
    """

    first_token_delay: float = 0.0
    token_delay: float = 0.0
    full: bool = False
    overloaded: bool = False
    refuse: Exception | None = None
    fail_after: int | None = None
    hang_after: int | None = None
    dead: bool = False


class FakeEngine:
    """Satisfies `Engine`. Remembers request ids: `started`, `finished`, `aborted`, in order.

    `usage` is the independent count of what each request has used so far.
    """

    def __init__(self, answer: str | None = None, faults: Faults | None = None) -> None:
        """`answer`, if given, is what it says instead of the echo."""
        self.answer = answer
        self.faults = faults or Faults()
        self.generations: list[Generation] = []
        self.usage: dict[str, Usage] = {}
        self.finished: list[str] = []
        self.aborted: list[str] = []

    @property
    def started(self) -> list[str]:
        """Ids of all requests that came."""
        return [generation.id for generation in self.generations]

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.generate`."""
        self._admit(generation)
        self.generations.append(generation)
        done = False
        try:
            async for delta in self._deltas(generation):
                done = delta.finish is not None
                yield delta
        except ServingError:
            done = True
            raise
        finally:
            if not done:
                spent(self.usage[generation.id])
            (self.finished if done else self.aborted).append(generation.id)

    async def count(self, generation: Generation) -> int:
        """See `Engine.count`."""
        return count_tokens(generation) + IMAGE_TOKENS * len(generation.images)

    @staticmethod
    def size(generation: Generation) -> Size:
        """What a request will cost: a tile and a thousand pixels for each picture."""
        pictures = len(generation.images)
        return Size(count_tokens(generation), IMAGE_TOKENS * pictures, pictures, 1000 * pictures)

    async def check_health(self) -> None:
        """See `Engine.check_health`."""
        if self.faults.dead:
            raise EngineFailed("the fake is told to be dead")

    def _admit(self, generation: Generation) -> None:
        if self.faults.dead:
            raise EngineDown(LOADING)
        if self.faults.overloaded or (self.faults.full and not generation.may_wait):
            raise Overloaded("Capacity temporarily exceeded, please try again.")
        if self.faults.refuse is not None:
            raise self.faults.refuse

    async def _deltas(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        text, stop = _cut(self._text(generation), generation.sampling.stop)
        words = _TOKEN.findall(text) or [""]
        limit = generation.sampling.max_tokens
        tokens, finish = words[:limit], Finish.STOP if len(words) <= limit else Finish.LENGTH
        image_tokens = IMAGE_TOKENS * len(generation.images)
        usage = Usage(count_tokens(generation) + image_tokens, image_tokens=image_tokens)
        self.usage[generation.id] = usage
        whole = []
        began = first = time.monotonic()
        for index, token in enumerate(tokens):
            await self._pace(index)
            first = first if index else time.monotonic()
            whole.append(token)
            usage = self.usage[generation.id] = replace(usage, completion_tokens=index + 1)
            if generation.stream and index < len(tokens) - 1:
                yield Delta(token, usage=usage)
        stop = stop if finish is Finish.STOP else None
        stages = Stages(began, 0.0, first - began, time.monotonic() - first)
        text = whole[-1] if generation.stream else "".join(whole)
        yield Delta(text, (), finish, usage, stop, stages=stages)

    async def _pace(self, index: int) -> None:
        """Wait for the token `index`, or fail, or hang."""
        faults = self.faults
        if faults.fail_after is not None and index >= faults.fail_after:
            raise EngineFailed("the fake is told to fail")
        if faults.hang_after is not None and index >= faults.hang_after:
            await asyncio.Event().wait()
        await asyncio.sleep(faults.token_delay if index else faults.first_token_delay)

    def _text(self, generation: Generation) -> str:
        text = self.answer
        if text is None:
            text = _last_words(generation)
            if generation.must_call:
                call = {"name": generation.tools[0].name, "parameters": {"echo": text}}
                return json.dumps(call)
            if generation.json is not None:
                text = json.dumps({"echo": text})
        return text


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The text before the first of `stops`, and which it was."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, stop = min(found)
    return text[:end], stop


def count_tokens(generation: Generation) -> int:
    """The tokens of a prompt's text: one per word, and one for the place of each picture."""
    return sum(
        1 if isinstance(piece, Image) else len(piece.split()) for piece in _pieces(generation)
    )


def _pieces(generation: Generation) -> Iterator[str | Image]:
    prompt = generation.prompt
    if isinstance(prompt, RawPrompt):
        yield from prompt.images
        yield prompt.text
    else:
        for turn in prompt:
            yield from turn.content


def _last_words(generation: Generation) -> str:
    prompt = generation.prompt
    if isinstance(prompt, RawPrompt):
        return prompt.text
    last = prompt[-1].content if prompt else ()
    return " ".join(piece for piece in last if isinstance(piece, str))
