"""The simulator against queueing theory, and against itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import factorial
from statistics import fmean

import pytest

from loadtest.core import Record
from loadtest.planner.model import Costs, Limits, Replica
from loadtest.planner.requests import Load, Request
from loadtest.planner.simulate import Setting, Simulation

FINE = 10_000  # tokens of a mean prompt or answer: steps so short that time is continuous


def poisson(rate: float, count: int, draw: str, seed: int = 1) -> Iterator[Request]:
    """Requests with exponential work in the prompt, or in the answer."""
    rng, at = random.Random(seed), 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        size = max(1, round(rng.expovariate(1 / FINE)))
        prompt, output = (size, 1) if draw == "prompt" else (1, size)
        yield Request("default", at, prompt, output)


def server(limits: Limits, **costs: float) -> Replica:
    return Replica("test", "measured", Costs(**{"step": 0.0, **costs}), limits)


def times(records: list[Record]) -> float:
    return fmean(record.end - record.intended for record in records)


def erlang_c(servers: int, load: float) -> float:
    """The probability that an arrival waits, in M/M/c."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)


def one_at_a_time() -> Replica:
    return server(Limits(seqs=1, budget=1 << 40), prefill=1 / FINE)


def test_one_server_follows_lindleys_recursion_request_by_request() -> None:
    arrivals = list(poisson(0.8, 5000, "prompt"))
    found = Simulation(one_at_a_time(), Load(iter(arrivals)), Setting()).records()
    ends, free = {}, 0.0
    for each in arrivals:
        free = max(free, each.due) + each.prompt / FINE
        ends[each.due] = free
    assert all(record.end == pytest.approx(ends[record.intended]) for record in found)


def test_m_m_1() -> None:
    load = Load(poisson(0.5, 200_000, "prompt"))
    records = list(Simulation(one_at_a_time(), load, Setting(gaps=False)).records())
    assert times(records) == pytest.approx(1 / (1 - 0.5), rel=0.02)


@pytest.mark.parametrize("router", ["two", "least"])
def test_m_m_c_when_the_router_holds_what_nobody_may_take(router: str) -> None:
    servers, rate = 4, 2.8
    setting = Setting(servers, router, ongoing=1, gaps=False)
    load = Load(poisson(rate, 80_000, "prompt"))
    records = list(Simulation(one_at_a_time(), load, setting).records())
    waiting = erlang_c(servers, rate) / (servers - rate)
    assert times(records) == pytest.approx(1 + waiting, rel=0.02)


def test_processor_sharing_when_a_step_takes_as_long_as_it_has_rows() -> None:
    sharing = server(Limits(seqs=1 << 30), row=1 / FINE)
    load = Load(poisson(0.5, 100_000, "output"))
    records = list(Simulation(sharing, load, Setting(gaps=False)).records())
    assert times(records) == pytest.approx(1 / (1 - 0.5), rel=0.02)


def test_processor_sharing_does_not_depend_on_the_distribution() -> None:
    rng, at, arrivals = random.Random(3), 0.0, []
    for _ in range(60_000):
        at += rng.expovariate(0.5)
        arrivals.append(Request("default", at, 1, rng.choice((FINE // 2, 3 * FINE // 2))))
    sharing = server(Limits(seqs=1 << 30), row=1 / FINE)
    records = list(Simulation(sharing, Load(arrivals), Setting(gaps=False)).records())
    assert times(records) == pytest.approx(2.0, rel=0.02)


def steps(costs: Costs, limits: Limits, requests: list[Request]) -> dict[float, list[float]]:
    """Token times by due time, one step after the other: what the simulator does in stretches."""
    waiting, going, rows, now = sorted(requests, key=lambda r: r.due), [], [], 0.0
    tokens: dict[float, list[float]] = {}
    while waiting or going or rows:
        if not going and not rows:
            now = max(now, waiting[0].due)
        while waiting and waiting[0].due <= now and len(going) + len(rows) < limits.seqs:
            request = waiting.pop(0)
            going.append([request, request.prompt, 4 if request.tiles else 0])
        time = costs.step + costs.row * len(rows)
        time += sum(costs.context * c + costs.cross * r.tiles for r, c in rows)
        budget = limits.budget - len(rows)
        for each in going:
            taken = min(each[1], max(0, budget))
            if not taken:
                break
            before = each[0].prompt - each[1]
            time += costs.prefill * taken + costs.attention * taken * (before + taken / 2)
            time += costs.tile * each[2]
            each[1], each[2], budget = each[1] - taken, 0, budget - taken
            time += costs.prompt * (each[1] == 0)
        now += time
        rows = [[r, c + 1] for r, c in rows]
        for r, _ in rows:
            tokens[r.due].append(now)
        for each in [each for each in going if each[1] == 0]:
            tokens[each[0].due] = [now]
            rows.append([each[0], each[0].prompt + 1])
        going = [each for each in going if each[1]]
        rows = [[r, c] for r, c in rows if len(tokens[r.due]) < r.output]
    return tokens


def mixed(count: int, seed: int) -> list[Request]:
    rng, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += rng.expovariate(6)
        length, answer = rng.randrange(1, 900), rng.randrange(1, 80)
        found.append(Request("default", at, length, answer, rng.choice((0, 0, 1, 4))))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stretches_are_exactly_the_steps_they_stand_for(seed: int) -> None:
    costs = Costs(4e-3, 1e-4, 2e-7, 5e-5, 3e-3, 1e-4, 2e-8, 0.02)
    limits = Limits(seqs=12, budget=256)
    truth = steps(costs, limits, mixed(300, seed))
    replica = Replica("test", "measured", costs, limits)
    for record in Simulation(replica, Load(mixed(300, seed)), Setting()).records():
        tokens = truth[record.intended]
        assert record.first_token == pytest.approx(tokens[0], abs=1e-6)
        assert record.end == pytest.approx(tokens[-1], abs=1e-6)
        assert len(record.gaps) == record.output_tokens - 1
        assert record.last_token == pytest.approx(tokens[-1], abs=1e-4)
