"""Two servers or two runs side by side: how much B differs from A, how sure that is, what could
have been seen.

Runs come in blocks, a run of A and one of B each: one block of two recorded runs, many where the
two took turns. Within a block, requests that were due alike (the same seed gives the same
schedule) are pairs; without pairs the neighbours in time are taken. The interval resamples blocks,
and within them stretches of pairs.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from operator import itemgetter
from statistics import stdev
from typing import Any

from loadtest.core import Record, UsageError
from loadtest.intervals import wilson

_MOST = 20_000  # pairs of all blocks; more are thinned evenly
_LEAST = 20
_POWER = 1.96 + 0.84  # 95 % sure, seen in 80 % of cases
_RESAMPLES = 500

Runs = tuple[Sequence[Record], Sequence[Record]]
Pairs = list[tuple[float, float]]  # seconds


def _ttft(record: Record) -> float | None:
    return None if record.first_token is None else record.first_token - record.intended


def _itl(record: Record) -> float | None:
    return sum(record.gaps) / 1e6 / len(record.gaps) if record.gaps else None


def _e2e(record: Record) -> float | None:
    return record.end - record.intended


_VALUES: dict[str, Callable[[Record], float | None]] = {"ttft": _ttft, "itl": _itl, "e2e": _e2e}
_STATISTICS = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Change:
    """B relative to A: 1.1 is 10 % more. `detectable` is the least change that would be seen."""

    quantity: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    detectable: float
    verdict: str  # worse, better, same, unclear


def compare(blocks: Iterable[Runs], tolerance: float) -> dict[str, Any]:
    """The changes of all quantities, and the verdict: worse if any is worse by `tolerance` (0.05:
    5 %) for sure; unclear if that can be neither said nor ruled out.

    Raises:
        UsageError: too few requests were answered.
    """
    runs = list(blocks)
    paired = all(_paired(a, b) for a, b in runs)
    changes = [
        change
        for name, value in _VALUES.items()
        if (pairs := _all_pairs(runs, value, paired))
        for change in _changes(name, pairs, tolerance)
    ]
    if not changes:
        raise UsageError("no request was answered by both")
    errors = _errors(runs)
    verdicts = [change.verdict for change in changes] + [errors["verdict"]]
    order = ("worse", "unclear", "better", "same")
    return {
        "verdict": min(verdicts, key=order.index),
        "blocks": len(runs),
        "paired": paired,
        "tolerance": tolerance,
        "changes": [asdict(each) for each in changes],
        "errors": errors,
    }


def _paired(before: Sequence[Record], after: Sequence[Record]) -> bool:
    """Whether most requests of A have one of B that was due at the same time."""
    due = {record.id: record.intended for record in after}
    same = sum(abs(due.get(r.id, math.inf) - r.intended) < 1e-6 for r in before)
    return same > 0.9 * max(len(before), len(after))


def _all_pairs(
    runs: Sequence[Runs], value: Callable[[Record], float | None], paired: bool
) -> list[Pairs]:
    """Of each block. None where the quantity was never measured, as `itl` without streams."""
    found = [_pairs(_answered(a, value), _answered(b, value), paired) for a, b in runs]
    count = sum(map(len, found))
    if not count and value is not _e2e:
        return []
    if count < _LEAST:
        raise UsageError(f"only {count} requests can be compared; {_LEAST} are needed")
    step = 1 + count // _MOST
    return [pairs[::step] for pairs in found if pairs]


def _pairs(a: dict[int, float], b: dict[int, float], paired: bool) -> Pairs:
    if paired:
        found = [(a[key], b[key]) for key in sorted(a) if key in b]
    else:
        # Neighbours in time; the longer run is thinned to the length of the other.
        count = min(len(a), len(b))
        first, second = list(a.values()), list(b.values())
        found = [
            (first[i * len(first) // count], second[i * len(second) // count]) for i in range(count)
        ]
    return found


def _answered(
    records: Sequence[Record], value: Callable[[Record], float | None]
) -> dict[int, float]:
    """By id, in order of when they were due."""
    found = {}
    for record in sorted(records, key=lambda record: record.intended):
        number = None if record.error else value(record)
        if number is not None:
            found[record.id] = number
    return found


def _changes(name: str, blocks: Sequence[Pairs], tolerance: float) -> list[Change]:
    sides = [_Side([pair[side] for pairs in blocks for pair in pairs]) for side in (0, 1)]
    logs: dict[str, list[float]] = {statistic: [] for statistic in _STATISTICS}
    for weights in _resamples([len(pairs) for pairs in blocks]):
        before, after = (side.quantiles(weights) for side in sides)
        for statistic in _STATISTICS:
            logs[statistic].append(math.log(after[statistic] / before[statistic]))
    once = [1] * len(sides[0].values)
    before, after = (side.quantiles(once) for side in sides)
    return [
        _change(f"{name} {statistic}", before[statistic], after[statistic], found, tolerance)
        for statistic, found in ((s, _widened(each, len(blocks))) for s, each in logs.items())
    ]


class _Side:
    """The values of A or of B, whose quantiles are wanted under many weights."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        order = sorted(range(len(values)), key=values.__getitem__)
        self._sorted = [max(values[index], 1e-9) for index in order]
        self._in_order = itemgetter(*order)

    def quantiles(self, weights: Sequence[int]) -> dict[str, float]:
        """By the name of each statistic."""
        below = list(accumulate(self._in_order(weights)))
        return {
            name: self._sorted[bisect_right(below, share * (below[-1] - 1))]
            for name, share in _STATISTICS.items()
        }


def _resamples(sizes: Sequence[int]) -> Iterator[list[int]]:
    """How often each pair is drawn: some of the blocks, and of each some stretches of its pairs,
    as long as the cube root asks for."""
    rng = random.Random(0)
    starts = list(accumulate(sizes, initial=0))
    for _ in range(_RESAMPLES):
        steps = [0] * (starts[-1] + 1)
        for block in rng.choices(range(len(sizes)), k=len(sizes)):
            size, at = sizes[block], starts[block]
            length = max(1, round(size ** (1 / 3)))
            for _ in range(math.ceil(size / length)):
                begin = rng.randrange(size)
                end = begin + length
                steps[at + begin] += 1
                steps[at + min(end, size)] -= 1
                if end > size:  # around the end
                    steps[at] += 1
                    steps[at + end - size] -= 1
        yield list(accumulate(steps))[:-1]


def _widened(logs: list[float], blocks: int) -> list[float]:
    """In order. Few blocks drawn with replacement spread less than blocks do."""
    centre = sum(logs) / len(logs)
    factor = math.sqrt(blocks / (blocks - 1)) if blocks > 1 else 1.0
    return sorted(centre + (each - centre) * factor for each in logs)


def _change(
    quantity: str, before: float, after: float, logs: list[float], tolerance: float
) -> Change:
    tail = round(0.025 * len(logs))
    low, high = math.exp(logs[tail]), math.exp(logs[-1 - tail])
    return Change(
        quantity=quantity,
        before=round(1e3 * before, 3),
        after=round(1e3 * after, 3),
        ratio=round(after / before, 4),
        low=round(low, 4),
        high=round(high, 4),
        detectable=round(math.exp(_POWER * stdev(logs)) - 1, 4),
        verdict=_verdict(low, high, tolerance),
    )


def _verdict(low: float, high: float, tolerance: float) -> str:
    if low > 1 + tolerance:
        return "worse"
    if high < 1 / (1 + tolerance):
        return "better"
    return "unclear" if high > 1 + tolerance else "same"


def _errors(runs: Sequence[Runs]) -> dict[str, Any]:
    """Worse if the intervals of the two shares are apart."""
    sides = [[record for block in runs for record in block[side]] for side in (0, 1)]
    counts = [(sum(bool(r.error) for r in each), len(each)) for each in sides]
    (low_a, high_a), (low_b, high_b) = (wilson(*each) for each in counts)
    verdict = "worse" if low_b > high_a else "better" if high_b < low_a else "same"
    shares = [failed / total if total else 0.0 for failed, total in counts]
    return {"before": round(shares[0], 5), "after": round(shares[1], 5), "verdict": verdict}


def markdown(result: dict[str, Any]) -> str:
    """For a terminal or a comment on a pull request."""
    blocks = f"{result['blocks']} blocks, " if result["blocks"] > 1 else ""
    lines = [
        f"**{result['verdict']}** ({blocks}tolerance {result['tolerance']:.0%}, "
        f"{'paired' if result['paired'] else 'not paired'})",
        "",
        "| quantity | A, ms | B, ms | B / A | 95% | detectable | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each['quantity']} | {each['before']:.2f} | {each['after']:.2f} | {each['ratio']:.3f} "
        f"| {each['low']:.3f} to {each['high']:.3f} | {each['detectable']:.1%} "
        f"| {each['verdict']} |"
        for each in result["changes"]
    ]
    errors = result["errors"]
    lines.append(
        f"| errors | {errors['before']:.2%} | {errors['after']:.2%} | | | | {errors['verdict']} |"
    )
    return "\n".join(lines)
