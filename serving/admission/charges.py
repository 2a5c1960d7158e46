"""Limits as charges: what a request takes from each of them, reserved first and settled later.

    Rate     so much per period, by the generic cell rate algorithm: one number a key, the
             theoretical arrival time (TAT) of ITU-T I.371, and no window to game
    Lease    so many at a time
    Quota    so much until the end of a day or a month

All charges of a request are reserved together or not at all. Pure: a store keeps the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from serving.core import Caller, Limits, Usage

MINUTE = 60.0
DAY = 86_400.0


class Rate(msgspec.Struct, frozen=True, gc=False):
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


class Lease(msgspec.Struct, frozen=True, gc=False):
    """One of at most `limit` at a time."""

    key: str
    name: str
    limit: int


class Quota(msgspec.Struct, frozen=True, gc=False):
    """`cost` of at most `limit` in a day or a month.

    `subject` is the account or the token whose it is; times are Unix seconds.
    """

    key: str
    name: str
    limit: int
    cost: int
    ends: float
    counts_tokens: bool = True
    begins: float = 0.0
    subject: str = ""


Charge = Rate | Lease | Quota


class Refusal(msgspec.Struct, frozen=True):
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
    if (
        limits.tokens_per_day is None
        and limits.tokens_per_month is None
        and limits.picodollars_per_day is None
        and limits.picodollars_per_month is None
    ):
        return []
    day, month = windows(now)
    asked = (
        (limits.tokens_per_day, "tokens per day", day, tokens, True),
        (limits.tokens_per_month, "tokens per month", month, tokens, True),
        (limits.picodollars_per_day, "dollars per day", day, picodollars, False),
        (limits.picodollars_per_month, "dollars per month", month, picodollars, False),
    )
    return [
        Quota(
            key=f"{subject}:{window.name}:{'tokens' if counts else 'picodollars'}",
            name=name,
            limit=limit,
            cost=cost,
            ends=window.ends,
            counts_tokens=counts,
            begins=window.begins,
            subject=subject,
        )
        for limit, name, window, cost, counts in asked
        if limit is not None
    ]


class Window(msgspec.Struct, frozen=True, gc=False):
    """A day (`2026-11-22`) or a month (`2026-11`) of UTC's, in Unix seconds."""

    name: str
    begins: float
    ends: float


def windows(now: float) -> tuple[Window, Window]:
    """The day and the month of a time."""
    return _windows(int(now // DAY))


@lru_cache(maxsize=8)
def _windows(day: int) -> tuple[Window, Window]:
    midnight = datetime.fromtimestamp(day * DAY, UTC)
    first = midnight.replace(day=1)
    end = (first + timedelta(days=32)).replace(day=1).timestamp()
    return (
        Window(f"{midnight:%Y-%m-%d}", day * DAY, (day + 1) * DAY),
        Window(f"{midnight:%Y-%m}", first.timestamp(), end),
    )


def settled(charges: Iterable[Charge], usage: Usage, picodollars: int) -> list[tuple[Charge, int]]:
    """The charges with what settling adds to each; without any usage, what gives them back."""
    return [
        (each, 0 if isinstance(each, Lease) else difference(each, usage, picodollars))
        for each in charges
    ]


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
