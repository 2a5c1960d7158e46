"""What is going on, while it is going on: for a terminal, a web page, Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.exposition import exposition
from loadtest.going import Going
from loadtest.series import Tally, total

_RECENT = 5.0  # seconds that "now" means
_EVERY = 0.5
_PUSHED = 5.0


def snapshot(run: Going) -> dict[str, Any]:
    """The last seconds and the whole, of all and of each tenant."""
    series, elapsed = run.series, max(1e-9, run.elapsed)
    first = max(0, int((elapsed - _RECENT) / series.width))
    span = max(series.width, elapsed - first * series.width)
    tokens = sum(series.tokens[first:])
    tenants = {
        name: {"now": _figures(total(tallies[first:])), "all": _figures(total(tallies))}
        for name, tallies in series.blocks.items()
    }
    return {
        "elapsed": round(elapsed, 1),
        "in_flight": run.in_flight,
        "tokens_per_second": round(tokens / span, 1),
        "tenants": tenants,
        "now": _figures(total(t for each in series.blocks.values() for t in each[first:])),
    }


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "errors": tally.failed,
        "tokens": tally.output_tokens,
        "ttft_p95": round(1e3 * tally.ttft.quantile(0.95), 1),
        "itl_p95": round(1e3 * tally.itl.quantile(0.95), 1),
    }


async def on_terminal(run: Callable[[], Going | None]) -> None:
    """Draw until cancelled."""
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            if going := run():
                live.update(_table(snapshot(going)), refresh=True)
            await asyncio.sleep(_EVERY)


def _table(shown: dict[str, Any]) -> Table:
    table = Table(
        title=f"{shown['elapsed']:.0f} s, {shown['in_flight']} in flight, "
        f"{shown['tokens_per_second']:.0f} tokens/s"
    )
    for column in ("tenant", "requests", "errors", "tokens", "TTFT p95 ms", "ITL p95 ms"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    for name, each in shown["tenants"].items():
        now, whole = each["now"], each["all"]
        cells = (whole["requests"], whole["errors"], whole["tokens"])
        table.add_row(name, *map(str, (*cells, now["ttft_p95"], now["itl_p95"])))
    return table


async def to_gateway(run: Callable[[], Going | None], url: str) -> None:
    """Push to a Prometheus Pushgateway until cancelled, and once more then.

    `url` is that of the group: `http://host:9091/metrics/job/loadtest`. A gateway that does not
    answer is no reason to end a run. `run` tells which is going, if any.
    """
    async with httpx.AsyncClient(timeout=2) as client:
        while True:
            try:
                await asyncio.sleep(_PUSHED)
            finally:
                with suppress(httpx.HTTPError):
                    await client.put(url, content=exposition(run()))
