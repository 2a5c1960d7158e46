"""Two servers or two runs side by side: how much B differs from A, how sure that is, what could
have been seen.

Runs come in blocks, a run of A and one of B each: one block of two recorded runs, many where the
two took turns. Within a block, requests that were due alike (the same seed gives the same
schedule) are pairs; without pairs the neighbours in time are taken. The interval resamples blocks,
and within them stretches of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.core import Record, UsageError
from loadtest.intervals import wilson

_MOST = 50_000  # pairs of a block; more are thinned evenly
_LEAST = 20
_POWER = 1.96 + 0.84  # 95 % sure, seen in 80 % of cases
_RESAMPLES = 1000

Runs = tuple[Sequence[Record], Sequence[Record]]
Pairs = NDArray[np.float64]  # of a block: (pairs, 2) seconds


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
        _change(f"{name} {statistic}", pairs, share, tolerance)
        for name, value in _VALUES.items()
        if (pairs := _all_pairs(runs, value, paired))
        for statistic, share in _STATISTICS.items()
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
    return [pairs for pairs in found if len(pairs)]


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
    return np.array(found[:: 1 + len(found) // _MOST]).reshape(-1, 2)


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


def _change(quantity: str, blocks: Sequence[Pairs], share: float, tolerance: float) -> Change:
    before, after = _statistic(np.concatenate(blocks), share)
    logs = _resampled(blocks, share)
    low, high = np.exp(np.quantile(logs, (0.025, 0.975))).tolist()
    return Change(
        quantity=quantity,
        before=round(1e3 * before, 3),
        after=round(1e3 * after, 3),
        ratio=round(after / before, 4),
        low=round(low, 4),
        high=round(high, 4),
        detectable=round(math.exp(_POWER * float(logs.std(ddof=1))) - 1, 4),
        verdict=_verdict(low, high, tolerance),
    )


def _statistic(pairs: Pairs, share: float) -> tuple[float, float]:
    """The quantile of A and that of B."""
    rank = min(len(pairs) - 1, int(share * len(pairs)))
    before, after = np.partition(pairs, rank, axis=0)[rank].tolist()
    return max(before, 1e-9), max(after, 1e-9)


def _resampled(blocks: Sequence[Pairs], share: float) -> NDArray[np.float64]:
    """Logarithms of B / A: some of the blocks, and of each some stretches of its pairs."""
    rng, count = np.random.default_rng(0), len(blocks)
    logs = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        chosen = [_stretches(blocks[i], rng) for i in rng.integers(count, size=count)]
        before, after = _statistic(np.concatenate(chosen), share)
        logs[index] = math.log(after / before)
    # Few blocks drawn with replacement spread less than blocks do.
    centre = logs.mean()
    widened = math.sqrt(count / (count - 1)) if count > 1 else 1.0
    return np.asarray(centre + (logs - centre) * widened)


def _stretches(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """As many pairs, in stretches of neighbours as long as the cube root asks for."""
    count = len(pairs)
    length = max(1, round(count ** (1 / 3)))
    begins = rng.integers(count, size=math.ceil(count / length))
    chosen = (begins[:, None] + np.arange(length)).ravel()[:count] % count
    found: Pairs = pairs[chosen]
    return found


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
