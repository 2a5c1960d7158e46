"""What a run is to those who share it out, steer it and watch it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from loadtest.instrument import Measured
from loadtest.scenario import Scenario
from loadtest.series import Series


@dataclass(frozen=True, slots=True)
class Share:
    """This process's part of a run: worker `index` of `count`. `run` names the run.

    One that takes over from a lost worker is told what that one left of a number of dialogues.
    `life` makes its prompts unlike those of the one before.
    """

    run: str
    index: int = 0
    count: int = 1
    left: int | None = None
    life: int = 0

    def of(self, whole: int) -> int:
        """This worker's part of so many things."""
        return whole // self.count + (self.index < whole % self.count)


@dataclass(slots=True)
class Controls:
    """What may change while a run is going. `users` and `rate` override the scenario's."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    users: int | None = None
    rate: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, users: int | None = None, rate: str | None = None) -> None:
        """Another load from now on."""
        self.users, self.rate = users or self.users, rate or self.rate
        self.changed.set()


class Going(Protocol):
    """A run that is going on, in this process or in many."""

    scenario: Scenario
    controls: Controls
    series: Series

    @property
    def elapsed(self) -> float:
        """Seconds since its start."""

    @property
    def in_flight(self) -> int:
        """Requests being answered."""

    async def execute(self) -> Measured:
        """Do it to its end."""
