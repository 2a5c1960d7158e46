"""Users as Python classes, in locust's words: `User`, `task`, `between`, `LoadShape`.

class Analyst(User):
    weight = 2
    wait_time = between(1, 5)

    async def on_start(self):
        self.chart = self.picture("1120x1120")

    @task(3)
    async def look(self):
        reply = await self.ai.stream("What does it show?", images=[self.chart], max_tokens=64)
        if reply.ok:
            await self.ai.chat("And the trend?")
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from loadtest import payloads
from loadtest.client import clock
from loadtest.core import Ask, Record, Turn, UsageError
from loadtest.events import Events, events
from loadtest.payloads import Painter
from loadtest.scenario import size
from loadtest.wire import Identity, Wire

Wait = Callable[[Any], float]
Task = Callable[[Any], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Awaitable[None]])


def constant(seconds: float) -> Wait:
    """Always so long."""
    return lambda user: seconds


def between(least: float, most: float) -> Wait:
    """Evenly drawn."""
    return lambda user: user.random.uniform(least, most)


def constant_pacing(seconds: float) -> Wait:
    """So long from the start of one task to the start of the next."""
    return lambda user: max(0.0, user.began_task + seconds - clock())


def constant_throughput(rate: float) -> Wait:
    """So many tasks a second of each user, if they are quick enough."""
    return constant_pacing(1 / rate)


def task(weight: int | F = 1) -> Any:
    """Marks a coroutine of a User; `@task` or `@task(3)`."""
    if callable(weight):
        weight.task_weight = 1  # type: ignore[attr-defined]
        return weight

    def mark(method: F) -> F:
        method.task_weight = weight  # type: ignore[attr-defined]
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and its timings in seconds, counted from when the request was due."""

    text: str
    record: Record

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not self.record.error

    @property
    def ttft(self) -> float | None:
        """To the first token."""
        first = self.record.first_token
        return None if first is None else first - self.record.intended

    @property
    def itl(self) -> list[float]:
        """Between tokens."""
        return [gap / 1e6 for gap in self.record.gaps]

    @property
    def e2e(self) -> float:
        """To the end."""
        return self.record.end - self.record.intended


class AI:
    """The model as one user sees it. Requests are timed from the end of the user's wait."""

    def __init__(self, wire: Wire, identity: Identity, task: str) -> None:
        self._wire = wire
        self._identity = identity
        self.task = task
        self.due: float | None = None
        self.history: list[Turn] = []

    async def run(self, prompt: str | Sequence[Turn], **options: Any) -> Reply:
        """Ask for an answer in one piece. Options are the fields of `Ask`, and `images`."""
        return await self._ask(prompt, stream=False, **options)

    async def stream(self, prompt: str | Sequence[Turn], **options: Any) -> Reply:
        """Ask for a stream, and wait for its end."""
        return await self._ask(prompt, stream=True, **options)

    async def chat(self, prompt: str, images: Sequence[bytes] = (), **options: Any) -> Reply:
        """The next turn of this user's conversation; a failed one is forgotten."""
        turn = Turn("user", prompt, tuple(images))
        reply = await self._ask([*self.history, turn], stream=True, **options)
        if reply.ok:
            self.history += [turn, Turn("assistant", reply.text)]
        return reply

    def forget(self) -> None:
        """Begin a new conversation."""
        self.history.clear()

    async def _ask(
        self,
        prompt: str | Sequence[Turn],
        *,
        stream: bool,
        images: Sequence[bytes] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> Reply:
        turns = [Turn("user", prompt, tuple(images))] if isinstance(prompt, str) else prompt
        options.setdefault("adapter", self._identity.adapter)
        ask = Ask(tuple(turns), stream=stream, tools=tuple(tools), **options)
        message = self._identity.message(ask)
        due, self.due = self.due or clock(), None
        record, reading = await self._wire.send(
            message, self._identity.name, intended=due, stream=stream, task=self.task
        )
        return Reply(reading.text, record)


class User:
    """Base of users. `tenant` names one of the scenario's; the first is the default.

    Besides methods marked with `@task`, `tasks` may list coroutines that take the user, or map
    them to weights. A class that is `abstract` itself has no users.
    """

    weight: ClassVar[float] = 1
    abstract: ClassVar[bool] = True
    tasks: ClassVar[Mapping[Task, int] | Sequence[Task]] = ()
    wait_time: Wait | float = 0.0
    tenant: ClassVar[str | None] = None

    def __init__(self, ai: AI, rng: random.Random, run: str) -> None:
        self.ai = ai
        self.random = rng
        self._run = run
        self.began_task = 0.0

    async def on_start(self) -> None:
        """Before the first task."""

    async def on_stop(self) -> None:
        """After the last."""

    def prompt(self, tokens: int) -> str:
        """Text of about so many tokens that nobody has sent before."""
        return payloads.text(self.random, tokens)

    def shared(self, tokens: int, name: str = "") -> str:
        """Text of about so many tokens that all users of this run share under this name, for
        prompts that begin with it to hit a prefix cache."""
        return payloads.text(random.Random(f"shared {self._run} {name}"), tokens)

    def picture(self, pixels: str = "640x480") -> bytes:
        """A PNG that nobody has sent before."""
        return Painter(size(pixels)).paint(self.random)

    @classmethod
    def weighted(cls) -> dict[Task, int]:
        """All tasks and their weights."""
        methods: list[Any] = [getattr(cls, name, None) for name in dir(cls)]
        marked = {each: each.task_weight for each in methods if hasattr(each, "task_weight")}
        listed = cls.tasks if isinstance(cls.tasks, Mapping) else Counter(cls.tasks)
        return {**marked, **listed}

    async def work(self, begin: float, more: Callable[[float], bool]) -> None:
        """Do tasks as long as there is to be more; the first at `begin`."""
        await self.on_start()
        tasks = self.weighted()
        due = max(begin, clock())
        while more(due):
            (chosen,) = self.random.choices(list(tasks), list(tasks.values()))
            self.ai.due, self.ai.task = due, f"{type(self).__name__}.{chosen.__name__}"
            self.began_task = due
            await chosen(self)
            due = clock() + self._wait()
            await asyncio.sleep(max(0.0, due - clock()))
        await self.on_stop()

    def _wait(self) -> float:
        wait = type(self).wait_time
        return float(wait(self) if callable(wait) else wait)


class LoadShape:
    """Subclass it and say in `tick`, asked every second, how much load there should be now:
    (users, users started in a second), or a number (requests/s), or None to end the run."""

    def tick(self) -> tuple[int, float] | float | None:
        """See the class."""
        raise NotImplementedError

    def get_run_time(self) -> float:
        """Seconds since the run began."""
        return clock() - self._began

    def begin(self, moment: float) -> None:
        """The run begins, or began."""
        self._began = moment


LoadTestShape = LoadShape  # as locust calls it


@dataclass(frozen=True, slots=True)
class Crew:
    """What a file of users defines."""

    users: tuple[type[User], ...]
    shape: type[LoadShape] | None
    events: Events

    @classmethod
    def load(cls, path: str) -> Crew:
        """Import a file; every User with tasks in it takes part.

        Raises:
            UsageError: it cannot be imported, or defines no user with tasks.
        """
        file = Path(path)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise UsageError(f"not a Python file: {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        users = tuple(each for each in classes if issubclass(each, User) and _works(each))
        shapes = [c for c in classes if issubclass(c, LoadShape) and c is not LoadShape]
        if not users:
            raise UsageError(f"{path} defines no User with a @task")
        return cls(users, shapes[0] if shapes else None, events.taken())


def _works(user: type[User]) -> bool:
    return not vars(user).get("abstract", False) and bool(user.weighted()) and user.weight > 0
