"""Runs as parts of an answer: probes of `search`, loads of `sweep`, blocks of `compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from loadtest import outcome
from loadtest.core import Record, RunError
from loadtest.going import Controls
from loadtest.scenario import Load, Scenario
from loadtest.search import Judge, Probe
from loadtest.slo import Objective, parse

_WARM_UP = 3.0  # seconds
_TRIES = 3  # of a block
Pair = tuple[list[Record], list[Record]]  # of A and of B


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


async def take_turns(
    sides: tuple[Scenario, Scenario], blocks: int, say: Callable[[str], None]
) -> list[Pair]:
    """Runs of A and B in turn, which of them is first too; both of a block have one schedule.

    Before them each runs once for nothing, so that neither is cold. A block with an invalid run
    is done again.

    Raises:
        RunError: a block was invalid however often it was tried.
    """
    for side in sides:
        short = min(_WARM_UP, side.duration or _WARM_UP)
        await outcome.conduct(side.model_copy(update={"duration": short}), calibration=0)
    return [await _block(sides, block, say) for block in range(blocks)]


async def _block(sides: tuple[Scenario, Scenario], block: int, say: Callable[[str], None]) -> Pair:
    order = (0, 1) if block % 2 == 0 else (1, 0)
    problem = ""
    for _ in range(_TRIES):
        found: Pair = ([], [])
        problem = ""
        for index in order:
            side = sides[index].model_copy(update={"seed": sides[index].seed + block})
            summary, _ = await outcome.conduct(side, [found[index].append], calibration=0)
            say(_turn(block, index, summary))
            if summary["verdict"] == "INVALID":
                problem = f"{'AB'[index]} in block {block + 1}: {summary['reasons'][0]}"
                break
        if not problem:
            return found
    raise RunError(problem)


def _turn(block: int, side: int, summary: dict[str, Any]) -> str:
    p50 = summary["ttft_ms"]["p50"] or summary["e2e_ms"]["p50"] or 0.0
    return (
        f"block {block + 1}, {'AB'[side]}: {summary['requests']} requests, "
        f"{summary['errors']} errors, p50 {p50:.1f} ms, {summary['verdict']}"
    )
