"""The server's own metrics before and after a run: where the time to the first token went.

Names are vLLM's, as it writes them (`vllm:...`) or as Ray does (`ray_vllm_...`). Means only: of
histograms scraped twice the sums are exact, quantiles are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from loadtest.core import UsageError

_LINE = re.compile(r"^(?:ray_)?vllm[:_](\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+|NaN)", re.MULTILINE)
_PARTS = {
    "queue": "request_queue_time_seconds",
    "vision": "mm_encoder_time_seconds",
    "prefill": "request_prefill_time_seconds",
}
_TTFT = "time_to_first_token_seconds"

Totals = Mapping[str, float]


async def scrape(url: str) -> Totals:
    """The totals of all of vLLM's counters, over all their labels.

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

    `network_and_proxy` is what the client waited beyond the engine's own TTFT, `other` what the
    engine spent on it besides its named parts.
    """
    engine = _mean(before, after, _TTFT)
    parts = {name: _mean(before, after, metric) for name, metric in _PARTS.items()}
    known = sum(value for value in parts.values() if value is not None)
    outside = None if engine is None or service_ttft_ms is None else service_ttft_ms - engine
    queries = after.get("prefix_cache_queries_total", 0) - before.get(
        "prefix_cache_queries_total", 0
    )
    hits = after.get("prefix_cache_hits_total", 0) - before.get("prefix_cache_hits_total", 0)
    return {
        "service_ttft_ms": service_ttft_ms,
        "network_and_proxy_ms": _round(outside),
        **{f"{name}_ms": _round(value) for name, value in parts.items()},
        "other_ms": _round(None if engine is None else engine - known),
        "engine_ttft_ms": _round(engine),
        "prefix_cache_hit_rate": round(hits / queries, 4) if queries else None,
    }


def _mean(before: Totals, after: Totals, name: str) -> float | None:
    count = after.get(f"{name}_count", 0) - before.get(f"{name}_count", 0)
    total = after.get(f"{name}_sum", 0) - before.get(f"{name}_sum", 0)
    return 1e3 * total / count if count > 0 else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
