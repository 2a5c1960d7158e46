"""Limits as charges: what a request takes from each of them, reserved first and settled later.

    Rate     so much per period, by the generic cell rate algorithm: one number a key, the
             theoretical arrival time (TAT) of ITU-T I.371, and no window to game
    Lease    so many at a time: how many there are
    Quota    so much until the end of a day or a month: how much has been used

Of each a store keeps one number; the charge says what it becomes. All charges of a request are
reserved together or not at all. Pure.
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
    """`cost` of at most `limit` per `period` seconds, and as much at once. Its number: the TAT."""

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

    def reserved(self, tat: float, now: float) -> float:
        """The number once it is reserved."""
        # A limit of nothing takes nothing: `wait` refuses it.
        return max(now, tat) + self.taken * self.period / (self.limit or 1)

    def wait(self, reserved: float, now: float) -> float:
        """Seconds until its number may be that: 0 or less is now."""
        return reserved - self.period - now if self.limit else self.period

    def settled(self, tat: float, now: float, more: int) -> float:
        """The number once `more` is taken."""
        return max(now, tat) + more * self.interval

    def more(self, tokens: int, picodollars: int) -> int:
        """What settling adds: the true cost less what was reserved. A request is a request."""
        return tokens - self.taken if self.counts_tokens else 0

    def left(self, tat: float, now: float) -> int:
        """How many units there are at once; `now` may be a little before the TAT was made."""
        behind = tat - now if tat > now else 0.0
        return max(0, int((self.period - behind) * self.limit / self.period + 0.01))


class Lease(msgspec.Struct, frozen=True, gc=False):
    """One of at most `limit` at a time. Its number: how many there are."""

    key: str
    name: str
    limit: int

    def reserved(self, running: float, now: float) -> float:
        """See `Rate`."""
        return running + 1

    def wait(self, reserved: float, now: float) -> float:
        """See `Rate`: nobody knows when one ends."""
        return 1.0 if reserved > self.limit else 0.0

    def settled(self, running: float, now: float, more: int) -> float:
        """See `Rate`: it ends, whatever is added."""
        return running - 1

    def more(self, tokens: int, picodollars: int) -> int:
        """See `Rate`."""
        return 0


class Quota(msgspec.Struct, frozen=True, gc=False):
    """`cost` of at most `limit` in a day or a month. Its number: what has been used, exactly.

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

    def reserved(self, used: float, now: float) -> float:
        """See `Rate`."""
        return used + self.cost

    def wait(self, reserved: float, now: float) -> float:
        """See `Rate`."""
        return self.ends - now if reserved > self.limit else 0.0

    def settled(self, used: float, now: float, more: int) -> float:
        """See `Rate`."""
        return used + more

    def more(self, tokens: int, picodollars: int) -> int:
        """See `Rate`."""
        return (tokens if self.counts_tokens else picodollars) - self.cost


Charge = Rate | Lease | Quota


class Refusal(msgspec.Struct, frozen=True):
    """The charge that did not fit, and in how many seconds it may."""

    charge: Charge
    wait: float


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
    tokens = usage.prompt_tokens + usage.completion_tokens
    return [(each, each.more(tokens, picodollars)) for each in charges]
