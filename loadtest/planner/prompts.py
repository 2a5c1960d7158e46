"""Prompts that an engine reads, a part in each step: whose turn it is, and what that costs.

The service's rule (serving/mllama/steps.py): a step beside others is bounded by `Limits.beside`;
prompts half read go on, then others are begun, their tenants in turns (serving/admission/order.py);
half-read ones wait for a step if somebody comes who goes before them, never twice in a row. Such a
step encodes no more tiles than one picture or one request has.
"""

from __future__ import annotations

from bisect import insort
from math import inf

from loadtest.planner.model import Limits, Work
from loadtest.planner.requests import Request
from loadtest.planner.tiles import MOST


class Prompts:
    """Of one engine. `count` includes those whose end the present step reads."""

    def __init__(self, limits: Limits) -> None:
        self._alone = limits.budget
        self._beside = limits.beside or limits.budget
        self._new: list[Request] = []  # not begun, by standing
        self._begun: list[Request] = []  # half read, in the order of their turns
        self._ending: list[Request] = []  # read to the end by the present step
        self._overtaken = False  # some were, in this step
        self.count = 0

    def add(self, request: Request) -> None:
        """One that is to be read; equals in the order in which they come."""
        self.count += 1
        insort(self._new, request, key=_standing)

    def read(self, work: Work, alone: bool) -> None:
        """Plan a step's part, and add it to the `work` of its rows, which go first."""
        held = self._behind_the_next() if self._begun and self._new else []
        self._overtaken = bool(held)
        first = [each for each in self._begun if each not in held] if held else self._begun
        turns = first + self._new
        bounded = self._beside < self._alone and not alone
        room = max(1, (self._beside if bounded else self._alone) - int(work.rows))
        tiles = max(MOST, _tiles(self._new[0])) if bounded and self._new else inf
        read = 0
        while read < len(turns) and room > 0 and _tiles(turns[read]) <= tiles:
            tiles -= _tiles(turns[read])
            room -= _read(turns[read], room, work)
            read += 1
        begun = max(read, len(first))
        self._ending = [each for each in turns[:read] if not each.left]
        self._begun = [each for each in turns[:begun] if each.left] + held
        self._new = turns[begun:]

    def ended(self) -> list[Request]:
        """Who has been read to the end by the step that is over."""
        found, self._ending = self._ending, []
        self.count -= len(found)
        return found

    def lose(self) -> list[Request]:
        """All of them; nobody is read any more."""
        lost = [*self._ending, *self._begun, *self._new]
        self._ending, self._begun, self._new, self.count = [], [], [], 0
        return lost

    def _behind_the_next(self) -> list[Request]:
        if self._overtaken:
            return []
        first = self._new[0].standing
        return [each for each in self._begun if each.standing > first]


def _standing(request: Request) -> float:
    return request.standing


def _tiles(request: Request) -> int:
    """To be encoded, as they were cut."""
    return request.tiles if request.encode else 0


def _read(request: Request, room: int, work: Work) -> int:
    """As much of it as there is room for."""
    taken = min(request.left, room)
    before = request.prompt - request.left
    work.prefill += taken
    work.attention += taken * (before + taken / 2)
    work.tiles += request.encode
    request.encode = 0
    request.left -= taken
    work.prompts += request.left == 0
    return taken
