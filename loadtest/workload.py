"""What one tenant asks: dialogues drawn from distributions, with prompts nobody has cached.

Lengths, sizes and think times come from the seed, so that two runs ask alike; the words come from
the run, so that a second run does not find the first one's prompts in a cache.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from loadtest import payloads
from loadtest.distributions import Distribution
from loadtest.payloads import Painter, Size


@dataclass(frozen=True, slots=True)
class Prefixes:
    """`pool` long beginnings of `tokens` tokens; a share of the prompts begins with one of them."""

    pool: int
    tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class Pictures:
    """A share of the pictures is one of `pool`, which are sent again and again."""

    pool: int
    share: float

    def drawn(self, plan: random.Random) -> int | None:
        """Which of them is sent; `None`: one that nobody has seen."""
        return plan.randrange(self.pool) if plan.random() < self.share else None


@dataclass(frozen=True, slots=True)
class Workload:
    """Distributions of one tenant's dialogues. Lengths in tokens, `think` in seconds."""

    prompt_tokens: Distribution = field(default_factory=lambda: Distribution.parse(128))
    output_tokens: Distribution = field(default_factory=lambda: Distribution.parse(64))
    images: Distribution = field(default_factory=lambda: Distribution.parse(0))
    sizes: tuple[Size, ...] = ()
    jpeg: bool = False
    turns: Distribution = field(default_factory=lambda: Distribution.parse(1))
    think: Distribution = field(default_factory=lambda: Distribution.parse(0))
    prefixes: Prefixes | None = None
    pictures: Pictures | None = None
    stream: bool = True

    @property
    def planned_hit_rate(self) -> float | None:
        """Share of prompt tokens that should come from a prefix cache; `None` if not planned."""
        if self.prefixes is None:
            return None
        rng = random.Random(0)
        drawn = [self.prompt_tokens.draw(rng) for _ in range(1000)]
        tokens = self.prefixes.tokens
        return self.prefixes.share * tokens / (tokens + sum(drawn) / len(drawn))


@dataclass(frozen=True, slots=True)
class Question:
    """A turn of the user, and how long they think before it."""

    text: str = field(repr=False)
    images: tuple[bytes, ...] = field(repr=False)
    max_tokens: int
    think: float


class Author:
    """Draws the dialogues of one tenant, endlessly."""

    def __init__(self, workload: Workload, seed: str, run: str) -> None:
        self._workload = workload
        self._run = run
        self._plan = random.Random(f"plan {seed}")
        self._words = random.Random(f"words {run} {seed}")
        self._painters = [Painter(size) for size in workload.sizes]
        prefixes = workload.prefixes
        # Shared by the workers of a run: the pool is of the run, not of the seed.
        shared = random.Random(f"prefixes {run}")
        self._pool = (
            [payloads.text(shared, prefixes.tokens) for _ in range(prefixes.pool)]
            if prefixes
            else []
        )

    def dialogue(self) -> list[Question]:
        """The questions of one conversation."""
        turns = self._workload.turns.draw_count(self._plan, least=1)
        return [self._question(first=index == 0) for index in range(turns)]

    def _question(self, first: bool) -> Question:
        work, plan = self._workload, self._plan
        length = work.prompt_tokens.draw_count(plan, least=1)
        return Question(
            text=self._text(length, first),
            images=self._images() if first else (),
            max_tokens=work.output_tokens.draw_count(plan, least=1),
            think=0.0 if first else work.think.draw(plan),
        )

    def _text(self, length: int, first: bool) -> str:
        words, prefixes = self._words, self._workload.prefixes
        if prefixes is None or not first:
            return payloads.text(words, length)
        if self._plan.random() < prefixes.share:
            beginning = self._pool[self._plan.randrange(prefixes.pool)]
        else:
            beginning = payloads.text(words, prefixes.tokens)
        return f"{beginning} {payloads.text(words, length)}"

    def _images(self) -> tuple[bytes, ...]:
        if not self._painters:
            return ()
        count = self._workload.images.draw_count(self._plan)
        pictures = (self._picture() for _ in range(count))
        return tuple(payloads.jpeg(p) if self._workload.jpeg else p for p in pictures)

    def _picture(self) -> bytes:
        painter, pool = self._plan.choice(self._painters), self._workload.pictures
        which = pool.drawn(self._plan) if pool else None
        if which is None:
            return painter.paint(self._words)
        # Of the run, as prefixes are, and the same for all its workers.
        return painter.paint(random.Random(f"pictures {self._run} {which}"))
