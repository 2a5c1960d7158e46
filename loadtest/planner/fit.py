"""A model of one replica from the records of runs against it.

Two equations for each answered request, linear in the costs (`model.Costs`):

    from its first to its last token      = the steps between, what they decoded and prefilled
    to its first token, from the end of   = the steps between; its own prefill is among what
    the step that was going on when it      they did. Of an idle replica: from when it was sent,
    came to the engine                      and what is spent before the engine is added

When a request came to the engine hangs on what is spent before that (`request`, `cut`), which is to
be found: at first that is taken as nothing, then as what was found.

What steps did is read off the other records (`steps`). Costs are at least zero; outliers among the
relative residuals are weighed down (Huber). Uncertainty: the same fit on resampled stretches of the
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.core import Record, UsageError
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.steps import Array, Steps

NAMES = tuple(name for name in Costs.__struct_fields__ if name != "notice")
_COLUMN = {name: index for index, name in enumerate(NAMES)}
_ROWS = [_COLUMN[name] for name in ("row", "context", "cross")]
_PREFILLS = [_COLUMN[name] for name in ("prompt", "prefill", "attention", "tile")]
_LEAST = 30  # requests
_DRAWS = 16
_BLOCKS = 20  # stretches of a run, for resampling
_PASSES = 3  # of when requests came to the engine
_HUBER = 0.5  # relative residual from which an equation counts less
_FLOOR = 0.1  # of what was measured: what is expected is taken as no less
_REWEIGHTED = 8


class Equations:
    """Rows `features · costs = seconds`, with the request each is of."""

    def __init__(self) -> None:
        self.features: list[Array] = []
        self.seconds: list[float] = []
        self.block: list[int] = []
        self.kind: list[tuple[str, bool]] = []  # ttft or decode; with images or without

    def add(self, seen: Steps, costs: Costs, beside: int) -> None:
        """The equations of one run; of `costs`, what is spent before the engine. `beside`: of
        prompts in a step, with its rows."""
        run = (self.block[-1] + 1) if self.block else 0
        came = seen.came(costs)
        read = seen.prefilled(came, beside)
        for i in range(seen.count):
            place = run + i * _BLOCKS // seen.count, bool(seen.tiles[i])
            row, waited = _waiting(seen, read, came, i)
            if seen.timed or row[_COLUMN["request"]]:
                self._add("ttft", place, row, waited)
            if seen.streamed[i]:
                self._add("decode", place, *_decoding(seen, read, i))

    def _add(self, kind: str, place: tuple[int, bool], row: Array, seconds: float) -> None:
        if seconds > 0:
            block, images = place
            self.features.append(row)
            self.seconds.append(seconds)
            self.block.append(block)
            self.kind.append((kind, images))


def _waiting(seen: Steps, read: Array, came: Array, i: int) -> tuple[Array, float]:
    """Of the time to the first token."""
    begin, idle = _boundary(seen, came, i)
    row, steps = _between(seen, read, begin, seen.first[i])
    row[_COLUMN["request"]], row[_COLUMN["cut"]] = idle, idle * seen.tiles[i]
    row[_COLUMN["step"]] = max(1.0, steps)
    return row, float(seen.first[i] - begin)


def _boundary(seen: Steps, came: Array, i: int) -> tuple[float, float]:
    """When the step began that was going on when request `i` came; or, if none was, when the
    request was sent."""
    going = (came < came[i]) & (seen.last > came[i])
    if not going.any():
        return float(seen.sent[i]), 1.0
    at = int(np.searchsorted(seen.times, came[i], side="right"))
    before = float(seen.times[at - 1]) if at else -np.inf
    return max(before, float(came[going].min())), 0.0


def _decoding(seen: Steps, read: Array, i: int) -> tuple[Array, float]:
    begin, end = seen.first[i], seen.last[i]
    row, _ = _between(seen, read, begin, end)
    row[_COLUMN["step"]] = seen.sizes[i] - 1
    return row, float(end - begin)


def _between(seen: Steps, read: Array, begin: float, end: float) -> tuple[Array, float]:
    row = np.zeros(len(NAMES))
    row[_ROWS], row[_PREFILLS], steps = seen.between(read, begin, end)
    return row, steps


def solve(features: Array, seconds: Array) -> Array:
    """Costs of at least zero with the least residuals, as parts of what is expected. (As parts of
    what was measured, what was fast by chance would count more than what was slow.)"""
    weight = 1.0 / seconds
    scale = np.maximum(np.abs(features * weight[:, None]).max(axis=0), 1e-30)
    costs: Array = np.zeros(features.shape[1])
    for _ in range(_REWEIGHTED):
        a = features * weight[:, None] / scale
        costs = _nonnegative(a.T @ a, a.T @ (seconds * weight)) / scale
        expected = np.maximum(features @ costs, _FLOOR * seconds)
        residual = np.abs(expected - seconds) / expected
        weight = np.sqrt(np.minimum(1.0, _HUBER / np.maximum(residual, 1e-12))) / expected
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
    costs, seen = np.zeros(len(NAMES)), [Steps(records, tiles_of) for records in runs]
    for _ in range(_PASSES):
        equations = Equations()
        for each in seen:
            equations.add(each, _costs(costs), limits.beside)
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
        fit={**_residuals(equations, a @ costs, b), **_drift(seen)},
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


def _drift(seen: Sequence[Steps]) -> dict[str, float]:
    """By how much the machine was slower in one run than in another."""
    paces = [pace for each in seen if (pace := each.pace())]
    return {"machine_drift": round(max(paces) / min(paces) - 1, 4)} if len(paces) > 1 else {}


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
