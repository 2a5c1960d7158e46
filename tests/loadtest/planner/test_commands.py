"""fit, simulate, plan, as a user runs them; fleets, caches, fairness, failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from loadtest.core import Record, UsageError
from loadtest.payloads import Size
from loadtest.planner.check import check
from loadtest.planner.logs import read as read_log
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.profiles import names, profile
from loadtest.planner.requests import Author, Load, Request, of_scenario
from loadtest.planner.scaling import Observed, OngoingRequests
from loadtest.planner.simulate import Setting, Simulation
from loadtest.planner.tiles import tiles
from loadtest.records import Writer, read
from loadtest.scenario import Scenario, build
from loadtest.workload import Author as Words
from tests.loadtest.conftest import Command, ended, mocked, read_json
from tests.loadtest.planner.test_fit import TRUTH, Mix, pair, run

CHART = Path(__file__).parents[3] / "helm" / "llama-vision"
FORECAST = {
    "slo": "ttft p95 < 1s, errors < 1%",
    "tenants": [
        {"name": "chat", "rate": 30, "curve": "office", "prompt_tokens": "lognormal(400, 0.6)"},
        {"name": "scans", "rate": 10, "images": 1, "sizes": ["1120x1120"], "output_tokens": 96},
    ],
}


def scenario(**more: Any) -> Scenario:
    base = {"target": {"url": "http://127.0.0.1:1/v1"}, "load": {"rate": 5}, "duration": 60}
    return build({**base, **more})


def simulated(
    replica: Replica, what: Scenario, setting: Setting
) -> tuple[Simulation, list[Record]]:
    simulation = Simulation(replica, of_scenario(what), setting)
    return simulation, list(simulation.records())


def test_simulated_tenants_ask_for_the_lengths_that_real_ones_do() -> None:
    tenant = scenario(
        tenants=[
            {"turns": "uniform(1, 4)", "think": "exponential(3)", "images": "uniform(0, 3)",
             "sizes": ["600x600", "1120x1120"], "prompt_tokens": "lognormal(90, 0.5)",
             "output_tokens": "uniform(3, 50)", "prefixes": {"pool": 3, "tokens": 64, "share": 0.5},
             "pictures": {"pool": 2, "share": 0.5}}
        ]
    ).tenants[0]  # fmt: skip
    drawn, written = Author(tenant, "s", 560), Words(tenant.workload(), "s", "run")
    same: dict[object, set[bytes]] = {}
    for _ in range(50):
        questions = written.dialogue()
        request = drawn.begin(0.0)
        dialogue = request.dialogue or (None,)
        assert len(dialogue) == len(questions)
        assert request.output == questions[0].max_tokens
        for mine, theirs in zip(request.dialogue, questions, strict=bool(request.dialogue)):
            assert (mine.output, mine.think) == (theirs.max_tokens, theirs.think)
            assert mine.prompt == len(theirs.text.split())
            assert len(mine.pictures) == len(theirs.images)
            for (which, _), sent in zip(mine.pictures, theirs.images, strict=True):
                same.setdefault(which, set()).add(sent)
    repeated = {which: sent for which, sent in same.items() if isinstance(which, tuple)}
    assert len(repeated) == 4  # two of each size
    assert all(len(sent) == 1 for sent in same.values())
    assert len(set.union(*same.values())) == len(same) > 10


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(560, 560, 1), (400, 300, 1), (1120, 1120, 4), (1120, 560, 2), (560, 2240, 4), (4000, 900, 4)],
)
def test_tiles_are_those_of_the_models_processor(width: int, height: int, expected: int) -> None:
    assert tiles(Size(width, height)) == expected


def test_a_conversation_grows_and_finds_its_beginning_cached() -> None:
    talk = {"turns": 3, "prompt_tokens": 100, "output_tokens": 10, "think": 1}
    _, records = simulated(TRUTH, scenario(tenants=[talk], load={"rate": 1}), Setting())
    by_length = {record.prompt_tokens: record.cached_tokens for record in records}
    assert by_length == {100: 0, 210: 110, 320: 220}


def test_shared_prefixes_are_prefilled_once_on_each_replica() -> None:
    pool = {"prefixes": {"pool": 1, "tokens": 500}, "prompt_tokens": 20}
    for replicas in (1, 3):
        _, records = simulated(TRUTH, scenario(tenants=[pool]), Setting(replicas, "least"))
        assert sum(record.cached_tokens == 0 for record in records) <= replicas
    forgetful = Replica("t", "measured", TRUTH.costs, Limits(prefixes=False))
    _, records = simulated(forgetful, scenario(tenants=[pool]), Setting())
    assert all(record.cached_tokens == 0 for record in records)


def test_pictures_that_are_kept_are_not_encoded_again() -> None:
    album = {"images": 1, "sizes": ["1120x1120"], "pictures": {"pool": 5, "share": 0.5}}
    what = scenario(tenants=[album], load={"rate": 2}, duration=100)
    worked = {}
    for room in (0, 2500, 1 << 62):  # a picture takes 1604
        limits = Limits(pictures=room > 0, kv=room or 1 << 62)
        simulation, records = simulated(
            Replica("t", "measured", TRUTH.costs, limits), what, Setting()
        )
        worked[room] = simulation.work.tiles / 4 / len(records)
    assert worked[0] == 1.0
    assert worked[1 << 62] == pytest.approx(0.5, abs=0.1)
    assert worked[1 << 62] < worked[2500] <= 1.0


def test_each_small_picture_of_a_request_is_padded_for_itself() -> None:
    several = {"images": 3, "sizes": ["200x200"]}
    simulation, records = simulated(TRUTH, scenario(tenants=[several]), Setting())
    assert simulation.work.tiles == 12 * len(records)


def test_a_tenant_that_floods_does_not_hold_up_the_other() -> None:
    small = Replica("t", "measured", TRUTH.costs, Limits(seqs=4))
    flood = [Request("flood", 0.01 * i, 200, 50) for i in range(500)]
    modest = [Request("modest", 1.0 + 4 * i, 200, 50) for i in range(10)]
    load = Load(sorted(flood + modest, key=lambda request: request.due))
    records = list(Simulation(small, load, Setting()).records())
    slowest = max(r.end - r.intended for r in records if r.tenant == "modest")
    last = max(r.end - r.intended for r in records if r.tenant == "flood")
    assert slowest < last / 10


def test_weights_are_shares_of_the_engine() -> None:
    small = Replica("t", "measured", TRUTH.costs, Limits(seqs=4))
    tenants = [
        {"name": name, "weight": weight, "prompt_tokens": 200, "output_tokens": 50}
        for name, weight in (("gold", 3), ("plain", 1))
    ]
    what = scenario(tenants=tenants, load={"rate": 60}, duration=20)
    _, records = simulated(small, what, Setting())
    early = [record.tenant for record in records if record.end < 25]
    assert early.count("gold") / early.count("plain") == pytest.approx(3, rel=0.15)


async def test_a_trace_is_simulated_with_what_its_prompts_share(
    loadtest: Command, tmp_path: Path
) -> None:
    lines = [
        {
            "timestamp": 500 * i,
            "input_length": 1200,
            "output_length": 9,
            "hash_ids": [1, 2, 100 + i],
        }
        for i in range(40)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trace = {"file": "t.jsonl", "format": "mooncake"}
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"target": {"url": "http://127.0.0.1:1/v1"}, "load": {"trace": trace}})
    )
    done = await loadtest("simulate", "s.yaml", "--model", "l40s-bf16", "--records", "r.jsonl")
    assert done.status == 0, done.err
    records = sorted(read(tmp_path / "r.jsonl"), key=lambda record: record.intended)
    assert [record.intended for record in records] == [0.5 * i for i in range(40)]
    assert [record.cached_tokens for record in records] == [0] + [1024] * 39
    assert {record.output_tokens for record in records} == {9}


async def test_an_access_log_is_fitted_and_replaces_a_profile(
    loadtest: Command, tmp_path: Path
) -> None:
    for rate in (1.5, 3.5):
        rows = logged(run(TRUTH, Mix(rate, seed=int(rate))))
        (tmp_path / f"{rate}.log").write_text("\n".join(rows))
    done = await loadtest(
        "fit", "1.5.log", "3.5.log", "-o", "h100-bf16.json", "--name", "h100-bf16",
        "--tiles", "a+images=4", "--limits", "seqs=64,budget=2048,pictures=false",
    )  # fmt: skip
    assert done.status == 0, done.err
    costs = read_json(tmp_path / "h100-bf16.json")["costs"]
    assert costs["step"] == pytest.approx(TRUTH.costs.step, rel=0.25)
    assert costs["tile"] == pytest.approx(TRUTH.costs.tile, rel=0.25)
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {"target": {"url": "http://127.0.0.1:1/v1"}, "load": {"rate": 1}, "duration": 9}
        )
    )
    done = await loadtest("simulate", "s.yaml", "--model", "h100-bf16")
    assert "simulated from a measured model" in done.out


def logged(records: list[Record]) -> Iterator[str]:
    """The gateway's lines for these requests."""
    for each in records:
        row = {
            "account": "a", "outcome": "ok", "status": 200, "duration": each.end - each.sent,
            "ttft": each.first_token - each.sent, "at": each.end,
            "usage": {"prompt_tokens": each.prompt_tokens, "completion_tokens": each.tokens},
            "images": int(each.tenant == "vision"),
        }  # fmt: skip
        yield f"2026-11-22 10:00:00,000 INFO serving.access {json.dumps(row)}"


def test_memory_bounds_how_many_run_at_a_time() -> None:
    tight = Replica("t", "measured", Costs(step=0.01), Limits(kv=1000))
    requests = [Request("a", 0.0, 400, 100) for _ in range(4)]
    simulation = Simulation(tight, Load(requests), Setting())
    ends = sorted(record.end for record in simulation.records())
    assert ends == pytest.approx([1.0, 1.01, 2.0, 2.01])  # the second missed the first step
    assert simulation.bound["kv"] > 0


def test_what_is_more_than_may_wait_is_refused() -> None:
    full = Replica("t", "measured", Costs(step=0.01), Limits(queue=3))
    load = Load([Request("a", 0.0, 10, 10) for _ in range(5)])
    assert [r.status for r in Simulation(full, load, Setting()).records()].count(429) == 2


def test_a_replica_that_dies_loses_its_requests_and_is_replaced() -> None:
    simulation, records = simulated(TRUTH, scenario(), Setting(2, failures=(30.0,)))
    lost = [record for record in records if record.error]
    assert 0 < len(lost) < 40
    assert {record.error for record in lost} == {"truncated"}
    assert simulation.sizes[-1][0] > 30 + TRUTH.cold_start - 1
    assert len(records) == len(list(of_scenario(scenario()).opening))


def test_a_rolling_update_loses_nothing() -> None:
    slow = Replica("t", "measured", TRUTH.costs, cold_start=5.0)
    simulation, records = simulated(slow, scenario(), Setting(3, updates=(10.0,), surge=1))
    assert not any(record.error for record in records)
    assert len(simulation.engines) == 6
    assert max(size for _, size in simulation.sizes) == 4


def test_the_autoscaler_follows_the_load_and_pays_for_less() -> None:
    what = scenario(load={"rate": "spike(1, 12, 200, 300)"}, duration=900)
    policy = OngoingRequests(6.0, 1, 6, downscale_delay=60)
    fixed, _ = simulated(TRUTH, what, Setting(6))
    scaled, records = simulated(TRUTH, what, Setting(1, policy=policy))
    assert scaled.replica_seconds < 0.7 * fixed.replica_seconds
    assert max(size for _, size in scaled.sizes) > 2
    assert not any(record.error for record in records)


def test_without_metrics_a_static_policy_stays_and_the_default_forgets_the_load() -> None:
    still = OngoingRequests(4.0, 1, 9, downscale_delay=0, fail_static=True)
    default = OngoingRequests(4.0, 1, 9, downscale_delay=0)
    assert still.desired(Observed(10.0, 5, 5, None)) == 5
    assert default.desired(Observed(10.0, 5, 5, None)) == 1


def test_profiles_are_in_the_order_of_their_hardware() -> None:
    found = {name: profile(name) for name in names()}
    assert all(each.origin == "predicted" and each.sources for each in found.values())
    assert found["h100-fp8"].costs.step < found["h100-bf16"].costs.step
    assert found["h100-bf16"].costs.step < found["a100-80g-bf16"].costs.step
    assert found["a100-80g-bf16"].costs.step < found["l40s-bf16"].costs.step
    # Reading 18 GB of weights at no more than the memory's peak.
    assert 18.4e9 / 3.35e12 < found["h100-bf16"].costs.step < 18.4e9 / 3.35e12 * 3
    with pytest.raises(UsageError, match="h100-bf16"):
        profile("b300")


def test_an_access_log_is_read_as_records(tmp_path: Path) -> None:
    row = {
        "account": "a", "outcome": "ok", "status": 200, "duration": 2.0, "ttft": 0.5, "at": 102.0,
        "images": 1, "usage": {"prompt_tokens": 1610, "completion_tokens": 4, "cached_tokens": 1604,
                               "image_tokens": 1601, "cached_image_tokens": 1601},
    }  # fmt: skip
    log = tmp_path / "access.log"
    log.write_text(f"noise\n2026-11-22 10:00:00,000 INFO serving.access {json.dumps(row)}\n")
    (record,) = read_log(log)
    assert (record.sent, record.first_token, record.end) == (100.0, 100.5, 102.0)
    assert (record.tenant, record.tokens) == ("a+images", 4)
    assert (record.text_tokens, record.cached_text_tokens) == (9, 3)
    log.write_text("nothing\n")
    with pytest.raises(UsageError, match="no request"):
        read_log(log)


async def test_fit_and_simulate(loadtest: Command, tmp_path: Path) -> None:
    for name, mix in (("a", Mix(1.5)), ("b", Mix(3.5, seed=2)), ("c", Mix(2.5, seed=3))):
        with Writer(tmp_path / f"{name}.jsonl") as write:
            for record in run(TRUTH, mix):
                write(record)
    done = await loadtest(
        "fit", "a.jsonl", "b.jsonl", "-o", "m.json", "--tiles", "vision=4",
        "--held-out", "c.jsonl", "--limits", "seqs=64,budget=2048",
    )  # fmt: skip
    assert done.status == 0, done.err
    model = read_json(tmp_path / "m.json")
    assert model["origin"] == "measured"
    assert abs(model["fit"]["c all service_ttft p95"]) < 0.03
    done = await loadtest("fit", "a.jsonl", "-o", "m2.json", "--together", "c.jsonl")
    assert done.status == 2
    assert "--replicas" in done.err
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {"target": {"url": "http://127.0.0.1:1/v1"}, "load": {"rate": 2}, "duration": "60s"}
        )
    )
    done = await loadtest(
        "simulate", "s.yaml", "--model", "m.json", "--records", "r.jsonl", "--json", "o.json",
        "--slo", "ttft p95 < 1ms",
    )  # fmt: skip
    assert done.status == 1, done.err
    assert "MISSED" in done.out
    assert read_json(tmp_path / "o.json")["requests"] == len(list(read(tmp_path / "r.jsonl")))
    done = await loadtest("report", "r.jsonl", "--html", "r.html")
    assert done.status == 0, done.err
    done = await loadtest("compare", "r.jsonl", "r.jsonl")
    assert done.status == 0, done.err


async def test_replicas_of_one_machine_are_fitted_and_planned_as_such(
    loadtest: Command, tmp_path: Path
) -> None:
    crowded = msgspec.structs.replace(TRUTH, crowding=0.3)
    runs = {
        "a": run(TRUTH, Mix(1.5)),
        "b": run(TRUTH, Mix(3.5, seed=2)),
        "two": pair(crowded, Mix(4)),
    }
    for name, records in runs.items():
        with Writer(tmp_path / f"{name}.jsonl") as write:
            for record in records:
                write(record)
    done = await loadtest(
        "fit", "a.jsonl", "b.jsonl", "-o", "m.json", "--tiles", "vision=4",
        "--limits", "seqs=64,budget=2048", "--together", "two.jsonl", "--replicas", "2",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "longer for each other replica" in done.out
    assert read_json(tmp_path / "m.json")["crowding"] == pytest.approx(0.3, abs=0.05)
    bears = {}
    for together in (1, 2):
        fleet = {**FORECAST.get("fleet", {}), "together": together}
        (tmp_path / "f.yaml").write_text(yaml.safe_dump({**FORECAST, "fleet": fleet}))
        done = await loadtest("plan", "f.yaml", "--model", "m.json", "--json", "p.json")
        assert done.status == 0, done.err
        bears[together] = read_json(tmp_path / "p.json")["capacity"]["scaling_efficiency"]["value"]
    assert bears[2] < 0.9 * bears[1]


async def test_plan(loadtest: Command, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(FORECAST))
    done = await loadtest(
        "plan", "f.yaml", "--model", "h100-bf16", "--json", "p.json", "--html", "p.html",
        "--emit", "out",
    )  # fmt: skip
    assert done.status == 0, done.err
    plan = read_json(tmp_path / "p.json")
    rate = plan["capacity"]["requests_per_second"]
    assert rate["low"] <= rate["value"] <= rate["high"]
    top = plan["fleet"]["peak"]["value"]
    assert top == max(hour["replicas"]["value"] for hour in plan["hours"])
    assert (top - 1) * rate["value"] >= 40 * 1.25  # both tenants at noon, with the burst
    assert plan["check"]["at_peak"]["met"]
    assert plan["check"]["during_an_update"]["met"]
    assert "WARNING: the model is a prediction" in done.out
    assert plan["cost"]["peak_hour"]["value"] == pytest.approx(2.5 * top)
    assert sum(each["month"]["value"] for each in plan["tenants"]) == pytest.approx(
        plan["cost"]["month_following_the_day"]["value"], rel=1e-3
    )
    assert plan["capacity"]["binding"] in ("ttft p95 < 1s", "errors < 1%")
    assert all(hour["replicas"]["low"] <= hour["replicas"]["high"] for hour in plan["hours"])
    assert plan["measure_next"].count("loadtest") == 1
    values = yaml.safe_load((tmp_path / "out" / "values.yaml").read_text())
    assert values["replicas"]["max"] >= top
    assert all(type(values["replicas"][side]) is int for side in ("min", "max"))
    assert values["model"]["catalog"] == "80gb-bf16"
    jsonschema.validate(
        {**yaml.safe_load((CHART / "values.yaml").read_text()), "replicas": values["replicas"]},
        read_json(CHART / "values.schema.json"),
    )
    build(yaml.safe_load((tmp_path / "out" / "validation.yaml").read_text()))
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 2
    assert "http://" not in page.partition("Configuration")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slo": "ttft p95 < 1ms"}, "not even one request"),
        ({"tenants": []}, "tenants"),
        ({"fleet": {"gpu": "b300"}}, "b300"),
        ({"growht": 2}, "growht"),
    ],
)
async def test_a_forecast_that_cannot_be_planned_is_refused(
    change: dict[str, Any], said: str, loadtest: Command, tmp_path: Path
) -> None:
    (tmp_path / "f.yaml").write_text(yaml.safe_dump({**FORECAST, **change}))
    done = await loadtest("plan", "f.yaml", "--model", "h100-bf16")
    assert done.status == 2
    assert said in done.err


async def test_the_emitted_validation_run_leaves_its_errors_in_the_model(
    loadtest: Command, tmp_path: Path
) -> None:
    forecast = {**FORECAST, "tenants": FORECAST["tenants"][:1]}
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(forecast))
    done = await loadtest("plan", "f.yaml", "--model", "h100-bf16", "--emit", "out")
    assert done.status == 0, done.err
    then = (tmp_path / "out" / "validation.yaml").read_text().splitlines()[:2]
    run_it, keep_it = (line.removeprefix("# loadtest ").split() for line in then)
    async with mocked(ttft=0.03, itl=0.002) as server:
        flags = ["--url", server.target("workers-ai")["url"], "--account", "a", "--token", "t"]
        run_it[1] = keep_it[keep_it.index("--scenario") + 1] = "out/validation.yaml"
        ended(await loadtest(*run_it, *flags, "--duration", "4s", "--rate", "15"))
    done = await loadtest(*keep_it)
    assert done.status == 0, done.err
    kept = read_json(tmp_path / "replica.json")
    rows = check(profile("h100-bf16"), list(read(tmp_path / "validation.jsonl")), {})
    expected = {f"validation {r['requests']} {r['quantity']}": r["error"] for r in rows}
    assert kept["fit"] == expected
    assert "service_ttft p95" in done.out
    done = await loadtest(
        "plan", "f.yaml", "--model", "replica.json", "--gpu", "l40s", "--json", "p.json"
    )
    assert "WARNING: the model was off by up to" in done.out
    assert "WARNING: the model is of h100, the price of l40s" in done.out
    assert read_json(tmp_path / "p.json")["cost"]["replica_hour"]["value"] == 1.0
    done = await loadtest("validate", "h100-bf16", "validation.jsonl")
    assert done.status == 2
    assert "--out" in done.err
