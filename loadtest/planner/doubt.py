"""What a plan hangs on: other forecasts, and costs that are not well known."""

from __future__ import annotations

from math import exp
from typing import Any

import msgspec

from loadtest.planner.basis import Basis
from loadtest.planner.capacity import capacity
from loadtest.planner.figure import figure
from loadtest.planner.variants import variants

RUNS = {  # by the cost that they would tell
    "step": "one text tenant at a low rate: loadtest run --rate 0.5 --max-tokens 128 --duration 5m",
    "row": "text at a high rate: loadtest sweep --by concurrency over 16,32,64 users",
    "context": "long prompts and answers: loadtest run --prompt-tokens 6000 --max-tokens 512",
    "cross": "many pictures at a time: loadtest run --image 1120x1120 --concurrency 32",
    "prompt": "short prompts: loadtest run --prompt-tokens 10 --max-tokens 4 --rate 4",
    "prefill": "short answers: loadtest run --prompt-tokens 1500 --max-tokens 4 --rate 2",
    "attention": "the longest prompts there are: loadtest run --prompt-tokens 8000 --max-tokens 4",
    "tile": "pictures, short answers: loadtest run --image 1120x1120 --max-tokens 4 --rate 1",
    "cut": "one user with pictures: loadtest run --image 1120x1120 --concurrency 1 --max-tokens 1",
    "request": "one user: loadtest run --concurrency 1 --max-tokens 1 --duration 2m",
}


def sensitivity(known: Basis) -> list[dict[str, Any]]:
    """The peak's replicas of other forecasts."""
    peak, spare = known.forecast.total(known.forecast.peak), known.forecast.fleet.spare
    rows = []
    for what, other in variants(known.forecast).items():
        rate = capacity(known.replica, other, 1, known.alone.rate, 1.2).rate
        ratio = rate / known.alone.rate
        rows.append(
            {
                "what": what,
                "capacity_ratio": figure(ratio, "simulated"),
                "replicas_at_peak": figure(
                    known.needed(peak, known.rate * ratio) + spare, "interpolated"
                )
                if rate
                else None,
            }
        )
    return rows


def uncertainty(known: Basis) -> list[dict[str, Any]]:
    """What one standard error of each cost does to the capacity; the worst first."""
    rows = []
    for name, error in known.replica.errors.items():
        value = getattr(known.replica.costs, name) * exp(min(error, 1.0))
        costs = msgspec.structs.replace(known.replica.costs, **{name: value})
        worse = msgspec.structs.replace(known.replica, costs=costs)
        rate = capacity(worse, known.forecast, 1, known.alone.rate, 1.1).rate
        rows.append(
            {
                "cost": name,
                "standard_error": figure(
                    error, "measured" if known.replica.origin == "measured" else "assumed"
                ),
                "capacity_lost": figure(max(0.0, 1 - rate / known.alone.rate), "simulated"),
            }
        )
    return sorted(rows, key=lambda row: -row["capacity_lost"]["value"])
