"""Other forecasts, to see what the answer hangs on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from loadtest.distributions import Distribution
from loadtest.expressions import parse as parsed
from loadtest.planner.forecast import Forecast, Tenant
from loadtest.slo import LATENCIES, parse

_LENGTHS = {"output": "answers", "prompt": "prompts"}


def variants(forecast: Forecast) -> dict[str, Forecast]:
    """By what is different in them."""
    longer = {f"{what}_tokens": f"{word} 25% longer" for what, word in _LENGTHS.items()}
    found = {text: _each(forecast, partial(_stretched, name)) for name, text in longer.items()}
    tighter = _tighter(forecast.slo, 0.75)
    found["latency limits 25% tighter"] = forecast.model_copy(update={"slo": tighter})
    if any(tenant.prefixes for tenant in forecast.tenants):
        found["no prefix is ever shared"] = _each(forecast, _unshared)
    return found


def _each(forecast: Forecast, change: Callable[[Tenant], dict[str, Any]]) -> Forecast:
    tenants = tuple(tenant.model_copy(update=change(tenant)) for tenant in forecast.tenants)
    return forecast.model_copy(update={"tenants": tenants})


def _stretched(name: str, tenant: Tenant) -> dict[str, Any]:
    return {name: _longer(getattr(tenant, name), 1.25)}


def _longer(text: str, factor: float) -> str:
    """A distribution of lengths stretched by `factor`."""
    call = parsed(text)
    shape = call.numbers[1:] if call.name == "lognormal" else ()
    stretched = call.numbers[: len(call.numbers) - len(shape)]
    numbers = ", ".join(f"{each:g}" for each in (*(factor * n for n in stretched), *shape))
    found = f"{call.name}({numbers})" if call.name else numbers
    Distribution.parse(found)
    return found


def _tighter(text: str, factor: float) -> str:
    return ", ".join(
        f"{each.quantity} {each.statistic} {'<' if each.below else '>'} {each.limit * factor:g}s"
        if each.quantity in LATENCIES
        else each.text
        for each in parse(text)
    )


def _unshared(tenant: Tenant) -> dict[str, Any]:
    pool = tenant.prefixes
    return {"prefixes": pool.model_copy(update={"share": 0.0}) if pool else None}
