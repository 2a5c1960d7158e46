"""The service's rule and Ray's on the same simulated traces, as in benchmarks/autoscaling.py."""

from __future__ import annotations

import pytest

from benchmarks.autoscaling import MOST, Planned, Trace, planned, run
from loadtest.planner.scaling import OngoingRequests, QueueAndBacklog


@pytest.fixture(scope="module")
def plan() -> Planned:
    return planned()


def test_a_burst_is_followed_without_a_replica_let_go_too_soon(plan: Planned) -> None:
    trace = Trace("burst", "spike(1, 4, 600, 600)", 0.75)
    ours = run(plan, trace, QueueAndBacklog(plan.rule, 1, MOST))
    rays = run(plan, trace, OngoingRequests(plan.ongoing, 1, MOST))
    assert ours["flaps"] == 0
    assert ours["slo_minutes_missed"] < rays["slo_minutes_missed"]
    assert ours["gpu_hours"] < 1.15 * rays["gpu_hours"]


def test_without_reports_those_that_were_there_stay(plan: Planned) -> None:
    trace = Trace("loss", "3", 0.5, blind=((600.0, 1800.0),))
    ours = run(plan, trace, QueueAndBacklog(plan.rule, 1, MOST))
    rays = run(plan, trace, OngoingRequests(plan.ongoing, 1, MOST))
    assert ours["slo_minutes_missed"] < rays["slo_minutes_missed"] - 5
    assert ours["least_wanted"] >= 3 > rays["least_wanted"]
