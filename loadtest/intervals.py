"""Intervals and the steady state, from tallies of successive blocks. Pure; seeded where random."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

from loadtest.histogram import Histogram

_RESAMPLES = 400


def resampled_blocks(count: int, rng: random.Random) -> list[int]:
    """Indices of a block bootstrap: stretches of neighbours, as long as the cube root asks for."""
    length = max(1, round(count ** (1 / 3)))
    indices: list[int] = []
    while len(indices) < count:
        begin = rng.randrange(count)
        indices += [(begin + i) % count for i in range(length)]
    return indices[:count]


@lru_cache(maxsize=1)  # all intervals of a run are of the same blocks
def _resamples(count: int) -> list[list[int]]:
    rng = random.Random(count)
    return [resampled_blocks(count, rng) for _ in range(_RESAMPLES)]


def ratio_interval(
    tops: Sequence[float], bottoms: Sequence[float], level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of sum(tops) / sum(bottoms) over blocks that depend on each other.

    `None` of fewer than 5 blocks with anything in them.
    """
    if sum(1 for b in bottoms if b) < 5:
        return None
    found = []
    for chosen in _resamples(len(tops)):
        below = sum(bottoms[i] for i in chosen)
        if below:
            found.append(sum(tops[i] for i in chosen) / below)
    return _percentiles(found, level)


def quantile_interval(
    whole: Histogram, blocks: Sequence[Histogram], share: float, level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a quantile of `whole`, which its blocks add up to, in seconds (Woodruff): the
    bootstrap's interval of the share below the quantile, carried back through the distribution.
    `None` where there is too little to say.
    """
    point = whole.quantile(share)
    counts = [float(block.count) for block in blocks]
    above = [block.share_above(point) * block.count for block in blocks]
    found = ratio_interval(above, counts, level)
    if found is None or not whole.count:
        return None
    # Ties and few observations: never narrower than the binomial's own spread.
    spread = 1.96 * math.sqrt(share * (1 - share) / whole.count)
    centre = whole.share_above(point)
    low = share - max(found[1] - centre, spread)
    high = share + max(centre - found[0], spread)
    first, last = whole.quantiles((max(0.0, low), min(1.0, high)))
    return first, last


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share, of independent trials."""
    if not count:
        return 0.0, 1.0
    z = _normal_quantile(level)
    p, z2 = hits / count, z * z
    centre = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def warm_up(values: Sequence[float]) -> int | None:
    """How many of the first values to leave out (MSER: where the error of the mean of the rest is
    least); `None` if that is the second half: there is no steady state."""
    count = len(values)
    if count < 10:
        return 0
    best, cut = math.inf, 0
    for begin in range(count - 5):
        rest = values[begin:]
        mean = sum(rest) / len(rest)
        error = sum((v - mean) ** 2 for v in rest) / len(rest) ** 2
        if error < best * (1 - 1e-9):
            best, cut = error, begin
    return cut if cut <= count // 2 else None


def drift(values: Sequence[float]) -> float:
    """Kendall's S against time in standard deviations: above 3, values keep rising."""
    count = len(values)
    if count < 8:
        return 0.0
    score = sum(
        (values[j] > values[i]) - (values[j] < values[i])
        for i in range(count)
        for j in range(i + 1, count)
    )
    return score / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


def _percentiles(values: list[float], level: float) -> tuple[float, float]:
    values.sort()
    tail = (1 - level) / 2
    last = len(values) - 1
    return values[round(tail * last)], values[round((1 - tail) * last)]


def _normal_quantile(level: float) -> float:
    """Two-sided."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + level) / 2)
