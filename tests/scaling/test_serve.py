"""The autoscaler in Ray Serve: its reports, Ray's own rule beside the simulated one, a real run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.common import TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config, default_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from loadtest.planner.scaling import Observed, OngoingRequests
from serving.cluster.scaling import PATH, Policy
from tests.e2e.stack import MODEL, Stack, stack

COSTS = {"input": 0.0, "output": 0.0125, "tile": 0.5, "busy": 0.8}


def context(now: float, target: int, state: dict[str, Any], **more: Any) -> AutoscalingContext:
    blank = dict.fromkeys(AutoscalingContext.__init__.__annotations__)
    blank.pop("return", None)
    return AutoscalingContext(
        **{
            **blank,
            "current_num_replicas": target,
            "target_num_replicas": target,
            "capacity_adjusted_min_replicas": 1,
            "capacity_adjusted_max_replicas": 9,
            "policy_state": state,
            "current_time": now,
            **more,
        }
    )


def reports(now: float, replicas: int, tokens_a_second: float, age: float = 5.0) -> dict[str, Any]:
    """Series of ten seconds as replicas push them."""

    def points(first: float, last: float) -> dict[str, list[TimeStampedValue]]:
        series = [TimeStampedValue(now - age - 10, first), TimeStampedValue(now - age, last)]
        return {f"r{n}": series for n in range(replicas)}

    still = {f"waiting_{name}": points(0, 0) for name in ("input", "output", "tiles")}
    moving = {
        "input": points(0, 0),
        "tiles": points(0, 0),
        "output": points(7, 7 + 10 * tokens_a_second),
    }
    return {**still, **moving, "queued": points(0, 0)}


def test_replicas_follow_what_they_report() -> None:
    made = AutoscalingPolicy(policy_function=PATH, policy_kwargs={"costs": COSTS, "quiet": 100})
    policy, state, target = made.get_policy()(**made.policy_kwargs), {}, 1
    for now in range(0, 60, 5):
        busy = reports(now, target, 160 / target)  # 160 tokens a second: 2.5 replicas
        target, state = policy(context(now, target, state, raw_metrics=busy))
    assert target == 3
    between = policy(context(now + 1, target, state, raw_metrics=reports(now, 3, 900)))
    assert between == (3, state)  # Serve asks more often than replicas report
    for now in range(60, 200, 5):
        target, state = policy(context(now, target, state, raw_metrics=reports(now, target, 0)))
    assert target == 1


@pytest.mark.parametrize("missing", [{}, reports(1000, 3, 0, age=600)])
def test_missing_and_stale_reports_leave_the_number_as_it_is(missing: dict[str, Any]) -> None:
    policy, state = Policy(COSTS, quiet=10.0), {}
    for now in range(1000, 2000, 5):
        target, state = policy(context(now, 3, state, raw_metrics=missing))
        assert target == 3


def test_the_simulated_rule_of_ray_decides_as_rays_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = AutoscalingConfig(
        min_replicas=1, max_replicas=9, target_ongoing_requests=4, upscale_delay_s=30,
        downscale_delay_s=100,
    )  # fmt: skip
    theirs = _apply_autoscaling_config(default_autoscaling_policy)
    ours = OngoingRequests(4.0, 1, 9, 30.0, 100.0)
    target, mine, state, seen = 1, 1, {}, set()
    for step in range(400):
        now = 10.0 * step
        monkeypatch.setattr(time, "time", lambda now=now: now)
        ongoing = (4, 30, 12, 20, 3, 3, 3, 0)[step // 20 % 8] + step % 3
        found, state = theirs(
            context(now, target, state, total_num_requests=ongoing, config=config)
        )
        target = min(9, max(1, found))
        mine = ours.desired(Observed(now, mine, mine, ongoing))
        assert mine == target, step
        seen.add(target)
    assert len(seen) > 3


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    entry = {
        "checkpoint": "none",
        "context_window": 2048,
        "max_images": 2,
        "engine": {"max_num_seqs": 4},
        "resources": {"num_cpus": 0.25},
    }
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"models": {MODEL: entry}}))
    monkeypatch.setenv("CATALOG", str(catalog))
    monkeypatch.setenv("MAX_REPLICAS", "2")
    monkeypatch.setenv("DOWNSCALE_SECONDS", "20")
    monkeypatch.setenv("ENGINE_SECONDS", json.dumps(COSTS))
    with stack(tmp_path, sys.executable, "-m", "tests.scaling.fake_up") as made:
        made.log = tmp_path / "up.log"
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_serve_adds_a_replica_under_load_and_takes_it_away_again(up: Stack) -> None:
    busy, over, answers = threading.Event(), threading.Event(), []
    users = [threading.Thread(target=ask, args=(up, busy, answers)) for _ in range(10)]
    # Who stays while the second replica goes.
    users.append(threading.Thread(target=ask, args=(up, over, answers, 0.5)))
    for user in users:
        user.start()
    grown = until(up, [1, 2])
    time.sleep(10)
    busy.set()
    shrunk = until(up, [1, 2, 1])
    time.sleep(10)
    over.set()
    for user in users:
        user.join()
    assert set(answers) == {200}
    print(f"grown after {grown:.0f} s, shrunk after {shrunk:.0f} s; {len(answers)} answers")  # noqa: T201


def ask(up: Stack, over: threading.Event, answers: list[int], pause: float = 0) -> None:
    while not over.wait(pause):
        answers.append(up.run({"prompt": "word " * 20, "max_tokens": 20}).status_code)


def until(up: Stack, sizes: list[int]) -> float:
    began = time.monotonic()
    while True:
        text = (Path(up.environment["STATE_DIR"]).parent / "up.log").read_text()
        found = [int(line.split()[1]) for line in text.splitlines() if line.startswith("replicas ")]
        if found == sizes:
            return time.monotonic() - began
        assert found == sizes[: len(found)], found
        assert time.monotonic() < began + 240, text
        time.sleep(1)
