"""From a forecast and a model of one replica to replicas, dollars and configuration.

The answer is plain data (it is the JSON); every figure of it says how it is known (`figure`).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from loadtest.core import UsageError
from loadtest.planner import profiles
from loadtest.planner.basis import Basis, basis
from loadtest.planner.bill import bill
from loadtest.planner.capacity import bottleneck, figures, probe
from loadtest.planner.doubt import RUNS, sensitivity, uncertainty
from loadtest.planner.emit import Size, configuration
from loadtest.planner.figure import figure
from loadtest.planner.forecast import HOURS, Forecast
from loadtest.planner.model import Replica
from loadtest.planner.money import Prices
from loadtest.planner.shares import engine_seconds
from loadtest.slo import parse

_POOR = 0.2  # relative error from which a model is warned of
_CHECKED = 8  # most replicas in the simulation of the peak


def plan(forecast: Forecast, replica: Replica, prices: Prices) -> dict[str, Any]:
    """The whole plan.

    Raises:
        UsageError: a price is missing, or not even one request at a time keeps the objectives.
    """
    fleet = forecast.fleet
    if fleet.gpu not in prices.gpus or fleet.api not in prices.apis:
        raise UsageError(f"the table of prices has no {fleet.gpu!r} or no {fleet.api!r}")
    known = basis(forecast, replica)
    hours = [_hour(known, hour) for hour in range(HOURS)]
    sizes = _sizes(known, hours)
    costs = bill(known, hours, prices)
    rows = uncertainty(known)
    least, most = (int(sizes[side]["value"]) for side in ("least", "most"))
    span = Size(
        least, most, known.fleet.kept.ongoing, engine_seconds(known.alone, replica, forecast)
    )
    return {
        "model": {"name": replica.name, "origin": replica.origin, "sources": replica.sources},
        "warnings": [*_warnings(replica), *_mispriced(replica, fleet.gpu)],
        "slo": forecast.slo,
        "capacity": _capacity(known),
        "hours": hours,
        "fleet": sizes,
        "check": _check(known, int(sizes["serving_at_peak"]["value"])),
        **costs,
        "sensitivity": sensitivity(known),
        "uncertainty": rows,
        "measure_next": RUNS[rows[0]["cost"]] if rows else None,
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
    drift = replica.fit.get("machine_drift", 0.0)
    if drift > _POOR:
        yield f"the machine was {drift:.0%} slower in one of the fitted runs than in another"
    held = [abs(error) for name, error in replica.fit.items() if " all " in name]
    if not held and replica.origin != "predicted":
        yield "the model was held against no run it had not seen"
    elif held and max(held) > _POOR:
        yield f"the model was off by up to {max(held):.0%} on runs it had not seen"


def _mispriced(replica: Replica, gpu: str) -> Iterator[str]:
    own = profiles.gpu(replica.name)
    if own and own != gpu:
        yield f"the model is of {own}, the price of {gpu}: say --gpu {own}, or gpu in the forecast"


def _capacity(known: Basis) -> dict[str, Any]:
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


def _hour(known: Basis, hour: int) -> dict[str, Any]:
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


def _sizes(known: Basis, hours: list[dict[str, Any]]) -> dict[str, Any]:
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


def _check(known: Basis, replicas: int) -> dict[str, Any]:
    """The peak, simulated with the planned replicas, or with some of them at the same rate each."""
    forecast = known.forecast
    each = forecast.total(forecast.peak) * forecast.burst / replicas
    count = min(replicas, _CHECKED)
    spare = ceil(forecast.fleet.spare * count / replicas)  # the same share of them
    whole = probe(known.replica, forecast, each, count)
    broken = probe(known.replica, forecast, each * count / (count + spare), count + spare, spare)
    surge = ceil(forecast.fleet.surge * count)
    renewed = probe(known.replica, forecast, each, count, surge=surge)
    objectives = parse(forecast.slo)
    return {
        "replicas": count,
        "at_peak": {"met": whole.kept, "missed": list(whole.missed)},
        "during_an_update": {"met": renewed.kept, "missed": list(renewed.missed)},
        # Requests that were at a replica when it died are errors, whatever is spare.
        "with_spare_lost": {"met": broken.kept, "missed": list(broken.missed)},
        "lost": figure(
            sum(bool(r.error) for r in broken.records) / len(broken.records), "simulated"
        ),
        "seconds": broken.records[-1].intended - broken.records[0].intended,
        "ttft_p95_ms": figure(figures(whole.records, objectives)["ttft_ms"]["p95"], "simulated"),
    }
