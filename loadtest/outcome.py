"""A run from beginning to end: do it, calibrate, judge; the summary and the exit status."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from loadtest.calibrate import calibrate
from loadtest.core import RunError
from loadtest.going import Controls, Share
from loadtest.instrument import Measured, loop_name, machine
from loadtest.runner import Run
from loadtest.scenario import Scenario
from loadtest.series import total
from loadtest.slo import Objective, parse
from loadtest.summary import quantiles, summarize
from loadtest.verdict import Verdict, judge
from loadtest.wire import Observer

DEFINITIONS = "loadtest-1"  # of docs/loadtest.md; changes with the meaning of a figure


async def conduct(
    scenario: Scenario,
    observers: Sequence[Observer] = (),
    controls: Controls | None = None,
    calibration: float = 1.0,
) -> tuple[dict[str, Any], Measured]:
    """Run in this process; `calibration` are its seconds, 0 for none."""
    run = Run(scenario, Share(new_run()), list(observers), controls)
    return await measure(scenario, run.execute, calibration)


async def measure(
    scenario: Scenario, run: Callable[[], Awaitable[Measured]], calibration: float
) -> tuple[dict[str, Any], Measured]:
    """A run, however it is done, between two looks at the server's metrics.

    Raises:
        UsageError: the metrics cannot be read.
    """
    url = scenario.target.metrics
    if url is None:
        measured = await run()
        return await conclude(scenario, measured, calibration), measured
    from loadtest.scrape import scrape, split  # httpx is slow to import

    before = await scrape(url)
    measured = await run()
    after = await scrape(url)
    summary = await conclude(scenario, measured, calibration)
    ttft = summary["service_ttft_ms"]["mean"]
    return {**summary, "server": split(before, after, ttft)}, measured


async def conclude(scenario: Scenario, measured: Measured, calibration: float) -> dict[str, Any]:
    """The summary of what was measured, with the instrument's error and the verdict."""
    found = None
    if calibration and not measured.stopped:
        try:
            found = await calibrate(scenario, measured, calibration)
        except (RunError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            found = {"failed": str(error) or type(error).__name__}
    return complete(scenario, measured, _instrument(scenario, measured, found))


def complete(scenario: Scenario, measured: Measured, instrument: dict[str, Any]) -> dict[str, Any]:
    """The whole summary."""
    summary: dict[str, Any] = {
        "definitions": DEFINITIONS,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scenario": scenario.model_dump(mode="json", exclude_defaults=True),
        **summarize(measured),
        "instrument": instrument,
    }
    summary["slo"] = _objectives(scenario, summary)
    verdict, reasons = judge(summary)
    return {**summary, "verdict": verdict.name, "reasons": reasons}


def exit_code(summary: dict[str, Any]) -> int:
    """0 valid, 1 an objective was missed, 3 invalid."""
    if summary["verdict"] == Verdict.INVALID.name:
        return 3
    return 0 if all(each["met"] for each in summary["slo"]) else 1


def new_run() -> str:
    """A name that makes this run's prompts unlike any other's."""
    return secrets.token_hex(4)


def _objectives(scenario: Scenario, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the run, and of each tenant that has its own."""
    found = [_checked(each, summary, None) for each in parse(scenario.slo)] if scenario.slo else []
    for tenant in scenario.tenants:
        part = summary["tenants"].get(tenant.name)
        if tenant.slo and part:
            found += [_checked(each, part, tenant.name) for each in parse(tenant.slo)]
    return found


def _checked(each: Objective, summary: dict[str, Any], tenant: str | None) -> dict[str, Any]:
    return {
        "objective": each.text,
        "tenant": tenant,
        "value": each.value(summary),
        "limit": each.limit,
        "unit": each.unit,
        "met": each.met(summary),
    }


def _instrument(
    scenario: Scenario, measured: Measured, calibration: dict[str, Any] | None
) -> dict[str, Any]:
    whole = total(measured.series.timeline())
    tokens, opened = whole.output_tokens, whole.connect.count
    return {
        "event_loop": loop_name(),
        "transport": scenario.target.transport,
        "workers": measured.workers,
        "lost_workers": measured.lost,
        "replaced_workers": measured.replaced,
        "event_loop_lag_ms": quantiles(measured.lag),
        "stamp_to_parse_ms": quantiles(measured.parsing),
        "connections_opened": measured.opened,
        "connection_reuse": round(1 - opened / (whole.e2e.count or 1), 4),
        "most_in_flight": measured.most_in_flight,
        "cpu_seconds": round(measured.cpu, 3),
        "cpu_of_busiest_process": round(measured.busiest, 4),
        "cpu_ms_per_1000_tokens": round(1e6 * measured.cpu / tokens, 2) if tokens else None,
        "machine": machine(),
        "calibration": calibration,
    }
