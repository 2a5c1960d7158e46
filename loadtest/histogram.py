"""Streaming histograms of durations: log-linear as in HDR histograms, mergeable, never averaged.

A bucket is at most 1/1024 of its value wide, so that a quantile is off by 0.05 % at most.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

PRECISION = 10  # bits of mantissa that tell buckets apart
_PENDING = 1 << 14


def _key(value: int) -> int:
    """The bucket of a value in µs: exponent and 10 bits of mantissa."""
    shift = max(0, value.bit_length() - PRECISION - 1)
    return (shift << PRECISION) + (value >> shift)


def _low(key: int) -> int:
    """The least value of a bucket. Values below 2^11 have buckets of their own."""
    shift = max(0, (key >> PRECISION) - 1)
    return (key - (shift << PRECISION)) << shift


class Histogram(msgspec.Struct):
    """Durations in seconds, kept as counts of microseconds. To JSON as it is, once folded."""

    buckets: dict[int, int] = {}
    folded: int = 0  # how many durations are in the buckets
    sum: int = 0  # of their microseconds: the mean is exact
    least: int = 0
    most: int = 0
    # Counted by C as they come, put into buckets when many have gathered or somebody looks.
    pending: Any = msgspec.field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pending = Counter(self.pending)  # decoded, it is a plain dict

    def add(self, seconds: float) -> None:
        """Negative durations, which a broken server clock could make, count as 0."""
        micros = round(seconds * 1e6) if seconds > 0 else 0
        self.pending[micros] = self.pending.get(micros, 0) + 1

    def extend(self, micros: Sequence[int]) -> None:
        """Add many durations in µs."""
        self.pending.update(micros)
        if len(self.pending) > _PENDING:
            self.fold()

    def fold(self) -> Histogram:
        """Put everything into buckets; before encoding and reading. Returns itself."""
        pending, buckets = self.pending, self.buckets
        if not pending:
            return self
        self.least = min(min(pending), self.least) if self.folded else min(pending)
        self.most = max(max(pending), self.most)
        for value, times in pending.items():
            key = _key(value)
            buckets[key] = buckets.get(key, 0) + times
            self.folded += times
            self.sum += value * times
        pending.clear()
        return self

    def merge(self, other: Histogram) -> None:
        """Add everything of another."""
        if not other.count:
            return
        buckets = self.fold().buckets
        for key, times in other.buckets.items():
            buckets[key] = buckets.get(key, 0) + times
        self.least = min(self.least, other.least) if self.folded else other.least
        self.most = max(self.most, other.most)
        self.folded += other.folded
        self.sum += other.sum

    @property
    def count(self) -> int:
        """How many durations there are."""
        return self.fold().folded

    @property
    def total(self) -> int:
        """Their sum in µs."""
        return self.fold().sum

    @property
    def low(self) -> int:
        """The least in µs."""
        return self.fold().least

    @property
    def high(self) -> int:
        """The greatest in µs."""
        return self.fold().most

    @property
    def mean(self) -> float:
        """Seconds; 0 of nothing."""
        return self.total / self.count / 1e6 if self.count else 0.0

    def quantiles(self, shares: Iterable[float]) -> list[float]:
        """Seconds below which each share (0 to 1) of the durations lies; 0 of nothing."""
        if not self.count:
            return [0.0 for _ in shares]
        keys = sorted(self.fold().buckets)
        below = list(accumulate(self.buckets[key] for key in keys))
        return [self._quantile(share, keys, below) for share in shares]

    def quantile(self, share: float) -> float:
        """One of `quantiles`."""
        return self.quantiles((share,))[0]

    def _quantile(self, share: float, keys: list[int], below: list[int]) -> float:
        rank = share * self.count
        at = min(bisect_left(below, rank), len(keys) - 1)
        low, high = _low(keys[at]), _low(keys[at] + 1)
        if high - low <= 1:
            return low / 1e6
        inside = (rank - (below[at - 1] if at else 0)) / self.buckets[keys[at]]
        value = low + inside * (high - low)
        return min(max(value, self.low), self.high) / 1e6

    def share_above(self, seconds: float) -> float:
        """Of the durations, those above `seconds`, to the precision of a bucket."""
        if not self.count:
            return 0.0
        limit = _key(round(seconds * 1e6))
        return sum(n for key, n in self.fold().buckets.items() if key > limit) / self.count

    def cumulative(self) -> list[tuple[float, float]]:
        """(seconds, share at or below) for each bucket: the curve of a plot."""
        keys = sorted(self.fold().buckets)
        below = accumulate(self.buckets[key] for key in keys)
        return [(_low(k) / 1e6, n / self.count) for k, n in zip(keys, below, strict=True)]


def merged(parts: Iterable[Histogram]) -> Histogram:
    """The histogram of everything in `parts`."""
    whole = Histogram(buckets={})
    for part in parts:
        whole.merge(part)
    return whole
