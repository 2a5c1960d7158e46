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

_BITS = 10
_PENDING = 1 << 14


def _key(value: int) -> int:
    """The bucket of a value in µs: exponent and 10 bits of mantissa."""
    shift = max(0, value.bit_length() - _BITS - 1)
    return (shift << _BITS) + (value >> shift)


def _low(key: int) -> int:
    """The least value of a bucket. Values below 2^11 have buckets of their own."""
    shift = max(0, (key >> _BITS) - 1)
    return (key - (shift << _BITS)) << shift


class Histogram(msgspec.Struct):
    """Durations in seconds, kept as counts of microseconds. Encodes to JSON as it is."""

    buckets: dict[int, int] = {}
    count: int = 0
    total: int = 0  # of microseconds: the mean is exact
    low: int = 0
    high: int = 0
    # Counted by C, put into buckets when many have gathered.
    pending: Any = msgspec.field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pending = Counter(self.pending)  # decoded, it is a plain dict

    def add(self, seconds: float) -> None:
        """Negative durations, which a broken server clock could make, count as 0."""
        micros = max(0, round(seconds * 1e6))
        self.pending[micros] = self.pending.get(micros, 0) + 1
        if micros < self.low or not self.count:
            self.low = micros
        if micros > self.high:
            self.high = micros
        self.count += 1
        self.total += micros

    def extend(self, micros: Sequence[int]) -> None:
        """Add many durations in µs."""
        if not micros:
            return
        self.pending.update(micros)
        least, most = min(micros), max(micros)
        if least < self.low or not self.count:
            self.low = least
        if most > self.high:
            self.high = most
        self.count += len(micros)
        self.total += sum(micros)
        if len(self.pending) > _PENDING:
            self.fold()

    def fold(self) -> Histogram:
        """Put everything into buckets; before encoding and reading. Returns itself."""
        buckets = self.buckets
        for value, times in self.pending.items():
            key = _key(value)
            buckets[key] = buckets.get(key, 0) + times
        self.pending.clear()
        return self

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
        if not part.count:
            continue
        for key, times in part.fold().buckets.items():
            whole.buckets[key] = whole.buckets.get(key, 0) + times
        whole.low = min(whole.low, part.low) if whole.count else part.low
        whole.high = max(whole.high, part.high)
        whole.count += part.count
        whole.total += part.total
    return whole
