"""Whose work fills a replica at its capacity: engine seconds for tokens, tiles and tenants."""

from __future__ import annotations

from loadtest.planner import money
from loadtest.planner.capacity import Capacity
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Replica
from loadtest.planner.money import Tokens
from loadtest.planner.tiles import tiles
from loadtest.scenario import size
from serving import scaling


def tiles_of(forecast: Forecast, pixels: int) -> dict[str, float]:
    """Of a request of each tenant, in the mean."""
    found = {}
    for tenant in forecast.tenants:
        cuts = [tiles(size(each), pixels) for each in tenant.sizes] or [0]
        number = float(tenant.images) if tenant.images.isdigit() else 1.0
        found[tenant.name] = number * sum(cuts) / len(cuts)
    return found


def marginal(alone: Capacity, replica: Replica, forecast: Forecast) -> dict[str, float]:
    """Seconds of an engine for one more token of each class, at the capacity."""
    kept = alone.kept
    # The work is of the whole simulation, the records without its beginning.
    own = tiles_of(forecast, replica.limits.tile_pixels)
    sample = money.tokens(kept.records, own).values()
    whole = Tokens(*(sum(getattr(t, n) for t in sample) for n in Tokens.__slots__))
    prefilled = kept.work.prefill / whole.input if whole.input else 1.0
    overlap = sum(
        (r.text_tokens - r.cached_text_tokens) * r.cached_text_tokens for r in kept.records
    )
    used = whole.scaled(prefilled)
    return money.marginal(kept.work, replica.costs, used, overlap * prefilled)


def engine_seconds(alone: Capacity, replica: Replica, forecast: Forecast) -> scaling.Costs:
    """What the autoscaler needs to know of work; bursts are what it leaves room for."""
    engine, busy = marginal(alone, replica, forecast), alone.kept.busy / forecast.burst
    found = (engine["input"], engine["output"], engine["image"], busy)
    return scaling.Costs(*(float(f"{each:.4g}") for each in found))
