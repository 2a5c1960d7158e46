"""Days and months of UTC, and what requests take from limits of every size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from serving.admission.charges import Lease, Quota, Rate, plan, settled, windows
from serving.core import Caller, Limits, Usage


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "day", "tomorrow", "month", "next_month"),
    [
        ("2026-11-22T00:00:00", "2026-11-22", "2026-11-23", "2026-11", "2026-12-01"),
        ("2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01", "2026-12", "2027-01-01"),
        ("2028-02-29T12:00:00", "2028-02-29", "2028-03-01", "2028-02", "2028-03-01"),
        ("2027-02-28T23:00:00", "2027-02-28", "2027-03-01", "2027-02", "2027-03-01"),
        ("2027-01-31T23:59:59", "2027-01-31", "2027-02-01", "2027-01", "2027-02-01"),
    ],
)
def test_days_and_months(moment: str, day: str, tomorrow: str, month: str, next_month: str) -> None:
    found = windows(at(moment))
    assert [each.name for each in found] == [day, month]
    assert [each.ends for each in found] == [at(tomorrow), at(next_month)]
    assert [each.begins for each in found] == [at(day), at(f"{month}-01")]


def test_midnight_begins_another_quota_and_settles_the_one_that_was_charged() -> None:
    caller = Caller("a", "t", account_limits=Limits(tokens_per_day=100, tokens_per_month=500))
    midnight = at("2026-12-01T00:00:00")
    before, after = plan(caller, 10, 0, midnight - 0.001), plan(caller, 10, 0, midnight)
    assert not {each.key for each in before} & {each.key for each in after}
    later = settled(before, Usage(30, 2), 0)
    assert [(each.key, more) for each, more in later] == [(each.key, 22) for each in before]


def test_every_hour_of_ten_years_is_within_its_day_and_month() -> None:
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    for hour in range(0, 87_672, 7):
        moment = (begin + timedelta(hours=hour)).timestamp()
        assert all(each.begins <= moment < each.ends for each in windows(moment))


def test_limits_of_nothing_are_charges_too() -> None:
    nothing = Limits(
        requests_per_minute=0, tokens_per_minute=0, concurrent_requests=0, tokens_per_day=0
    )
    found = plan(Caller("a", "t", account_limits=nothing), 1, 1, 0.0)
    assert [type(each) for each in found] == [Lease, Rate, Rate, Quota]
    assert plan(Caller("a", "t"), 1, 1, 0.0) == []
