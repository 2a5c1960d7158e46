"""From a forecast and a model of one replica to replicas, dollars and configuration.

The answer is plain data (it is the JSON). Every figure is `{value, origin}`, and `low` and `high`
where there is an interval. Origins: `measured`, `interpolated` (between what was measured or
simulated), `simulated`, `assumed`, `predicted` (from a profile nobody has measured).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, exp
from typing import Any

import msgspec

from loadtest.core import UsageError
from loadtest.planner import money
from loadtest.planner.capacity import Capacity, bottleneck, capacity, figures, interval, probe
from loadtest.planner.emit import Size, configuration
from loadtest.planner.forecast import HOURS, Forecast, Tenant
from loadtest.planner.model import Replica
from loadtest.planner.money import CLASSES, MONTH, Prices, Tokens
from loadtest.planner.shares import engine_seconds, marginal, tiles_of
from loadtest.planner.variants import variants
from loadtest.slo import parse

_DRAWS = 8
_POOR = 0.2  # relative error from which a model is warned of
_FLEET = 4  # replicas simulated for what a fleet does to one's capacity
_CHECKED = 8  # most replicas in the simulation of the peak
_RUNS = {
    "step": "one text tenant at a low rate: loadtest run --rate 0.5 --max-tokens 128 --duration 5m",
    "row": "text at a high rate: loadtest sweep --by concurrency over 16,32,64 users",
    "context": "long prompts, long answers: loadtest run --prompt-tokens 8000 --max-tokens 256",
    "cross": "many pictures at a time: loadtest run --image 1120x1120 --concurrency 32",
    "prefill": "short answers: loadtest run --prompt-tokens 1500 --max-tokens 4 --rate 2",
    "attention": "very long prompts: loadtest run --prompt-tokens 32000 --max-tokens 4",
    "tile": "pictures, short answers: loadtest run --image 1120x1120 --max-tokens 4 --rate 1",
    "request": "one user: loadtest run --concurrency 1 --max-tokens 1 --duration 2m",
}
Figure = dict[str, Any]


def figure(
    value: float, origin: str, low: float | None = None, high: float | None = None
) -> Figure:
    """A number and how it is known."""
    found: Figure = {"value": _short(value), "origin": origin}
    return found if low is None else {**found, "low": _short(low), "high": _short(high or 0.0)}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the parts of the plan are computed from."""

    forecast: Forecast
    replica: Replica
    alone: Capacity
    fleet: Capacity
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Of one replica among others, or alone if that is less."""
        return min(self.fleet.rate, self.alone.rate)

    def needed(self, rate: float, capacity: float | None = None) -> int:
        """Replicas for a mean rate with its bursts, and nothing to spare."""
        wanted = rate * self.forecast.burst / (capacity or self.rate)
        return max(self.forecast.fleet.least, ceil(wanted - 1e-9))


def plan(forecast: Forecast, replica: Replica, prices: Prices) -> dict[str, Any]:
    """The whole plan.

    Raises:
        UsageError: a price is missing, or not even one request at a time keeps the objectives.
    """
    fleet = forecast.fleet
    if fleet.gpu not in prices.gpus or fleet.api not in prices.apis:
        raise UsageError(f"the table of prices has no {fleet.gpu!r} or no {fleet.api!r}")
    known = _known(forecast, replica)
    hours = [_hour(known, hour) for hour in range(HOURS)]
    sizes = _sizes(known, hours)
    costs = _costs(known, hours, prices)
    rows = _uncertain(known)
    least, most = (int(sizes[side]["value"]) for side in ("least", "most"))
    span = Size(
        least, most, known.fleet.kept.ongoing, engine_seconds(known.alone, replica, forecast)
    )
    return {
        "model": {"name": replica.name, "origin": replica.origin, "sources": replica.sources},
        "warnings": list(_warnings(replica)),
        "slo": forecast.slo,
        "capacity": _capacity(known),
        "hours": hours,
        "fleet": sizes,
        "check": _check(known, int(sizes["serving_at_peak"]["value"])),
        **costs,
        "sensitivity": _sensitivity(known),
        "uncertainty": rows,
        "measure_next": _RUNS[rows[0]["cost"]] if rows else None,
        "emitted": configuration(span, replica, forecast, known.alone.rate),
    }


def _warnings(replica: Replica) -> Iterator[str]:
    """Why the model may be no good."""
    if replica.origin == "predicted":
        yield "the model is a prediction: measure a replica and fit it before you buy"
    own = {name: error for name, error in replica.fit.items() if name.endswith("_median_error")}
    poor = [name for name, error in own.items() if error > _POOR]
    if poor:
        yield f"the model explains the very runs it was fitted to badly: {', '.join(poor)}"
    held = [abs(error) for name, error in replica.fit.items() if " all " in name]
    if not held and replica.origin != "predicted":
        yield "the model was held against no run it had not seen"
    elif held and max(held) > _POOR:
        yield f"the model was off by up to {max(held):.0%} on runs it had not seen"


def _known(forecast: Forecast, replica: Replica) -> _Known:
    alone = capacity(replica, forecast)
    if not alone.rate:
        missed = "; ".join(alone.missed.missed)
        raise UsageError(f"not even one request at a time keeps the objectives: {missed}")
    fleet = capacity(replica, forecast, _FLEET, alone.rate, 1.15)
    low, high = interval(replica, forecast, _DRAWS, alone.rate)
    return _Known(forecast, replica, alone, fleet, min(low, alone.rate), max(high, alone.rate))


def _capacity(known: _Known) -> dict[str, Any]:
    missed = known.fleet.missed
    return {
        "requests_per_second": figure(known.rate, "simulated", known.low, known.high),
        "interval": "of 8 models that fit about as well, without the least and the largest",
        "scaling_efficiency": figure(known.fleet.rate / known.alone.rate, "simulated"),
        "binding": missed.missed[0] if missed.missed else "",
        "also_missed": list(missed.missed[1:]),
        "bottleneck": bottleneck(missed, known.replica),
        "ongoing": figure(known.fleet.kept.ongoing, "simulated"),
        "busy": figure(known.fleet.kept.busy, "simulated"),
    }


def _hour(known: _Known, hour: int) -> dict[str, Any]:
    rate = known.forecast.total(hour)
    middle, most, least = (known.needed(rate, each) for each in (None, known.low, known.high))
    spare = known.forecast.fleet.spare
    return {
        "hour": hour,
        "rate": figure(rate, "assumed"),
        "replicas": figure(
            middle + spare, "interpolated", min(least, middle) + spare, max(most, middle) + spare
        ),
    }


def _sizes(known: _Known, hours: list[dict[str, Any]]) -> dict[str, Any]:
    fleet = known.forecast.fleet
    counts = [hour["replicas"] for hour in hours]
    top = max(counts, key=lambda each: each["value"])
    surge = ceil(fleet.surge * top["value"])
    # The steepest hour: replicas that become needed while one is still starting.
    rise = max(
        b["value"] - a["value"] for a, b in zip(counts, counts[1:] + counts[:1], strict=True)
    )
    return {
        "peak": top,
        "serving_at_peak": figure(top["value"] - fleet.spare, "interpolated"),
        "spare": figure(fleet.spare, "assumed"),
        "surge": figure(surge, "interpolated"),
        "during_an_update": figure(top["value"] + surge, "interpolated"),
        "least": figure(min(each["value"] for each in counts), "interpolated"),
        "most": figure(max(each["high"] for each in counts) + surge, "interpolated"),
        "cold_start_s": figure(known.replica.cold_start, "assumed"),
        "needed_while_one_starts": figure(
            ceil(max(0.0, rise) * known.replica.cold_start / 3600), "interpolated"
        ),
    }


def _check(known: _Known, replicas: int) -> dict[str, Any]:
    """The peak, simulated with the planned replicas, or with some of them at the same rate each."""
    forecast = known.forecast
    each = forecast.total(forecast.peak) * forecast.burst / replicas
    count = min(replicas, _CHECKED)
    spare = ceil(forecast.fleet.spare * count / replicas)  # the same share of them
    whole = probe(known.replica, forecast, each, count)
    broken = probe(known.replica, forecast, each * count / (count + spare), count + spare, spare)
    objectives = parse(forecast.slo)
    return {
        "replicas": count,
        "at_peak": {"met": whole.kept, "missed": list(whole.missed)},
        # Requests that were at a replica when it died are errors, whatever is spare.
        "with_spare_lost": {"met": broken.kept, "missed": list(broken.missed)},
        "lost": figure(
            sum(bool(r.error) for r in broken.records) / len(broken.records), "simulated"
        ),
        "seconds": broken.records[-1].intended - broken.records[0].intended,
        "ttft_p95_ms": figure(figures(whole.records, objectives)["ttft_ms"]["p95"], "simulated"),
    }


def _costs(known: _Known, hours: list[dict[str, Any]], prices: Prices) -> dict[str, Any]:
    fleet = known.forecast.fleet
    gpu, api = prices.gpus[fleet.gpu], prices.apis[fleet.api]
    hour = gpu.hour(fleet.commitment) * fleet.gpus_per_replica
    day = {side: sum(each["replicas"][side] for each in hours) for side in ("value", "low", "high")}
    month = {side: hour * count * MONTH / HOURS for side, count in day.items()}
    peak = max(each["replicas"]["value"] for each in hours)
    used = _monthly(known)
    engine = marginal(known.alone, known.replica, known.forecast)
    busy = sum(engine[name] * getattr(each, name) for each in used.values() for name in CLASSES)
    provisioned = day["value"] * MONTH / HOURS * 3600
    full = provisioned / busy if busy else 0.0  # idleness and headroom are everybody's
    whole = Tokens(*(sum(getattr(t, n) for t in used.values()) for n in Tokens.__slots__))
    hosted = money.bill(whole, api, fleet.image_tokens)
    return {
        "cost": {
            "gpu": {"name": fleet.gpu, "commitment": fleet.commitment, **money.dated(gpu)},
            "replica_hour": figure(hour, "assumed"),
            "peak_hour": figure(hour * peak, "interpolated"),
            "month_following_the_day": figure(
                month["value"], "interpolated", month["low"], month["high"]
            ),
            "month_at_peak_size": figure(hour * peak * MONTH, "interpolated"),
            "utilisation": figure(1 / full if full else 0.0, "interpolated"),
            "per_million": {
                name: {
                    "marginal": figure(1e6 * engine[name] * hour / 3600, "simulated"),
                    "full": figure(1e6 * engine[name] * hour / 3600 * full, "interpolated"),
                }
                for name in CLASSES
            },
        },
        "hosted": {
            "name": fleet.api,
            **money.dated(api),
            "month": figure(hosted, "assumed"),
            "break_even": _break_even(known, hosted, hour),
        },
        "tenants": [
            _tenant(
                name, each, engine, hour / 3600 * full, money.bill(each, api, fleet.image_tokens)
            )
            for name, each in used.items()
        ],
    }


def _tenant(
    name: str, used: Tokens, engine: Mapping[str, float], second: float, hosted: float
) -> dict[str, Any]:
    spent = second * sum(engine[each] * getattr(used, each) for each in CLASSES)
    return {
        "name": name,
        "requests_a_month": figure(used.requests, "assumed"),
        "tokens_a_month": {each: figure(getattr(used, each), "assumed") for each in CLASSES},
        "month": figure(spent, "interpolated"),
        "hosted_month": figure(hosted, "assumed"),
    }


def _monthly(known: _Known) -> dict[str, Tokens]:
    """What each tenant uses in a month, by the means of what was simulated."""
    forecast = known.forecast
    sample = money.tokens(
        known.alone.kept.records, tiles_of(forecast, known.replica.limits.tile_pixels)
    )
    days = MONTH / HOURS
    found = {}
    for tenant in forecast.tenants:
        openings = forecast.growth * days * 3600 * sum(map(tenant.at, range(HOURS)))
        requests = openings * _turns(tenant)
        if own := sample.get(tenant.name):
            found[tenant.name] = own.scaled(requests / own.requests)
    return found


def _turns(tenant: Tenant) -> float:
    """Requests of one conversation, in the mean."""
    rng, turns = random.Random(0), tenant.workload().turns
    return sum(turns.draw_count(rng, least=1) for _ in range(1000)) / 1000


def _break_even(known: _Known, hosted: float, hour: float) -> dict[str, Any]:
    """How many times the forecast's load makes the replicas as cheap as the hosted API."""
    forecast = known.forecast
    if not hosted:
        return {"times_the_load": None}
    for step in range(-40, 81):
        times = 1.1**step
        counts = [
            known.needed(times * forecast.total(h)) + forecast.fleet.spare for h in range(HOURS)
        ]
        if hour * sum(counts) * MONTH / HOURS <= times * hosted:
            return {"times_the_load": figure(times, "interpolated")}
    return {"times_the_load": None}


def _sensitivity(known: _Known) -> list[dict[str, Any]]:
    """The peak's replicas of other forecasts."""
    peak, spare = known.forecast.total(known.forecast.peak), known.forecast.fleet.spare
    rows = []
    for what, other in variants(known.forecast).items():
        rate = capacity(known.replica, other, 1, known.alone.rate, 1.2).rate
        ratio = rate / known.alone.rate
        rows.append(
            {
                "what": what,
                "capacity_ratio": figure(ratio, "simulated"),
                "replicas_at_peak": figure(
                    known.needed(peak, known.rate * ratio) + spare, "interpolated"
                )
                if rate
                else None,
            }
        )
    return rows


def _uncertain(known: _Known) -> list[dict[str, Any]]:
    """What one standard error of each cost does to the capacity; the worst first."""
    rows = []
    for name, error in known.replica.errors.items():
        value = getattr(known.replica.costs, name) * exp(min(error, 1.0))
        costs = msgspec.structs.replace(known.replica.costs, **{name: value})
        worse = msgspec.structs.replace(known.replica, costs=costs)
        rate = capacity(worse, known.forecast, 1, known.alone.rate, 1.1).rate
        rows.append(
            {
                "cost": name,
                "standard_error": figure(
                    error, "measured" if known.replica.origin == "measured" else "assumed"
                ),
                "capacity_lost": figure(max(0.0, 1 - rate / known.alone.rate), "simulated"),
            }
        )
    return sorted(rows, key=lambda row: -row["capacity_lost"]["value"])
