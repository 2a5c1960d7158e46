"""Many records at a time as columns of numbers: how a file of a million is added up.

Adds to a `Series` what `Series.add` adds for each record. numpy is slow to import: a run does
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from loadtest.core import Failure, Record
from loadtest.histogram import PRECISION, Histogram
from loadtest.series import Series, Tally, reach

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
_NONE = np.nan  # no first token


@dataclass(frozen=True, slots=True)
class Columns:
    """Records side by side. `gaps` of all lie end to end, `lengths` says how many each has."""

    records: Sequence[Record]
    good: NDArray[np.bool_]
    intended: Floats
    sent: Floats
    connect: Floats
    first: Floats
    end: Floats
    tokens: Whole
    frames: Whole
    gaps: Whole
    lengths: Whole

    @classmethod
    def of(cls, records: Sequence[Record]) -> Columns:
        """The columns of some records."""

        def floats(value: Callable[[Record], float]) -> Floats:
            return np.fromiter(map(value, records), np.float64, len(records))

        def whole(value: Callable[[Record], int]) -> Whole:
            return np.fromiter(map(value, records), np.int64, len(records))

        return cls(
            records,
            np.array([not record.error for record in records]),
            floats(lambda r: r.intended),
            floats(lambda r: r.sent),
            floats(lambda r: r.connect),
            floats(lambda r: _NONE if r.first_token is None else r.first_token),
            floats(lambda r: r.end),
            whole(lambda r: r.tokens),
            whole(lambda r: r.frames),
            np.fromiter(chain.from_iterable(r.gaps for r in records), np.int64),
            whole(lambda r: len(r.gaps)),
        )


def add(series: Series, records: Sequence[Record]) -> None:
    """Count all of `records`; those that did not fail have kept their objectives."""
    series.reach(max((record.end for record in records), default=0.0))

    def place(record: Record) -> tuple[str, int]:
        return record.tenant, int(max(0.0, record.intended) / series.width)

    for where, group in groupby(sorted(records, key=place), place):
        columns = Columns.of(list(group))
        _tally(series.block(*where), columns)
        _spread_busy(series, columns)
        _spread_tokens(series, columns)


def _tally(tally: Tally, columns: Columns) -> None:
    records, good = columns.records, columns.good
    for record in records:
        tally.count(record, attained=not record.error)
    tried = np.array([record.error != Failure.OVERFLOW for record in records])
    _extend(tally.send_delay, (columns.sent - columns.connect - columns.intended)[tried])
    _extend(tally.e2e, (columns.end - columns.intended)[good])
    _extend(tally.service_e2e, (columns.end - columns.sent)[good])
    _extend(tally.connect, columns.connect[good & (columns.connect > 0)])
    streams = good & ~np.isnan(columns.first) & np.array([record.stream for record in records])
    _extend(tally.ttft, (columns.first - columns.intended)[streams])
    _extend(tally.service_ttft, (columns.first - columns.sent)[streams])
    _count(tally.itl, columns.gaps[np.repeat(streams, columns.lengths)])
    several = streams & (columns.lengths > 0) & (columns.tokens > 1)
    spans = _sums(columns.gaps, columns.lengths)[several] / 1e6
    _extend(tally.tpot, spans / (columns.tokens[several] - 1))


def _spread_busy(series: Series, columns: Columns) -> None:
    """Seconds in flight: at both ends a part of a block, in between all of it."""
    begin, width = np.maximum(columns.sent, 0.0), series.width
    first, last = (begin / width).astype(np.int64), (columns.end / width).astype(np.int64)
    size = int(last.max()) + 1
    ends = np.bincount(first, (first + 1) * width - begin, size)
    ends += np.bincount(last, columns.end - last * width, size)
    steps = np.bincount(first + 1, minlength=size + 1) - np.bincount(last, minlength=size + 1)
    _lay(series.busy, (ends + width * np.cumsum(steps)[:size]).tolist())


def _spread_tokens(series: Series, columns: Columns) -> None:
    """Each frame stands for its share of the tokens of usage."""
    streamed = ~np.isnan(columns.first) & (columns.frames > 0)
    if not streamed.any():
        return
    weights = np.where(streamed, columns.tokens / np.maximum(columns.frames, 1), 0.0)
    firsts = np.where(streamed, columns.first, 0.0)
    passed = np.cumsum(columns.gaps)
    before = np.concatenate(([0], passed))[np.cumsum(columns.lengths) - columns.lengths]
    later = np.repeat(firsts - before / 1e6, columns.lengths) + passed / 1e6
    moments = np.concatenate((firsts, later))
    shares = np.concatenate((weights, np.repeat(weights, columns.lengths)))
    blocks = np.maximum(moments / series.width, 0.0).astype(np.int64)
    _lay(series.tokens, np.bincount(blocks, shares).tolist())


def _lay(values: list[float], more: list[float]) -> None:
    reach(values, len(more) - 1)
    for index, value in enumerate(more):
        values[index] += value


def _sums(gaps: Whole, lengths: Whole) -> Whole:
    """The sum of each record's gaps."""
    passed = np.concatenate((np.zeros(1, np.int64), np.cumsum(gaps)))
    ends = np.cumsum(lengths)
    sums: Whole = passed[ends] - passed[ends - lengths]
    return sums


def _extend(histogram: Histogram, seconds: Floats) -> None:
    _count(histogram, np.rint(np.maximum(seconds, 0.0) * 1e6).astype(np.int64))


def _count(histogram: Histogram, micros: Whole) -> None:
    if not len(micros):
        return
    times = np.bincount(_keys(micros))
    keys = np.flatnonzero(times)
    histogram.merge(
        Histogram(
            buckets=dict(zip(keys.tolist(), times[keys].tolist(), strict=True)),
            folded=len(micros),
            sum=int(micros.sum()),
            least=int(micros.min()),
            most=int(micros.max()),
        )
    )


def _keys(micros: Whole) -> Whole:
    """The bucket of each, as `Histogram` has them."""
    _, bits = np.frexp(micros.astype(np.float64))  # exact below 2^53: 285 years
    shift = np.maximum(0, bits - PRECISION - 1)
    keys: Whole = (shift << PRECISION) + (micros >> shift)
    return keys
