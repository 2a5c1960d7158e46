"""Runs as probes: for `search`, which stops them early, and `sweep`, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest import outcome
from loadtest.runner import Controls
from loadtest.scenario import Load, Scenario
from loadtest.search import Judge, Probe
from loadtest.slo import Objective, parse


def at(scenario: Scenario, load: float) -> Scenario:
    """The scenario with another number of users, or another rate."""
    if scenario.load.concurrency is not None:
        changed: dict[str, Any] = {"concurrency": round(load)}
    else:
        changed = {"rate": f"{load:g}"}
    return scenario.model_copy(
        update={"load": Load.model_validate({**scenario.load.model_dump(), **changed})}
    )


async def probe(scenario: Scenario, load: float) -> Probe:
    """One probe of a search, for the scenario's duration at most."""
    objectives = parse(scenario.slo or "")
    controls = Controls()
    judge = Judge(objectives, (scenario.duration or 0.0) / 2, controls.stop.set)
    summary, measured = await outcome.conduct(at(scenario, load), [judge], controls, 0)
    met = judge.decided if judge.decided is not None else _met(objectives, summary)
    return Probe(
        load=load,
        met=met,
        decided="at the end" if judge.decided is None else "early",
        requests=summary["requests"],
        seconds=measured.wall,
        values={each.text: each.value(summary) for each in objectives},
        verdict=summary["verdict"],
    )


def _met(objectives: Sequence[Objective], summary: dict[str, Any]) -> bool:
    """An invalid run meets nothing: it did not offer the load."""
    return summary["verdict"] != "INVALID" and all(each.met(summary) for each in objectives)


async def sweep(scenario: Scenario, loads: Sequence[float]) -> list[dict[str, Any]]:
    """The summary of each load, in turn."""
    found = []
    for load in loads:
        summary, _ = await outcome.conduct(at(scenario, load), calibration=0)
        found.append({"load": load, **summary})
    return found
