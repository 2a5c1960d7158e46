"""What makes a run doubtful or worthless, and that a sound one is neither."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from loadtest.core import Record
from loadtest.instrument import Measured
from loadtest.outcome import complete
from loadtest.scenario import build
from loadtest.series import Series
from loadtest.summary import quantiles
from loadtest.verdict import judge

SCENARIO = build(
    {
        "target": {"url": "http://127.0.0.1:1/v1", "api": "openai"},
        "load": {"rate": 20},
        "duration": 40,
    }
)


def answered(at: float, number: int, ttft: float, **more: Any) -> Record:
    gaps = [20_000] * 7
    whole = {"frames": 8, "output_tokens": 8, "prompt_tokens": 10, "status": 200, **more}
    return Record(
        id=number,
        intended=at,
        sent=at,
        first_token=at + ttft,
        end=at + ttft + 0.14,
        gaps=gaps,
        **whole,
    )


def steady(rng: random.Random, **more: Any) -> list[Record]:
    return [answered(i / 20, i, rng.gauss(0.1, 0.01), **more) for i in range(800)]


def summary(records: Iterable[Record], offered: float = 800) -> dict[str, Any]:
    series, count = Series.over(40.0), 0
    for record in records:
        series.add(record)
        count += 1
    measured = Measured(
        series=series, open_loop=True, window=40.0, offered=offered, started=count, wall=40.0
    )
    lag = quantiles(series.timeline()[0].connect)
    instrument = {
        "lost_workers": 0,
        "replaced_workers": 0,
        "cpu_of_busiest_process": 0.2,
        "event_loop_lag_ms": {**lag, "p99": 0.5},
        "calibration": {"ttft_error_ms": {"p99": 0.5}},
    }
    return complete(SCENARIO, measured, instrument)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(8)


def test_a_sound_run_is_valid(rng: random.Random) -> None:
    found = summary(steady(rng))
    assert (found["verdict"], found["reasons"]) == ("VALID", [])
    assert found["steady"]["found"]


@pytest.mark.parametrize(
    ("place", "value", "verdict", "reason"),
    [
        ("cpu_of_busiest_process", 0.97, "INVALID", "97% of a core"),
        ("cpu_of_busiest_process", 0.85, "SUSPECT", "85% of a core"),
        ("event_loop_lag_ms", {"p99": 60.0}, "INVALID", "60.0 ms late"),
        ("event_loop_lag_ms", {"p99": 15.0}, "SUSPECT", "15.0 ms late"),
        ("calibration", {"ttft_error_ms": {"p99": 30.0}}, "INVALID", "off by 30.0 ms"),
        ("calibration", {"ttft_error_ms": {"p99": 8.0}}, "SUSPECT", "off by 8.0 ms"),
        ("calibration", {"failed": "no mock"}, "SUSPECT", "no calibration"),
        ("lost_workers", 1, "INVALID", "not replaced"),
    ],
)
def test_an_instrument_that_was_off_is_said(
    place: str, value: Any, verdict: str, reason: str, rng: random.Random
) -> None:
    found = summary(steady(rng))
    found["instrument"][place] = value
    worst, reasons = judge(found)
    assert worst.name == verdict
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize(
    ("offered", "verdict"), [(800, "VALID"), (815, "SUSPECT"), (900, "INVALID")]
)
def test_load_that_was_not_achieved_is_said(
    offered: float, verdict: str, rng: random.Random
) -> None:
    found = summary(steady(rng), offered)
    assert found["verdict"] == verdict
    assert all("were achieved" in reason for reason in found["reasons"])


def test_a_warm_up_is_cut_off_and_said_if_it_bends_the_figures(rng: random.Random) -> None:
    records = [
        answered(i / 20, i, rng.gauss(0.1, 0.01) * (1 if i > 200 else 4 - i / 67))
        for i in range(800)
    ]
    found = summary(records)
    assert 5 < found["steady"]["warm_up_s"] < 15
    assert found["steady"]["ttft_ms"]["mean"] == pytest.approx(100, rel=0.05)
    assert found["ttft_ms"]["mean"] > 120


def test_a_queue_that_keeps_growing_has_no_steady_state(rng: random.Random) -> None:
    found = summary(answered(i / 20, i, 0.1 + i / 400) for i in range(800))
    assert any("no steady state" in reason for reason in found["reasons"])


def test_cache_hits_that_nobody_planned_are_suspect(rng: random.Random) -> None:
    found = summary(steady(rng, cached_tokens=8))
    assert found["verdict"] == "SUSPECT"
    assert "80% of prompt tokens came from a cache" in found["reasons"][0]


def test_usage_that_frames_do_not_bear_out_is_suspect(rng: random.Random) -> None:
    found = summary(steady(rng, output_tokens=6))
    assert "0.75 tokens for each frame" in found["reasons"][0]
    without = summary(steady(rng, output_tokens=-1))
    assert "no usage from the server" in without["reasons"][0]
