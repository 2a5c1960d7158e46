"""The simulator against queueing theory, and against itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@pytest.mark.parametrize("router", ["two", "least", "affinity"])
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


@dataclass(eq=False)
class Going:
    """A request at the engine; `ends` are of the steps that brought its tokens."""

    request: Request
    standing: float
    left: int
    tiles: int
    ends: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.request.prompt - self.left + len(self.ends)

    def advance(self, most: int, costs: Costs) -> tuple[int, float]:
        """Tokens of a step, and its seconds for them."""
        if not self.left:
            return 1, costs.row + costs.context * self.tokens + costs.cross * self.request.tiles
        taken, before = min(self.left, most), self.tokens
        time = costs.prefill * taken + costs.attention * taken * (before + taken / 2)
        time += costs.tile * self.tiles
        self.left, self.tiles = self.left - taken, 0
        return taken, time + costs.prompt * (self.left == 0)


def steps(costs: Costs, limits: Limits, requests: list[Request]) -> dict[float, list[float]]:
    """Token times by due time, one step after the other, over one list as vLLM has it: what the
    simulator does in stretches."""
    coming, waiting, running = sorted(requests, key=lambda r: r.due), [], []
    now, overtaken, found = 0.0, False, {}
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0].due)
        while coming and coming[0].due <= now and len(waiting) + len(running) < limits.seqs:
            new = coming.pop(0)
            tiles = 4 if new.tiles else 0
            waiting.append(Going(new, new.due, new.prompt, tiles))
        waiting.sort(key=lambda each: each.standing)
        held = []
        if waiting and not overtaken:
            first = waiting[0].standing
            held = [each for each in running if each.left and each.standing > first]
        overtaken, running = bool(held), [each for each in running if each not in held]
        alone = len(waiting) + len(running) + len(held) == 1
        bounded = not alone and limits.beside < limits.budget
        budget, time, worked = limits.beside if bounded else limits.budget, costs.step, []
        encoded = 0
        for each in [*running, *waiting]:
            encoded += each.request.tiles if each.tiles else 0
            if not budget or (bounded and encoded > 4):
                break
            taken, spent = each.advance(budget, costs)
            budget, time = budget - taken, time + spent
            worked.append(each)
        now += time
        for each in worked:
            each.ends += [] if each.left else [now]
        running += [each for each in waiting if each in worked]
        running += held
        waiting = [each for each in waiting if each not in worked]
        found |= {each.request.due: each.ends for each in running}
        running = [each for each in running if len(each.ends) < each.request.output]
    return found


def mixed(count: int, seed: int) -> list[Request]:
    rng, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += rng.expovariate(6)
        length, answer = rng.randrange(1, 900), rng.randrange(1, 80)
        found.append(Request("default", at, length, answer, rng.choice((0, 0, 1, 4))))
    return found


@pytest.mark.parametrize(("seed", "beside"), [(1, 512), (2, 256), (3, 96)])
def test_stretches_are_exactly_the_steps_they_stand_for(seed: int, beside: int) -> None:
    costs = Costs(4e-3, 1e-4, 2e-7, 5e-5, 3e-3, 1e-4, 2e-8, 0.02)
    limits = Limits(seqs=12, budget=512, beside=beside)
    truth = steps(costs, limits, mixed(300, seed))
    replica = Replica("test", "measured", costs, limits)
    for record in Simulation(replica, Load(mixed(300, seed)), Setting()).records():
        tokens = truth[record.intended]
        assert record.first_token == pytest.approx(tokens[0], abs=1e-6)
        assert record.end == pytest.approx(tokens[-1], abs=1e-6)
        assert len(record.gaps) == record.output_tokens - 1
        assert record.last_token == pytest.approx(tokens[-1], abs=1e-4)


@pytest.mark.parametrize(("newcomer", "overtakes"), [("b", True), ("a", False)])
def test_a_long_prompt_is_overtaken_by_whose_account_has_fewer_requests_there(
    newcomer: str, overtakes: bool
) -> None:
    replica = server(Limits(seqs=8, budget=2048, beside=64), step=0.01, prefill=1e-4)
    row, long = Request("a", 0.0, 10, 200), Request("a", 0.1, 1000, 2)
    short = Request(newcomer, 0.2, 20, 2)
    found = Simulation(replica, Load([row, long, short]), Setting()).records()
    first = {record.prompt_tokens: record.first_token for record in found}
    assert (first[20] < first[1000]) == overtakes
    assert first[1000] > 0.1 + 1000 / 63 * 0.01  # in parts, beside the row


def test_an_alone_prompt_is_read_at_once() -> None:
    replica = server(Limits(seqs=8, budget=2048, beside=64), step=0.01, prefill=1e-4)
    (record,) = Simulation(replica, Load([Request("a", 0.0, 1000, 2)]), Setting()).records()
    assert record.first_token == pytest.approx(0.01 + 1000 * 1e-4)
