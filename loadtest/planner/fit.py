"""A model of one replica from the records of runs against it.

Two equations for each answered request, linear in the costs (`model.Costs`):

    from its first to its last token      = the steps between, what they decoded and prefilled
    to its first token, from the end of   = the steps between; its own prefill is among what
    the step that was going on when it      they did. Of an idle replica: from when it was sent,
    was sent                                and `request` is added

What steps did is read off the other records: each token that anybody got was a row of a step, each
first token ended a prefill. A prompt cut into chunks counts as prefilled where it ended. Costs are
at least zero; outliers among the relative residuals are weighed down (Huber). Uncertainty: the same
fit on resampled stretches of the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.core import Record, UsageError
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.tiles import computed

Array = NDArray[np.float64]
NAMES = Costs.__struct_fields__
_COLUMN = {name: index for index, name in enumerate(NAMES)}
_ROWS = [_COLUMN[name] for name in ("row", "context", "cross")]
_PREFILLS = [_COLUMN[name] for name in ("prefill", "attention", "tile")]
_LEAST = 30  # requests
_DRAWS = 16
_BLOCKS = 20  # stretches of a run, for resampling
_HUBER = 0.25  # relative residual from which an equation counts less


class _Seen:
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
        self.moments = [_moments(r) for r in kept]
        self.first = _column(m[0] for m in self.moments)
        self.last = _column(m[-1] for m in self.moments)
        self.tiles = _column(tiles_of.get(r.tenant, 0) for r in kept)
        prompt = _column(r.text_tokens for r in kept)
        new = _column(r.text_tokens - r.cached_text_tokens for r in kept)
        encoded = _column(computed(tiles_of.get(r.tenant, 0)) for r in kept)
        self.prefills = np.stack([new, new * (prompt - new / 2), encoded], axis=1)
        self._tokens(prompt)

    def _tokens(self, prompt: Array) -> None:
        """Every token in order of time: whose it is, and sums of what its rows cost so far."""
        sizes = [len(each) for each in self.moments]
        times = np.concatenate(self.moments) if self.count else np.zeros(0)
        owner = np.repeat(np.arange(self.count), sizes)
        index = np.concatenate([np.arange(n) for n in sizes]) if self.count else np.zeros(0)
        decoded = (index > 0).astype(np.float64)  # a first token is no row, but a prefill
        rows = np.stack(
            [
                decoded,
                decoded * (prompt[owner] + index),
                decoded * self.tiles[owner],
                decoded / self._rows(times),  # of a step, of which there are so many rows
            ],
            axis=1,
        )
        order = np.argsort(times, kind="stable")
        self.times = times[order]
        self.sums = np.vstack([np.zeros(4), np.cumsum(rows[order], axis=0)])

    def _rows(self, times: Array) -> Array:
        """How many requests were being decoded at each of `times`."""
        begun = np.searchsorted(np.sort(self.first), times, side="left")
        ended = np.searchsorted(np.sort(self.last), times, side="left")
        return np.maximum(1.0, (begun - ended).astype(np.float64))


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


def _column(values: Any) -> Array:
    return np.fromiter(values, dtype=np.float64)


class Equations:
    """Rows `features · costs = seconds`, with the request each is of."""

    def __init__(self) -> None:
        self.features: list[Array] = []
        self.seconds: list[float] = []
        self.block: list[int] = []
        self.kind: list[tuple[str, bool]] = []  # ttft or decode; with images or without

    def add(self, records: Sequence[Record], tiles_of: Mapping[str, int]) -> None:
        """The equations of one run."""
        seen = _Seen(records, tiles_of)
        run = (self.block[-1] + 1) if self.block else 0
        for i in range(seen.count):
            place = run + i * _BLOCKS // seen.count, bool(seen.tiles[i])
            row, waited = _waiting(seen, i)
            if seen.timed or row[_COLUMN["request"]]:
                self._add("ttft", place, row, waited)
            if seen.streamed[i]:
                self._add("decode", place, *_decoding(seen, i))

    def _add(self, kind: str, place: tuple[int, bool], row: Array, seconds: float) -> None:
        if seconds > 0:
            block, images = place
            self.features.append(row)
            self.seconds.append(seconds)
            self.block.append(block)
            self.kind.append((kind, images))


def _between(seen: _Seen, begin: float, end: float) -> tuple[Array, float]:
    """What was done in the steps that ended in (begin, end], and how many they were."""
    row = np.zeros(len(NAMES))
    low, high = np.searchsorted(seen.times, (begin, end), side="right")
    *done, steps = seen.sums[high] - seen.sums[low]
    row[_ROWS] = done
    inside = (seen.first > begin) & (seen.first <= end)
    row[_PREFILLS] = seen.prefills[inside].sum(axis=0)
    return row, float(steps)


def _waiting(seen: _Seen, i: int) -> tuple[Array, float]:
    """Of the time to the first token."""
    begin, idle = _boundary(seen, i)
    row, steps = _between(seen, begin, seen.first[i])
    row[_COLUMN["request"]] = idle
    row[_COLUMN["step"]] = max(1.0, steps)
    return row, float(seen.first[i] - begin)


def _boundary(seen: _Seen, i: int) -> tuple[float, float]:
    """When the step began that was going on when request `i` was sent; whether from idleness."""
    sent = seen.sent[i]
    going = (seen.sent < sent) & (seen.last > sent)
    if not going.any():
        return float(sent), 1.0
    at = int(np.searchsorted(seen.times, sent, side="right"))
    before = float(seen.times[at - 1]) if at else -np.inf
    begun = float(seen.sent[going].min())
    return (before, 0.0) if before > begun else (begun, 1.0)


def _decoding(seen: _Seen, i: int) -> tuple[Array, float]:
    begin, end = seen.first[i], seen.last[i]
    row, _ = _between(seen, begin, end)
    row[_COLUMN["step"]] = len(seen.moments[i]) - 1
    return row, float(end - begin)


def solve(features: Array, seconds: Array) -> Array:
    """Costs of at least zero with the least relative residuals."""
    weight = 1.0 / seconds
    scale = np.maximum(np.abs(features * weight[:, None]).max(axis=0), 1e-30)
    costs: Array = np.zeros(features.shape[1])
    for _ in range(6):
        a = features * weight[:, None] / scale
        costs = _nonnegative(a.T @ a, a.T @ (seconds * weight)) / scale
        residual = np.abs(features @ costs - seconds) / seconds
        weight = np.sqrt(np.minimum(1.0, _HUBER / np.maximum(residual, 1e-12))) / seconds
    return costs


def _nonnegative(gram: Array, right: Array) -> Array:
    """Least squares with x >= 0, from the normal equations (Lawson and Hanson, 1974)."""
    size = len(right)
    x, passive = np.zeros(size), np.zeros(size, dtype=bool)
    ridge = np.eye(size) * 1e-9 * max(1e-30, float(np.trace(gram)) / size)
    gram = gram + ridge
    for _ in range(3 * size):
        gradient = right - gram @ x
        free = ~passive & (gradient > 1e-12 * max(1.0, float(np.abs(right).max())))
        if not free.any():
            break
        passive[int(np.argmax(np.where(free, gradient, -np.inf)))] = True
        while True:
            inside = np.flatnonzero(passive)
            trial = np.zeros(size)
            trial[inside] = np.linalg.solve(gram[np.ix_(inside, inside)], right[inside])
            if (trial[inside] > 0).all():
                x = trial
                break
            bad = passive & (trial <= 0)
            step = np.min(x[bad] / np.maximum(x[bad] - trial[bad], 1e-300))
            x = x + step * (trial - x)
            passive &= x > 1e-15
            x[~passive] = 0.0
    return x


def fit(
    runs: Sequence[Sequence[Record]],
    tiles_of: Mapping[str, int],
    name: str,
    limits: Limits,
    cold_start: float,
    sources: Sequence[str] = (),
) -> Replica:
    """The model that explains the runs best.

    `tiles_of`: the tiles of each request of a tenant, by the tenant's name.

    Raises:
        UsageError: too few requests were answered.
    """
    equations = Equations()
    for records in runs:
        equations.add(records, tiles_of)
    if len(equations.seconds) < 2 * _LEAST:
        raise UsageError(f"too few answered requests with usage: at least {_LEAST} are needed")
    a, b = np.stack(equations.features), np.array(equations.seconds)
    costs = solve(a, b)
    draws = _resampled(a, b, np.array(equations.block))
    return Replica(
        name=name,
        origin="measured",
        costs=_costs(costs),
        limits=limits,
        errors={
            each: float(np.std(draws[:, i]) / costs[i])
            for i, each in enumerate(NAMES)
            if costs[i] > 0
        },
        draws=tuple(_costs(each) for each in draws),
        sources=tuple(sources),
        cold_start=cold_start,
        fit=_residuals(equations, a @ costs, b),
    )


def _costs(values: Array) -> Costs:
    return Costs(**{name: float(value) for name, value in zip(NAMES, values, strict=True)})


def _resampled(a: Array, b: Array, block: NDArray[Any]) -> Array:
    """Costs fitted to stretches of the runs drawn with replacement."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(block == each) for each in np.unique(block)]
    draws = []
    for _ in range(_DRAWS):
        chosen = np.concatenate([rows[j] for j in rng.integers(0, len(rows), len(rows))])
        draws.append(solve(a[chosen], b[chosen]))
    return np.stack(draws)


def _residuals(equations: Equations, predicted: Array, seconds: Array) -> dict[str, float]:
    """Median relative errors of the equations, of text and of images."""
    found: dict[str, float] = {}
    relative = np.abs(predicted - seconds) / seconds
    for kind in ("ttft", "decode"):
        for images in (False, True):
            which = np.array([each == (kind, images) for each in equations.kind])
            if which.any():
                key = f"{kind}_{'image' if images else 'text'}"
                found[f"{key}_median_error"] = round(float(np.median(relative[which])), 4)
                found[f"{key}_requests"] = float(which.sum())
    return found
