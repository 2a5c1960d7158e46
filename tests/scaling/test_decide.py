"""The autoscaler's step: what fills replicas, when it moves, and that it does not flap."""

from __future__ import annotations

import random

import pytest

from serving.admission.demand import Demand
from serving.scaling import Costs, Decision, Memory, Reading, Rule, Seen, Work, decide

COSTS = Costs(input=1e-4, output=1e-2, tile=0.1, busy=0.5)
RULE = Rule(COSTS, quiet=300.0)


def reading(input: float = 0, output: float = 0, tiles: float = 0, queued: float = 0) -> Reading:
    return Reading(Work(input, output, tiles), Work(), queued)


class Fleet:
    """Replicas that start at once; `look` every ten seconds."""

    def __init__(self, size: int = 1) -> None:
        self.at, self.size, self.memory = 0.0, size, Memory()
        self.sizes = [size]

    def look(self, *readings: Reading, starting: int = 0) -> Decision:
        seen = Seen(self.at, self.size, self.size - starting, readings)
        found = decide(RULE, self.memory, seen, 1, 20)
        self.at, self.memory = self.at + 10, found.memory
        if found.replicas != self.size:
            self.sizes.append(found.replicas)
        self.size = found.replicas
        return found

    def see(self, tokens_a_second: float, looks: int = 1) -> int:
        for _ in range(looks):
            self.look(*[reading(output=tokens_a_second / self.size)] * self.size)
        return self.size


def test_text_and_pictures_fill_replicas_apart_and_together() -> None:
    text = Fleet().look(reading(input=5000, output=50))
    assert (text.text, text.pictures) == pytest.approx((2.0, 0.0))
    both = Fleet().look(reading(output=50, tiles=10))
    assert (both.text, both.pictures) == pytest.approx((1.0, 2.0))


def test_what_waits_counts_as_what_is_to_be_done_within_the_drain() -> None:
    waiting = Reading(Work(), Work(output=3000), 0.0)
    assert Fleet().look(waiting).text == pytest.approx(3000 / RULE.drain * 1e-2 / 0.5)


def test_one_look_is_not_enough_unless_requests_wait() -> None:
    fleet = Fleet()
    assert fleet.see(175) == 1
    assert fleet.see(175, 2) == 4
    waiting = Fleet(4)
    assert waiting.look(*[reading(output=80, queued=5.0)] * 4).replicas == 7


def test_a_wrong_measurement_is_made_good_by_the_queue_but_not_while_replicas_start() -> None:
    fleet = Fleet(4)
    assert fleet.look(*[reading(output=10, queued=3.0)] * 4).replicas == 5
    assert fleet.look(*[reading(output=10, queued=9.0)] * 4, starting=1).replicas == 5
    assert fleet.look(*[reading(output=10, queued=8.0)] * 5).replicas == 5  # it gets shorter


def test_replicas_go_after_the_quiet_and_to_the_most_that_was_asked_for_in_it() -> None:
    fleet = Fleet(8)
    assert fleet.see(120, 20) == 8
    assert fleet.see(40, 12) == 3
    assert fleet.see(40, 25) == 1


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_a_steady_load_moves_nothing(seed: int) -> None:
    rng, fleet = random.Random(seed), Fleet(6)
    for _ in range(2000):
        fleet.see(rng.uniform(0.8, 1.2) * 240)
    assert fleet.sizes == [6]


def test_a_day_goes_up_once_and_down_once() -> None:
    fleet = Fleet(1)
    rng = random.Random(1)
    for look in range(8640):
        hour = look / 360
        fleet.see((50 + 800 * max(0.0, 1 - abs(hour - 12) / 8)) * rng.uniform(0.95, 1.05))
    peak = fleet.sizes.index(max(fleet.sizes))
    assert fleet.sizes[: peak + 1] == sorted(fleet.sizes[: peak + 1])
    assert fleet.sizes[peak:] == sorted(fleet.sizes[peak:], reverse=True)
    assert max(fleet.sizes) > 15


def test_without_reports_the_number_stays_and_quiet_begins_anew() -> None:
    fleet = Fleet(5)
    for _ in range(100):
        fleet.look()
    assert fleet.sizes == [5]
    assert fleet.see(10, 29) == 5


def test_while_some_reports_are_missing_it_may_grow_but_not_shrink() -> None:
    fleet = Fleet(5)
    for _ in range(100):
        fleet.look(*[reading(output=1)] * 3)
    assert fleet.sizes == [5]
    for _ in range(3):
        fleet.look(*[reading(output=150)] * 3)
    assert fleet.size == 9


def test_bounds_hold_whatever_is_asked() -> None:
    assert Fleet(1).look(reading(output=1e9, queued=99)).replicas == 20
    assert decide(RULE, Memory(), Seen(0, 30, 30, ()), 1, 20).replicas == 20


def test_demand_counts_what_comes_what_waits_and_since_when() -> None:
    demand, first, second = Demand(), object(), object()
    for item, work, at in ((first, Work(10, 100, 4), 1.0), (second, Work(20, 50), 3.0)):
        demand.come(work)
        demand.wait(item, work, at)
    assert demand.stats(5.0) == {
        "input": 30, "output": 150, "tiles": 4,
        "waiting_input": 30, "waiting_output": 150, "waiting_tiles": 4, "queued": 4.0,
    }  # fmt: skip
    demand.leave(first)
    demand.leave(first)
    demand.correct(Work(10, 100, 4), Work(6, 70, 4))
    found = demand.stats(5.0)
    assert (found["input"], found["output"], found["waiting_tiles"]) == (26, 120, 0)
    assert found["queued"] == 2.0
    demand.leave(second)
    assert demand.stats(9.0)["queued"] == 0.0
