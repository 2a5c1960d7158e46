"""Two runs side by side: how much B differs from A, how sure that is, and what could be seen.

Requests that were due alike (the same seed gives the same schedule) are pairs; stretches of pairs
are resampled. Without pairs the two are resampled as they are, in order of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.core import Record, UsageError
from loadtest.intervals import bootstrap, wilson

_MOST = 20_000  # pairs; more are thinned evenly
_LEAST = 20
_POWER = 1.96 + 0.84  # 95 % sure, seen in 80 % of cases


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


def compare(a: Iterable[Record], b: Iterable[Record], tolerance: float) -> dict[str, Any]:
    """The changes of all quantities, and the verdict: worse if any is worse by `tolerance` (0.05:
    5 %) for sure; unclear if that can be neither said nor ruled out.

    Raises:
        UsageError: too few requests were answered.
    """
    before, after = list(a), list(b)
    paired = _paired(before, after)
    changes = [
        _change(f"{name} {statistic}", _pairs(before, after, value, paired), share, tolerance)
        for name, value in _VALUES.items()
        for statistic, share in _STATISTICS.items()
        if any(value(record) is not None for record in before if not record.error)
    ]
    errors = _errors(before, after)
    verdicts = [change.verdict for change in changes] + [errors["verdict"]]
    order = ("worse", "unclear", "better", "same")
    return {
        "verdict": min(verdicts, key=order.index),
        "paired": paired,
        "tolerance": tolerance,
        "changes": [{name: getattr(each, name) for name in Change.__slots__} for each in changes],
        "errors": errors,
    }


def _paired(before: Sequence[Record], after: Sequence[Record]) -> bool:
    """Whether most requests of A have one of B that was due at the same time."""
    due = {record.id: record.intended for record in after}
    same = sum(abs(due.get(r.id, math.inf) - r.intended) < 1e-6 for r in before)
    return same > 0.9 * max(len(before), len(after))


Pairs = list[tuple[float, float]]


def _pairs(
    before: Sequence[Record],
    after: Sequence[Record],
    value: Callable[[Record], float | None],
    paired: bool,
) -> Pairs:
    a, b = _answered(before, value), _answered(after, value)
    if paired:
        found = [(a[key], b[key]) for key in sorted(a) if key in b]
    else:
        # Neighbours in time; the longer run is thinned to the length of the other.
        count = min(len(a), len(b))
        first, second = list(a.values()), list(b.values())
        found = [
            (first[i * len(first) // count], second[i * len(second) // count]) for i in range(count)
        ]
    if len(found) < _LEAST:
        raise UsageError(f"only {len(found)} requests can be compared; {_LEAST} are needed")
    return found[:: max(1, len(found) // _MOST)]


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


def _change(quantity: str, pairs: Pairs, share: float, tolerance: float) -> Change:
    def statistic(values: Sequence[float]) -> float:
        return sorted(values)[min(len(values) - 1, int(share * len(values)))]

    before = statistic([pair[0] for pair in pairs])
    after = statistic([pair[1] for pair in pairs])
    low, high, error = bootstrap(pairs, statistic)
    return Change(
        quantity=quantity,
        before=round(1e3 * before, 3),
        after=round(1e3 * after, 3),
        ratio=round(after / before, 4),
        low=round(low, 4),
        high=round(high, 4),
        detectable=round(math.exp(_POWER * error) - 1, 4),
        verdict=_verdict(low, high, tolerance),
    )


def _verdict(low: float, high: float, tolerance: float) -> str:
    if low > 1 + tolerance:
        return "worse"
    if high < 1 / (1 + tolerance):
        return "better"
    return "unclear" if high > 1 + tolerance else "same"


def _errors(before: Sequence[Record], after: Sequence[Record]) -> dict[str, Any]:
    """Worse if the intervals of the two shares are apart."""
    counts = [(sum(bool(r.error) for r in each), len(each)) for each in (before, after)]
    (low_a, high_a), (low_b, high_b) = (wilson(*each) for each in counts)
    verdict = "worse" if low_b > high_a else "better" if high_b < low_a else "same"
    shares = [failed / total if total else 0.0 for failed, total in counts]
    return {"before": round(shares[0], 5), "after": round(shares[1], 5), "verdict": verdict}


def markdown(result: dict[str, Any]) -> str:
    """For a terminal or a comment on a pull request."""
    lines = [
        f"**{result['verdict']}** (tolerance {result['tolerance']:.0%}, "
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
