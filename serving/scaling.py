"""How many replicas there should be: a pure step from what the replicas report.

Work comes as tokens to prefill, tokens to generate and tiles of pictures. What one more of each
costs an engine in seconds is known from a measurement (`loadtest plan` says it), so work of any mix
adds up to replicas:

    (what arrives a second + what waits / `drain`) x its seconds / `busy`

The measurement may be wrong: while requests wait longer than `patience`, longer than at the last
look, and nothing is being started, a quarter more replicas are asked for at once. Hysteresis: else
more only when they have been asked for throughout `rising` seconds; fewer only when nothing in
`quiet` seconds has asked for more, and with `margin` to spare. Without reports the number stays;
with some missing it does not fall. The simulator of `loadtest` runs this very code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import msgspec

_EXACT = 1e-9


class Work(msgspec.Struct, frozen=True, gc=False):
    """Text: tokens to prefill, `input`, and to generate, `output`. Pictures: `tiles`."""

    input: float = 0.0
    output: float = 0.0
    tiles: float = 0.0

    def plus(self, other: Work, sign: int = 1) -> Work:
        """Together; with `sign` -1 what is left."""
        return Work(
            self.input + sign * other.input,
            self.output + sign * other.output,
            self.tiles + sign * other.tiles,
        )

    def over(self, seconds: float) -> Work:
        """A second's part of it, none of it negative: estimates are corrected later."""
        parts = self.input / seconds, self.output / seconds, self.tiles / seconds
        return Work(*(max(0.0, each) for each in parts))


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one replica. `arriving` work a second, `waiting` work, and for how many seconds the
    oldest of it has waited."""

    arriving: Work
    waiting: Work
    queued: float


@dataclass(frozen=True, slots=True)
class Seen:
    """The fleet at a moment in seconds: `serving` replicas, of `target` that serve or are being
    started, and what of them is known lately."""

    at: float
    target: int
    serving: int
    readings: Sequence[Reading]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of an engine for one more of each; it keeps its objective while `busy` of a second's
    work comes each second."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - where it is a setting

    input: float
    output: float
    tile: float
    busy: float = 0.7

    def replicas(self, work: Work) -> tuple[float, float]:
        """How many are filled by so much work a second: by its text, and by its pictures."""
        text = work.input * self.input + work.output * self.output
        return text / self.busy, work.tiles * self.tile / self.busy


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator decides; times in seconds, `margin` a share."""

    costs: Costs
    drain: float = 60.0
    patience: float = 2.0
    rising: float = 15.0
    quiet: float = 900.0
    margin: float = 0.15


Window = tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept between two looks: the least and the most that was asked for lately."""

    lows: Window = ()
    highs: Window = ()
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """So many `replicas`; `text` and `pictures` fill as many, requests wait `queued` seconds."""

    replicas: int
    memory: Memory
    text: float = 0.0
    pictures: float = 0.0
    queued: float = 0.0


def decide(rule: Rule, memory: Memory, seen: Seen, least: int, most: int) -> Decision:
    """The step."""
    if not seen.readings:
        asked, text, pictures, queued = seen.target, 0.0, 0.0, 0.0
    else:
        text, pictures = _filled(rule, seen.readings)
        queued = sum(each.queued for each in seen.readings) / len(seen.readings)
        asked = _asked(rule, seen, text + pictures)
    late = queued > rule.patience and queued > memory.queued and seen.serving >= seen.target
    if late:
        asked = max(asked, seen.target + ceil(seen.target / 4))
    asked = min(most, max(least, asked))
    lows = _latest(memory.lows or ((seen.at, seen.target),), seen.at, asked, rule.rising, -1)
    highs = _latest(memory.highs or ((seen.at, seen.target),), seen.at, asked, rule.quiet, 1)
    more = asked if late else lows[0][1]
    replicas = min(most, max(least, more, min(seen.target, highs[0][1])))
    return Decision(replicas, Memory(lows, highs, queued), text, pictures, queued)


def _filled(rule: Rule, readings: Sequence[Reading]) -> tuple[float, float]:
    work = Work()
    for each in readings:
        work = work.plus(each.arriving).plus(each.waiting.over(rule.drain))
    return rule.costs.replicas(work)


def _asked(rule: Rule, seen: Seen, filled: float) -> int:
    up = ceil(filled - _EXACT)
    if up >= seen.target or len(seen.readings) < seen.serving:
        return max(up, seen.target)
    return min(seen.target, ceil(filled * (1 + rule.margin) - _EXACT))


def _latest(window: Window, at: float, value: int, span: float, sign: int) -> Window:
    """The window a moment later; its first is its largest (`sign` 1) or its least (-1)."""
    kept = [(t, v) for t, v in window if t >= at - span]
    while kept and sign * kept[-1][1] <= sign * value:
        kept.pop()
    return (*kept, (at, value))
