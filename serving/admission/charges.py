"""Limits as charges: what a request takes from each of them, reserved first and settled later.

    Rate     so much per period, by the generic cell rate algorithm: one number a key, the
             theoretical arrival time (TAT) of ITU-T I.371, and no window to game
    Lease    so many at a time
    Quota    so much until the end of a day or a month

All charges of a request are reserved together or not at all. Pure: a store keeps the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from serving.core import Caller, Limits, Usage

MINUTE = 60.0
_QUOTAS = ("tokens_per_day", "tokens_per_month", "picodollars_per_day", "picodollars_per_month")


@dataclass(frozen=True, slots=True)
class Rate:
    """`cost` of at most `limit` per `period` seconds, and as much at once."""

    key: str
    name: str
    limit: int
    cost: int
    period: float = MINUTE
    counts_tokens: bool = False

    @property
    def interval(self) -> float:
        """Seconds that one unit takes."""
        return self.period / self.limit

    @property
    def taken(self) -> int:
        """What is reserved: a request larger than the limit may pass when nothing else does."""
        return min(self.cost, self.limit)


@dataclass(frozen=True, slots=True)
class Lease:
    """One of at most `limit` at a time."""

    key: str
    name: str
    limit: int


@dataclass(frozen=True, slots=True)
class Quota:
    """`cost` of at most `limit` until `ends` (Unix time). The key names the day or the month."""

    key: str
    name: str
    limit: int
    cost: int
    ends: float
    counts_tokens: bool = True


Charge = Rate | Lease | Quota


@dataclass(frozen=True, slots=True)
class Refusal:
    """The charge that did not fit, and in how many seconds it may."""

    charge: Charge
    wait: float


def arrive(tat: float, now: float, rate: Rate) -> tuple[float, float]:
    """The next TAT if `rate` is charged, and the seconds until it may be: 0 or less is now."""
    next_ = max(tat, now) + rate.taken * rate.interval
    return next_, next_ - rate.period - now


def remaining(tat: float, now: float, rate: Rate) -> int:
    """How many units are left at once; `now` may be a little before the TAT was made."""
    return max(0, int((rate.period - max(0.0, tat - now)) / rate.interval + 0.01))


def plan(caller: Caller, tokens: int, picodollars: int, now: float) -> list[Charge]:
    """The charges of a request of about `tokens` and `picodollars`, at the time `now`."""
    charges: list[Charge] = []
    for subject, limits in (
        (caller.account, caller.account_limits),
        (caller.token, caller.token_limits),
    ):
        charges += _rates(subject, limits, tokens)
        charges += _quotas(subject, limits, tokens, picodollars, now)
    return charges


def _rates(subject: str, limits: Limits, tokens: int) -> list[Charge]:
    found: list[Charge] = []
    if (most := limits.concurrent_requests) is not None:
        found.append(Lease(f"{subject}:running", "concurrent requests limit", most))
    if (most := limits.requests_per_minute) is not None:
        found.append(Rate(f"{subject}:rpm", "request per min rate", most, 1))
    if (most := limits.tokens_per_minute) is not None:
        rate = Rate(f"{subject}:tpm", "token per min rate", most, tokens, counts_tokens=True)
        found.append(rate)
    return found


def _quotas(
    subject: str, limits: Limits, tokens: int, picodollars: int, now: float
) -> list[Charge]:
    if not any(getattr(limits, name) is not None for name in _QUOTAS):
        return []
    day, month = windows(now)
    asked = (
        (limits.tokens_per_day, "tokens per day", day, tokens, True),
        (limits.tokens_per_month, "tokens per month", month, tokens, True),
        (limits.picodollars_per_day, "dollars per day", day, picodollars, False),
        (limits.picodollars_per_month, "dollars per month", month, picodollars, False),
    )
    return [
        Quota(quota_key(subject, window[0], counts), name, limit, cost, window[1], counts)
        for limit, name, window, cost, counts in asked
        if limit is not None
    ]


def quota_key(subject: str, window: str, counts_tokens: bool) -> str:
    """The key of a day's (`2026-11-22`) or a month's (`2026-11`) use."""
    return f"{subject}:{window}:{'tokens' if counts_tokens else 'picodollars'}"


def windows(now: float) -> tuple[tuple[str, float], tuple[str, float]]:
    """The day and the month of a time: their names and when they end. Both are UTC's."""
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = midnight + timedelta(days=1)
    next_month = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (
        (f"{moment:%Y-%m-%d}", tomorrow.timestamp()),
        (f"{moment:%Y-%m}", next_month.timestamp()),
    )


def difference(charge: Rate | Quota, usage: Usage, picodollars: int) -> int:
    """What settling adds to a charge: the true cost less what was reserved."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    match charge:
        case Rate(counts_tokens=True):
            return tokens - charge.taken
        case Rate():
            return 0  # a request is a request
        case Quota(counts_tokens=True):
            return tokens - charge.cost
        case Quota():
            return picodollars - charge.cost
