"""Fitting a model to runs whose truth is known, because the simulator made them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from loadtest.core import Record, UsageError
from loadtest.planner.fit import fit
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.requests import Load, Request
from loadtest.planner.simulate import Setting, Simulation
from loadtest.planner.trial import crowding, noticing
from loadtest.series import Series, total
from loadtest.summary import quantiles

TRUTH = Replica(
    "truth",
    "measured",
    Costs(step=0.02, row=8e-4, context=1e-6, prefill=1.5e-4, tile=0.05, request=0.01),
    Limits(seqs=64, budget=2048),
)
TILES = {"vision": 4}


@dataclass
class Mix:
    """A rate, and how much of it has images."""

    rate: float
    images: float = 0.25
    seed: int = 1

    def __iter__(self) -> Iterator[Request]:
        rng, at = random.Random(self.seed), 0.0
        for _ in range(600):
            at += rng.expovariate(self.rate)
            prompt, output = rng.randrange(20, 600), rng.randrange(4, 120)
            image = rng.random() < self.images
            tenant = "vision" if image else "chat"
            yield Request(tenant, at, prompt, output, 4 * image)


def run(replica: Replica, mix: Mix) -> list[Record]:
    return list(Simulation(replica, Load(mix), Setting()).records())


def p95(records: list[Record]) -> float:
    series = Series.over(None)
    for record in records:
        series.add(record)
    return float(quantiles(total(series.timeline()).ttft)["p95"])


def fitted(*loads: float) -> Replica:
    runs = [run(TRUTH, Mix(rate, seed=i)) for i, rate in enumerate(loads)]
    return fit(runs, TILES, "fitted", TRUTH.limits, 30.0)


def test_the_costs_come_back() -> None:
    found = fitted(1.5, 3.5)
    for name in ("step", "row", "context", "prefill", "tile"):
        expected = getattr(TRUTH.costs, name)
        assert getattr(found.costs, name) == pytest.approx(expected, rel=0.02), name
    assert found.costs.request == pytest.approx(TRUTH.costs.request, rel=0.1)
    assert found.costs.cut < 0.05 * TRUTH.costs.tile
    assert found.fit["decode_text_median_error"] < 0.01
    assert found.fit["ttft_image_median_error"] < 0.01
    assert len(found.draws) > 1


def test_what_is_done_with_pictures_before_the_engine_is_told_apart() -> None:
    costs = msgspec.structs.replace(TRUTH.costs, cut=0.01)
    truth = msgspec.structs.replace(TRUTH, costs=costs)
    runs = [run(truth, Mix(rate, seed=i)) for i, rate in enumerate((1.5, 3.5))]
    found = fit(runs, TILES, "cut", truth.limits, 30.0)
    assert found.costs.cut == pytest.approx(0.01, rel=0.12)
    assert found.costs.tile == pytest.approx(truth.costs.tile, rel=0.02)


def test_what_a_prompt_costs_whatever_its_length_is_told_from_its_tokens() -> None:
    costs = msgspec.structs.replace(TRUTH.costs, prompt=0.01)
    truth = msgspec.structs.replace(TRUTH, costs=costs)
    runs = [run(truth, Mix(rate, seed=i)) for i, rate in enumerate((1.5, 3.5))]
    found = fit(runs, TILES, "prompts", truth.limits, 30.0)
    assert found.costs.prompt == pytest.approx(0.01, rel=0.05)
    assert found.costs.prefill == pytest.approx(truth.costs.prefill, rel=0.02)


@pytest.mark.parametrize("beside", [256, 128])
def test_prompts_that_steps_had_no_room_for_are_found_in_those_that_read_them(beside: int) -> None:
    limits = msgspec.structs.replace(TRUTH.limits, beside=beside)
    truth = msgspec.structs.replace(TRUTH, limits=limits)
    runs = [run(truth, Mix(rate, seed=i)) for i, rate in enumerate((1.5, 3.5))]
    found = fit(runs, TILES, "cut", limits, 30.0)
    for name in ("step", "prefill", "tile"):
        expected = getattr(TRUTH.costs, name)
        assert getattr(found.costs, name) == pytest.approx(expected, rel=0.03), name
    assert found.limits.beside == beside
    for mix in (Mix(4.0, seed=8), Mix(2.5, 0.5, 7)):
        assert p95(run(found, mix)) == pytest.approx(p95(run(truth, mix)), rel=0.05)
    one_step = fit(runs, TILES, "whole", TRUTH.limits, 30.0)  # as if there were no such limit
    assert one_step.costs.prefill < 0.95 * TRUTH.costs.prefill


def test_a_machine_that_was_slower_in_one_run_is_noticed_whatever_the_load() -> None:
    slower = msgspec.structs.replace(TRUTH.costs, step=0.03, row=0.0012)
    slow = msgspec.structs.replace(TRUTH, costs=slower)
    steady = [run(TRUTH, Mix(0.6)), run(TRUTH, Mix(1.8))]
    found = fit(steady, TILES, "steady", TRUTH.limits, 30.0)
    assert found.fit["machine_drift"] < 0.05
    found = fit([steady[0], run(slow, Mix(1.0))], TILES, "drifting", TRUTH.limits, 30.0)
    assert found.fit["machine_drift"] == pytest.approx(0.5, abs=0.05)


def test_a_front_end_that_hands_tokens_on_one_by_one_hides_no_step() -> None:
    def handed_on(record: Record) -> Record:
        late = 0.003 * random.Random(record.id).random()
        return msgspec.structs.replace(
            record, first_token=(record.first_token or 0) + late, end=record.end + late
        )

    runs = [[handed_on(each) for each in run(TRUTH, Mix(rate))] for rate in (1.5, 3.5)]
    found = fit(runs, TILES, "late", TRUTH.limits, 30.0)
    for name, tolerance in (("step", 0.02), ("row", 0.1), ("prefill", 0.05), ("tile", 0.02)):
        expected = getattr(TRUTH.costs, name)
        assert getattr(found.costs, name) == pytest.approx(expected, rel=tolerance), name


@pytest.mark.parametrize("mix", [Mix(2.5, seed=9), Mix(4.0, seed=8), Mix(2.5, 0.5, 7)])
def test_what_was_not_measured_is_foretold(mix: Mix) -> None:
    found = fitted(1.5, 3.5)
    assert p95(run(found, mix)) == pytest.approx(p95(run(TRUTH, mix)), rel=0.03)


@pytest.mark.parametrize("held", ["the end without a frame", "two in a frame"])
def test_frames_need_not_be_tokens(held: str) -> None:
    def framed(record: Record) -> Record:
        gaps = record.gaps
        if held == "the end without a frame":
            gaps = gaps[:-1]
        elif len(gaps) > 3:
            gaps = [*gaps[:1], gaps[1] + gaps[2], *gaps[3:]]
        return msgspec.structs.replace(record, gaps=gaps, frames=len(gaps) + 1)

    runs = [[framed(each) for each in run(TRUTH, Mix(rate, seed=5))] for rate in (1.5, 3.5)]
    found = fit(runs, TILES, "framed", TRUTH.limits, 30.0)
    for name, tolerance in (("step", 0.05), ("prefill", 0.1), ("tile", 0.05)):
        expected = getattr(TRUTH.costs, name)
        assert getattr(found.costs, name) == pytest.approx(expected, rel=tolerance), name


def test_cached_tokens_cost_no_prefill() -> None:
    rng, at, shared = random.Random(4), 0.0, []
    for _ in range(500):
        at += rng.expovariate(3.0)
        own, which = rng.randrange(20, 300), rng.randrange(3)
        shared.append(Request("chat", at, 900 + own, 40, prefix=(which,), shared=900))
    records = list(Simulation(TRUTH, Load(shared), Setting()).records())
    assert sum(record.cached_tokens for record in records) > 450 * 900
    found = fit([records], {}, "cached", TRUTH.limits, 30.0)
    assert found.costs.prefill == pytest.approx(TRUTH.costs.prefill, rel=0.05)
    assert found.costs.step == pytest.approx(TRUTH.costs.step, rel=0.05)


def pair(replica: Replica, mix: Mix) -> list[Record]:
    """Two replicas on one machine."""
    return list(Simulation(replica, Load(mix), Setting(2, seed=99, together=2)).records())


def test_how_replicas_slow_each_other_down_is_found_and_foretells_another_load() -> None:
    truth = msgspec.structs.replace(TRUTH, crowding=0.3)
    share = crowding(TRUTH, pair(truth, Mix(3.0)), TILES, 2)
    assert share == pytest.approx(0.3, abs=0.02)
    found = msgspec.structs.replace(TRUTH, crowding=share)
    high = Mix(5.0, seed=5)
    assert p95(pair(found, high)) == pytest.approx(p95(pair(truth, high)), rel=0.06)
    assert p95(pair(TRUTH, high)) < 0.9 * p95(pair(truth, high))
    assert crowding(truth, pair(TRUTH, Mix(3.0)), TILES, 2) < 0.01


def test_a_replica_that_has_the_machine_for_itself_is_as_fast_as_ever() -> None:
    crowded = msgspec.structs.replace(TRUTH, crowding=0.3)
    alone = Simulation(TRUTH, Load(Mix(5.0)), Setting(1)).records()
    shared = Simulation(crowded, Load(Mix(5.0)), Setting(1, together=2)).records()
    assert [r.end for r in shared] == pytest.approx([r.end for r in alone])


def test_how_late_an_engine_at_work_knows_of_requests_is_found() -> None:
    late = msgspec.structs.replace(TRUTH, costs=msgspec.structs.replace(TRUTH.costs, notice=0.015))
    runs = [run(late, Mix(rate, seed=i)) for i, rate in enumerate((1.5, 3.5))]
    found = noticing(fit(runs, TILES, "late", TRUTH.limits, 30.0), runs, TILES)
    assert found.costs.notice == pytest.approx(0.015, abs=0.003)
    assert {each.notice for each in found.draws} == {found.costs.notice}
    high = Mix(4.0, seed=8)
    assert p95(run(found, high)) == pytest.approx(p95(run(late, high)), rel=0.05)
    assert noticing(TRUTH, [run(TRUTH, Mix(3.0))], TILES).costs.notice < 0.001


def test_an_idle_engine_knows_of_a_request_at_once() -> None:
    late = msgspec.structs.replace(TRUTH, costs=msgspec.structs.replace(TRUTH.costs, notice=0.03))
    for gap, waits in ((10.0, False), (0.1, True)):  # the first takes some 0.45 s

        def ask(gap: float = gap) -> Load:
            return Load([Request("a", at, 100, 20) for at in (0.0, gap)])

        on_time, noticed = (
            [r.first_token for r in Simulation(each, ask(), Setting()).records()]
            for each in (TRUTH, late)
        )
        assert on_time[0] == noticed[0]
        assert (noticed[1] > on_time[1] + 0.01) == waits


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        fit([run(TRUTH, Mix(2.0))[:20]], {}, "none", Limits(), 30.0)
