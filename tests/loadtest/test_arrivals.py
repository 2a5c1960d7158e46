"""Schedules follow their rate, scatter as told, and repeat by seed."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, stdev

import pytest

from loadtest.arrivals import process, profile, schedule
from loadtest.core import UsageError


def times(rate: str, arrivals: str, duration: float = 400.0, seed: str = "1") -> list[float]:
    return schedule(profile(rate, duration), process(arrivals), duration, seed)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("10", 4000),
        ("ramp(0, 20)", 4000),
        ("steps(5, 10, 15)", 4000),
        ("spike(5, 50)", 400 * (0.8 * 5 + 0.2 * 50)),
        ("sine(5, 15, 60)", 4000),
    ],
)
@pytest.mark.parametrize("arrivals", ["constant", "poisson", "gamma(2)"])
def test_the_number_of_requests_is_the_area_under_the_rate(
    rate: str, arrivals: str, expected: float
) -> None:
    spread = {"constant": 0.02, "poisson": 0.06, "gamma(2)": 0.12}[arrivals]
    assert len(times(rate, arrivals)) == pytest.approx(expected, rel=spread)


@pytest.mark.parametrize(("arrivals", "cv"), [("constant", 0), ("poisson", 1), ("gamma(3)", 3)])
def test_gaps_vary_as_told(arrivals: str, cv: float) -> None:
    gaps = [b - a for a, b in pairwise(times("10", arrivals, 2000))]
    assert stdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.1, abs=1e-6)


def test_a_ramp_has_more_at_its_end() -> None:
    found = times("ramp(1, 9)", "constant", 100)
    assert sum(t < 50 for t in found) == pytest.approx(150, abs=2)
    assert sum(t >= 50 for t in found) == pytest.approx(350, abs=2)


def test_the_seed_decides() -> None:
    assert times("10", "poisson") == times("10", "poisson")
    assert times("10", "poisson") != times("10", "poisson", seed="2")


@pytest.mark.parametrize("rate", ["-1", "0", "fast", "ramp(1)", "sine(1, 2)", "spike()", "steps()"])
def test_what_is_not_a_rate_is_refused(rate: str) -> None:
    with pytest.raises(UsageError):
        profile(rate, 10)


@pytest.mark.parametrize("arrivals", ["uniform", "gamma", "gamma(0)", "poisson(2)"])
def test_what_is_not_a_process_is_refused(arrivals: str) -> None:
    with pytest.raises(UsageError):
        process(arrivals)
