"""The server's own metrics before and after a run: where the time to the first token went.

Names are vLLM's, as it writes them (`vllm:...`) or as Ray does (`ray_vllm_...`), and this service's
(`serving_...`). Means only: of histograms scraped twice the sums are exact, quantiles are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from loadtest.core import UsageError

_LINE = re.compile(
    r"^(?:(?:ray_)?vllm[:_]|(?=serving_))(\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+|NaN)", re.MULTILINE
)
_QUEUE = "request_queue_time_seconds"
_PREFILL = "request_prefill_time_seconds"
_TTFT = "time_to_first_token_seconds"
_GATEWAY_TTFT = "serving_time_to_first_token_seconds"
_ADMISSION = "serving_queue_seconds"
_VISION = "serving_vision_seconds"

Totals = Mapping[str, float]


async def scrape(url: str) -> Totals:
    """The totals of all counters, over all their labels.

    Raises:
        UsageError: the metrics cannot be read.
    """
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(url)
            answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UsageError(f"cannot read the metrics at {url}: {type(error).__name__}") from error
    return parse(answer.text)


def parse(text: str) -> Totals:
    """Sums by name, without labels. Pure."""
    totals: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def split(before: Totals, after: Totals, service_ttft_ms: float | None) -> dict[str, Any]:
    """Mean milliseconds of each part of TTFT between two scrapes; `None` what is not told.

    `network_and_proxy` is what the client waited beyond the engine's own TTFT; where the gateway
    tells its own too, `network` is what lies before it, `admission` the wait for a turn in it,
    `proxy` the rest of it. `vision` is the pictures' share of a request, whether it had any or not,
    and `prefill` what vLLM calls so without it. `other` is what the engine spent besides.
    """
    engine = _mean(before, after, _TTFT)
    gateway, admission = _mean(before, after, _GATEWAY_TTFT), _mean(before, after, _ADMISSION)
    queue, prefill = _mean(before, after, _QUEUE), _mean(before, after, _PREFILL)
    vision = _share(before, after, _VISION, _PREFILL)
    queries = _gain(before, after, "prefix_cache_queries_total")
    hits = _gain(before, after, "prefix_cache_hits_total")
    return {
        "service_ttft_ms": service_ttft_ms,
        "network_and_proxy_ms": _less(service_ttft_ms, engine),
        "network_ms": _less(service_ttft_ms, gateway),
        "admission_ms": _less(admission),
        "proxy_ms": _less(gateway, engine, admission or 0.0),
        "queue_ms": _less(queue),
        "vision_ms": _less(vision),
        "prefill_ms": _less(prefill, vision or 0.0),
        "other_ms": _less(engine, queue or 0.0, prefill or 0.0),
        "engine_ttft_ms": _less(engine),
        "prefix_cache_hit_rate": round(hits / queries, 4) if queries else None,
    }


def _less(whole: float | None, *parts: float | None) -> float | None:
    """What is left of it; `None` if any is not known."""
    known = [part for part in parts if part is not None]
    return None if whole is None or len(known) < len(parts) else round(whole - sum(known), 3)


def _gain(before: Totals, after: Totals, name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def _mean(before: Totals, after: Totals, name: str) -> float | None:
    return _share(before, after, name, name)


def _share(before: Totals, after: Totals, name: str, of: str) -> float | None:
    """Milliseconds of one for each of the other; `None` where either counted nothing."""
    count, other = (_gain(before, after, f"{each}_count") for each in (name, of))
    return 1e3 * _gain(before, after, f"{name}_sum") / other if count > 0 and other > 0 else None
