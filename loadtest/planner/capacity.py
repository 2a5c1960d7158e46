"""The largest rate at which simulated replicas keep the objectives, and what then gives way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import msgspec

from loadtest.core import Record
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Costs, Replica, Work
from loadtest.planner.requests import of_scenario
from loadtest.planner.simulate import Setting, Simulation
from loadtest.series import Series, Tally, total
from loadtest.slo import Objective, attained, parse
from loadtest.summary import counts, quantiles

_REQUESTS = 1200  # of a probe, for one replica; of many, the root of their number for each
_MOST = 12_000  # where there are many beginnings of prompts, which caches have to get to know
_WARM = 0.25  # of a probe, that is not counted
_CLOSE = 1.03  # between the largest rate that is kept and the smallest that is not
_TIMES = ("ttft", "itl", "tpot", "e2e", "service_ttft", "service_e2e")


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one rate. `missed`: objectives with the tenant they are of, worst first."""

    rate: float
    missed: tuple[str, ...]
    records: tuple[Record, ...]
    work: Work
    busy: float  # share of the replicas' time
    ongoing: float  # requests at a replica, in the mean
    bound: dict[str, int]

    @property
    def kept(self) -> bool:
        """Whether every objective held."""
        return not self.missed


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one replica of the fleet, in requests a second."""

    rate: float
    kept: Probe
    missed: Probe


def probe(
    replica: Replica,
    forecast: Forecast,
    rate: float,
    replicas: int,
    failing: int = 0,
    surge: int = 0,
) -> Probe:
    """Simulate `rate` on each of so many replicas, long enough to tell. `failing` of them die in
    the middle; or all are replaced in its course, `surge` at a time."""
    beginnings = sum(each.prefixes.pool for each in forecast.tenants if each.prefixes)
    requests = min(_MOST, max(_REQUESTS, 4 * beginnings))
    duration = requests / sqrt(replicas) / rate
    load = of_scenario(forecast.scenario(rate * replicas, duration), replica.limits.tile_pixels)
    if surge:
        # Old ones serve until others are ready: how long that takes only makes it last longer.
        replica = msgspec.structs.replace(replica, cold_start=duration * surge / replicas / 2)
    setting = Setting(
        replicas,
        forecast.fleet.router,
        failures=(duration / 2,) * failing,
        updates=(duration * _WARM,) if surge else (),
        surge=max(1, surge),
        seed=forecast.seed,
        gaps=_gaps(forecast),
        together=forecast.fleet.together,
    )
    simulation = Simulation(replica, load, setting)
    found = [r for r in simulation.records() if r.intended > _WARM * duration]
    span = max(1e-9, simulation.replica_seconds)
    return Probe(
        rate=rate,
        missed=tuple(_missed(found, forecast)),
        records=tuple(found),
        work=simulation.work,
        busy=simulation.busy / span,
        ongoing=sum(r.end - r.intended for r in found) / (duration * (1 - _WARM) * replicas),
        bound=dict(simulation.bound),
    )


def capacity(
    replica: Replica,
    forecast: Forecast,
    replicas: int = 1,
    guess: float = 1.0,
    stride: float = 2.0,
) -> Capacity:
    """By bisection between a rate that keeps the objectives and one that does not; from `guess`, in
    steps of a factor `stride`. A rate of 0: not even alone does a request keep them."""
    low: Probe | None = None
    high: Probe | None = None
    rate = guess
    while low is None or high is None or high.rate > low.rate * _CLOSE:
        found = probe(replica, forecast, rate, replicas)
        low, high = (found, high) if found.kept else (low, found)
        if low is None:
            if rate < guess * 1e-4:
                return Capacity(0.0, found, found)
            rate, stride = rate / stride, stride**1.5
        elif high is None:
            rate = rate * stride
        else:
            rate = sqrt(low.rate * high.rate)
    return Capacity(low.rate, low, high)


def interval(replica: Replica, forecast: Forecast, draws: int, guess: float) -> tuple[float, float]:
    """The rates of models that fit about as well: from the second least to the second largest."""
    rates = sorted(
        capacity(msgspec.structs.replace(replica, costs=costs), forecast, 1, guess, 1.2).rate
        for costs in replica.alternatives(draws)
    )
    return (rates[1], rates[-2]) if len(rates) > 3 else (rates[0], rates[-1])


def bottleneck(missed: Probe, replica: Replica) -> str:
    """What the replicas spend their time on, or have no room for, when the objective gives way."""
    costs, limits = replica.costs, replica.limits
    if missed.bound["kv"] > max(missed.bound["seats"], len(missed.records) // 20):
        return "KV memory"
    if missed.bound["seats"] > len(missed.records) // 20:
        return f"places in the batch (max_num_seqs {limits.seqs})"
    parts = seconds(missed.work, costs)
    return {
        "step": "the fixed cost of a step: reading the weights",
        "row": "decoding rows",
        "context": "reading KV",
        "cross": "reading pictures' KV",
        "prompt": "beginning answers",
        "prefill": "prefill",
        "attention": "attention over long prompts",
        "tile": "the vision tower",
    }[max(parts, key=lambda name: parts[name])]


def seconds(work: Work, costs: Costs) -> dict[str, float]:
    """Where the engines' time went."""
    return {
        "step": costs.step * work.steps,
        "row": costs.row * work.rows,
        "context": costs.context * work.context,
        "cross": costs.cross * work.cross,
        "prompt": costs.prompt * work.prompts,
        "prefill": costs.prefill * work.prefill,
        "attention": costs.attention * work.attention,
        "tile": costs.tile * work.tiles,
    }


def _missed(records: Sequence[Record], forecast: Forecast) -> list[str]:
    """By how far they are missed."""
    found = [("all", records, parse(forecast.slo))]
    for tenant in forecast.tenants:
        if tenant.slo:
            own = [record for record in records if record.tenant == tenant.name]
            found.append((tenant.name, own, parse(tenant.slo)))
    misses = []
    for who, part, objectives in found:
        if not part:
            continue
        summary = figures(part, objectives)
        for each in objectives:
            if not each.met(summary):
                value = each.value(summary)
                far = (value or 0.0) / each.limit if each.limit else float("inf")
                misses.append((far, each.text if who == "all" else f"{who}: {each.text}"))
    return [text for _, text in sorted(misses, reverse=True)]


def figures(records: Sequence[Record], objectives: tuple[Objective, ...]) -> dict[str, Any]:
    """What objectives ask about, without intervals."""
    series = Series.over(None)
    for record in records:
        series.add(record, attained(objectives, record))
    whole: Tally = total(series.timeline())
    span = max(r.intended for r in records) - min(r.intended for r in records) or 1e-9
    return {
        **counts(whole),
        **{f"{name}_ms": quantiles(getattr(whole, name)) for name in _TIMES},
        "goodput": whole.attained / span,
        "output_tokens_per_second": whole.output_tokens / span,
        "requests_per_second": whole.requests / span,
    }


def _gaps(forecast: Forecast) -> bool:
    texts = [forecast.slo, *(tenant.slo or "" for tenant in forecast.tenants)]
    return any(word in text for text in texts for word in ("itl", "tpot"))
