"""What is run next, and what is tried again. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from serving.errors import EngineFailed, Overloaded, ServingError
from serving.tenancy.batches import Demand

ROUTE = "ai/run?queueRequest=true"
"""In receipts of items; handing them in has receipts of its own."""
ATTEMPTS = 3
"""How often an item may break an engine, or the process with it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator decides. `items` and `bytes` wait at most for an account; seconds.

    `keep` is how long an item may wait, and how long results are there once all have ended.
    A `lease` that is not renewed is how long a dead replica's items are left alone.
    """

    concurrency: int = 8
    items: int = 10_000
    bytes: int = 256 * 2**20
    keep: float = 86_400.0
    lease: float = 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """Try again in so many seconds; `tried` counts as one of the attempts."""

    seconds: float
    tried: bool


def share(demands: Mapping[str, Demand], room: int) -> dict[str, int]:
    """How many items of each account to begin: always of whoever has the fewest running."""
    shares: Counter[str] = Counter()
    for _ in range(room):
        due = [account for account, demand in demands.items() if shares[account] < demand.due]
        if not due:
            break
        shares[min(due, key=lambda account: demands[account].running + shares[account])] += 1
    return dict(shares)


def retry(error: ServingError, attempts: int, age: float, keep: float) -> Again | None:
    """What to do about an item of this age, in seconds, that met `error`; `None`: it has failed."""
    match error:
        case Overloaded(retry_after=seconds) if age + seconds < keep:
            return Again(max(1.0, seconds), tried=False)
        case EngineFailed() if attempts < ATTEMPTS:
            return Again(2.0**attempts, tried=True)
    return None
