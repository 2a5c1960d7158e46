"""What a plan holds: sizes, money, sensitivities, and for every number how it is known."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema

from loadtest.core import UsageError
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.money import prices
from loadtest.planner.page import html, lines
from loadtest.planner.plan import plan
from serving.cluster.scaling import Policy

ORIGINS = {"measured", "simulated", "interpolated", "assumed", "predicted"}
# Not figures: places, a clock, what the figures were read from, and what a machine reads.
PLAIN = {"hour", "model", "emitted", "interval", "replicas", "seconds", "gpu"}
SMALL = Replica(
    "small",
    "measured",
    Costs(
        step=0.02, row=8e-4, context=1e-6, prefill=1.5e-4, attention=5e-8, tile=0.05, request=0.01
    ),
    Limits(seqs=64, budget=2048),
    errors={"step": 0.02, "prefill": 0.3, "tile": 0.1},
    cold_start=1800.0,
)


@cache
def planned(commitment: str = "on-demand", api: str = "bedrock") -> dict[str, Any]:
    office = {"curve": "office", "prompt_tokens": 300, "output_tokens": 60}
    return plan(
        Forecast.model_validate(
            {
                "slo": "ttft p95 < 1s, errors < 1%",
                "burst": 1.2,
                "growth": 2.0,
                "tenants": [
                    {"name": "chat", "rate": 20, **office,
                     "prefixes": {"pool": 1, "tokens": 400}},
                    {"name": "scans", "rate": 2, "images": 1, "sizes": ["1120x1120"]},
                ],
                "fleet": {"gpu": "l40s", "commitment": commitment, "spare": 2, "surge": 0.5,
                          "api": api, "image_tokens": 1601},
            }
        ),
        SMALL,
        prices(),
    )  # fmt: skip


def numbers(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every number that is not in a figure with an origin."""
    if isinstance(part, dict):
        if "value" in part and part.get("origin") in ORIGINS:
            return
        for key, each in part.items():
            if key not in PLAIN or (isinstance(each, dict) and "origin" in each):
                yield from numbers(each, (*path, key))
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from numbers(each, path)
    elif isinstance(part, (int, float)) and not isinstance(part, bool):
        yield path, part


def test_every_number_says_how_it_is_known() -> None:
    assert list(numbers(planned())) == []
    said = "\n".join(lines(planned()))
    assert said.count("simulated") > 3
    assert "assumed" in said


def test_sizes_hold_what_they_say() -> None:
    found = planned()
    fleet, rate = found["fleet"], found["capacity"]["requests_per_second"]["value"]
    top = fleet["peak"]["value"]
    assert top == ceil(44 * 1.2 / rate - 1e-3) + 2
    assert fleet["during_an_update"]["value"] == top + ceil(top / 2)
    assert fleet["spare"]["value"] == 2
    counts = [hour["replicas"]["value"] for hour in found["hours"]]
    steepest = max(b - a for a, b in zip(counts, counts[1:] + counts[:1], strict=True))
    assert fleet["needed_while_one_starts"]["value"] == ceil(steepest / 2)  # half an hour
    assert fleet["peak"]["low"] <= top <= fleet["peak"]["high"]
    assert 0 < found["check"]["lost"]["value"] < 0.5


def test_money_follows_the_commitment_and_the_tokens() -> None:
    on_demand, reserved = planned(), planned("reserved", "flat-0.24")
    assert reserved["cost"]["replica_hour"]["value"] == 0.75
    for name in ("peak_hour", "month_at_peak_size", "month_following_the_day"):
        ratio = reserved["cost"][name]["value"] / on_demand["cost"][name]["value"]
        assert ratio == pytest.approx(0.75, rel=1e-3)
    per = on_demand["cost"]["per_million"]
    for each in per.values():
        assert each["full"]["value"] > each["marginal"]["value"] > 0
    assert per["output"]["marginal"]["value"] > per["input"]["marginal"]["value"]
    assert per["input"]["marginal"]["value"] > per["cached"]["marginal"]["value"]
    second = 1.0 / 3600
    assert per["input"]["marginal"]["value"] >= 1e6 * SMALL.costs.prefill * second * 0.99
    assert per["image"]["marginal"]["value"] >= 1e6 * SMALL.costs.tile * second * 0.99


def test_from_the_break_even_on_replicas_cost_no_more_than_the_api() -> None:
    found = planned()
    rate, hosted = found["capacity"]["requests_per_second"]["value"], found["hosted"]
    times = hosted["break_even"]["times_the_load"]["value"]

    def ours(times: float) -> float:
        loads = [times * hour["rate"]["value"] * 1.2 / rate for hour in found["hours"]]
        return sum(max(1, ceil(each)) + 2 for each in loads) * 730 / 24

    assert ours(times) <= 1.02 * times * hosted["month"]["value"]
    assert ours(times / 1.1) > 0.98 * times / 1.1 * hosted["month"]["value"]
    cheaper = planned("reserved", "flat-0.24")["hosted"]["break_even"]["times_the_load"]["value"]
    assert cheaper < times


def test_tenants_and_what_they_would_pay_elsewhere() -> None:
    found = planned()
    chat, scans = found["tenants"]
    assert scans["tokens_a_month"]["image"]["value"] == 4 * scans["requests_a_month"]["value"]
    assert scans["requests_a_month"]["value"] == pytest.approx(2 * 2 * 730 * 3600, rel=1e-3)
    assert chat["tokens_a_month"]["cached"]["value"] > 0
    whole = sum(each["hosted_month"]["value"] for each in found["tenants"])
    assert whole == pytest.approx(found["hosted"]["month"]["value"], rel=1e-3)


def test_what_if_and_what_to_measure_next() -> None:
    found = planned()
    ratios = {row["what"]: row["capacity_ratio"]["value"] for row in found["sensitivity"]}
    assert set(ratios) == {
        "answers 25% longer", "prompts 25% longer", "latency limits 25% tighter",
        "no prefix is ever shared",
    }  # fmt: skip
    assert all(ratio < 1.03 for ratio in ratios.values())
    assert ratios["no prefix is ever shared"] < 0.8
    lost = [row["capacity_lost"]["value"] for row in found["uncertainty"]]
    assert lost == sorted(lost, reverse=True)
    assert found["uncertainty"][0]["cost"] == "prefill"
    assert "--max-tokens 4" in found["measure_next"]


def test_ray_takes_what_is_emitted() -> None:
    emitted = planned()["emitted"]
    DeploymentSchema(name="Replica", **emitted["serve"])
    config = AutoscalingConfig(**emitted["serve"]["autoscaling_config"])
    Policy(**config.policy.policy_kwargs)
    assert config.max_replicas >= planned()["fleet"]["peak"]["high"]
    assert emitted["vllm"]["max_num_seqs"] == SMALL.limits.seqs
    assert emitted["helm"]["replicas"]["engineSeconds"] == config.policy.policy_kwargs["costs"]


def test_the_emitted_costs_fill_one_replica_at_its_capacity() -> None:
    found = planned()
    costs = found["emitted"]["helm"]["replicas"]["engineSeconds"]
    rate = found["capacity"]["requests_per_second"]["value"]
    chat, scans = rate * 20 / 22, rate * 2 / 22
    per_second = chat * (300 * costs["input"] + 60 * costs["output"])
    per_second += scans * (128 * costs["input"] + 64 * costs["output"] + 4 * costs["tile"])
    assert per_second / costs["busy"] / 1.2 == pytest.approx(1.0, abs=0.15)


def test_the_page_needs_no_other_file_and_warns_first() -> None:
    page = html(planned())
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "href=" not in page
    assert page.index("held against no run") < page.index("What it rests on")
    replicas = planned()["fleet"]["peak"]["value"]
    assert f"<b>{replicas:g} (" in page  # the answer in a sentence
    assert "chat" in page


def test_not_one_price_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nothing'"):
        planned(api="nothing")
    table = tmp_path / "prices.yaml"
    table.write_text("gpus: {h100: {on-demand: 1}}")
    with pytest.raises(UsageError, match="table of prices"):
        prices(table)
