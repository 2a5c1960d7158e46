"""What the planned replicas cost: by the month, by the token, by the tenant; and elsewhere."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from loadtest.planner import money
from loadtest.planner.basis import Basis
from loadtest.planner.figure import figure
from loadtest.planner.forecast import HOURS, Tenant
from loadtest.planner.money import CLASSES, MONTH, Prices, Tokens
from loadtest.planner.shares import marginal, tiles_of


def bill(known: Basis, hours: list[dict[str, Any]], prices: Prices) -> dict[str, Any]:
    """Parts `cost`, `hosted` and `tenants` of the plan."""
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


def _monthly(known: Basis) -> dict[str, Tokens]:
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


def _break_even(known: Basis, hosted: float, hour: float) -> dict[str, Any]:
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
