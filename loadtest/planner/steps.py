"""What an engine's steps did, read off the records of a run.

Each token that anybody got was a row of a step, each first token ended a prefill. The tokens of one
step come a little after one another, since the front end hands them on one by one: tokens that lie
closer together than any two of one request are of the same step, and as if they had come together.
Prompts that a step had no room for were read in several (`chunks`). All times are by the client's
clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.core import Record
from loadtest.planner import chunks
from loadtest.planner.model import Costs
from loadtest.planner.tiles import computed

Array = NDArray[np.float64]
_TELLING = 30  # steps of one row, from which their median says something
_TOGETHER = 0.5  # of the shortest times between tokens: what comes within it is of one step


class Steps:
    """The answered requests of one run, in order of when they were sent, and all their tokens."""

    def __init__(self, records: Sequence[Record], tiles_of: Mapping[str, int]) -> None:
        kept = sorted(
            (r for r in records if not r.error and r.first_token and r.prompt_tokens > 0),
            key=lambda record: record.sent,
        )
        self.count = len(kept)
        self.sent = _column(r.sent for r in kept)
        # An access log does not say when tokens came, thus not when the steps began.
        self.timed = any(r.gaps for r in kept)
        self.streamed = [r.stream and r.tokens > 1 for r in kept]
        self.tiles = _column(tiles_of.get(r.tenant, 0) for r in kept)
        prompt = _column(r.text_tokens for r in kept)
        new = _column(r.text_tokens - r.cached_text_tokens for r in kept)
        self._encoded = _column(computed(tiles_of.get(r.tenant, 0)) for r in kept)
        self._prompt, self._new = prompt, new
        self._tokens([_moments(r) for r in kept], prompt)

    def came(self, costs: Costs) -> Array:
        """When each request came to the engine, by what is spent before that. By the client's
        clock: as late as it is told of tokens."""
        return self.sent + costs.request + costs.cut * self.tiles

    def prefilled(self, came: Array, beside: int) -> Array:
        """Sums, up to each moment at which steps ended, of what was prefilled; of requests that
        came then to an engine whose steps read so much beside others (0: whatever there is)."""
        end = np.searchsorted(self.moments, self.first)
        begin, room = end, np.full(len(self.moments), np.inf)
        if beside and self.timed:
            at_work = np.searchsorted(np.sort(came), came, side="left")
            at_work -= np.searchsorted(np.sort(self.last), came, side="right")
            # Whoever comes to an engine at work waits for the step under way.
            begin = np.searchsorted(self.moments, came, side="right") + (at_work > 0)
            begin, room = np.minimum(begin, end), beside - self._decoded
        found = np.zeros((len(self.moments) + 1, 4))
        for i, tokens in enumerate(chunks.taken(begin, end, self._new, room)):
            work = chunks.work(tokens, self._prompt[i], self._encoded[i])
            found[begin[i] + 1 : end[i] + 2] += work
        return np.cumsum(found, axis=0)

    def between(self, prefilled: Array, begin: float, end: float) -> tuple[Array, Array, float]:
        """What was done in the steps that ended in (begin, end]: sums of rows, their context and
        tiles; sums of what was prefilled; how many steps they were."""
        low, high = np.searchsorted(self.times, (begin, end), side="right")
        *rows, steps = self._sums[high] - self._sums[low]
        low, high = np.searchsorted(self.moments, (begin, end), side="right")
        return np.array(rows), prefilled[high] - prefilled[low], float(steps)

    def pace(self) -> float | None:
        """Seconds that a step of one row took, which is the same work in every run: the speed of
        the machine. `None` if there were too few to tell."""
        moments, at, count = np.unique(self.times, return_index=True, return_counts=True)
        owner, first = self._owner[at], self._first[at]
        lone = (count[1:] == 1) & (count[:-1] == 1) & (owner[1:] == owner[:-1]) & ~first[1:]
        found = np.diff(moments)[lone]
        return float(np.median(found)) if self.timed and len(found) >= _TELLING else None

    def _tokens(self, moments: list[Array], prompt: Array) -> None:
        """Every token in order of time: whose it is, and sums of what its rows cost so far."""
        self.sizes = [len(each) for each in moments]
        times = np.concatenate(moments) if moments else np.zeros(0)
        owner = np.repeat(np.arange(self.count), self.sizes)
        index = np.concatenate([np.arange(n) for n in self.sizes]) if moments else np.zeros(0)
        if self.timed:
            times = _together(times, _shortest(moments))
        begins = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        self.first, self.last = times[begins[:-1]], times[begins[1:] - 1]
        decoded = (index > 0).astype(np.float64)  # a first token is no row, but a prefill
        context, cross = prompt[owner] + index, self.tiles[owner]
        steps = _parts(times) if self.timed else decoded / self._rows(times)
        rows = np.stack([decoded, decoded * context, decoded * cross, steps], axis=1)
        self.moments, which = np.unique(times, return_inverse=True)
        self._decoded = np.bincount(which, decoded, len(self.moments))
        order = np.argsort(times, kind="stable")
        self.times, self._owner, self._first = times[order], owner[order], (index == 0)[order]
        self._sums = np.vstack([np.zeros(4), np.cumsum(rows[order], axis=0)])

    def _rows(self, times: Array) -> Array:
        """How many requests were being decoded at each of `times`."""
        begun = np.searchsorted(np.sort(self.first), times, side="left")
        ended = np.searchsorted(np.sort(self.last), times, side="left")
        return np.maximum(1.0, (begun - ended).astype(np.float64))


def _together(times: Array, within: float) -> Array:
    """Moments with those that follow one within so many seconds as early as that one."""
    order = np.argsort(times, kind="stable")
    found, begun = times.copy(), -np.inf
    for place in order:
        if times[place] > begun + within:
            begun = times[place]
        found[place] = begun
    return found


def _shortest(moments: Iterable[Array]) -> float:
    """What is together: less than the times between tokens of one request, but for a few."""
    gaps = np.concatenate([np.diff(each) for each in moments])
    gaps = gaps[gaps > 0]
    return _TOGETHER * float(np.quantile(gaps, 0.05)) if len(gaps) else 0.0


def _parts(times: Array) -> Array:
    """Each token's part of its step, of which there are so many tokens."""
    _, which, count = np.unique(times, return_inverse=True, return_counts=True)
    found: Array = 1.0 / count[which]
    return found


def _moments(record: Record) -> Array:
    """When each token came: with a frame that carried text, the token that ends an answer at its
    end; evenly spread where nothing is known of frames."""
    first, count = record.first_token or 0.0, max(1, record.tokens)
    if not record.stream or count == 1:
        return np.array([record.end if not record.stream else first])
    if not record.gaps:
        return np.linspace(first, record.end, count)
    frames: Array = first + np.concatenate([[0.0], np.cumsum(np.array(record.gaps)) / 1e6])
    if len(frames) == count - 1:
        return np.append(frames, max(record.end, frames[-1]))
    # Frames that held several tokens. Where a step ended must stay: prompts begin there.
    return np.take(frames, np.rint(np.linspace(0, len(frames) - 1, count)).astype(int))


def _column(values: Iterable[float]) -> Array:
    return np.fromiter(values, dtype=np.float64)
