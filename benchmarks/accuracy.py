"""Predicted against measured: the shipped model on CPU, held-out loads, another mix, two replicas.

    python -m benchmarks.accuracy [--quick] [--keep FOLDER]
    python -m benchmarks.accuracy --kept FOLDER

The second fits and judges what the first has kept, and needs no engine. The first takes about ten
minutes on a machine that does nothing else; figures of a busy one say nothing. `runs` says what is
run. Of it two loads of one replica are fitted, and of two replicas by how much they slow each other
down; all else is held out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from benchmarks.processes import interrupt_on_sigterm
from benchmarks.runs import BLOCKS, TILES, Block, kept, measure, serving
from loadtest.core import Record
from loadtest.planner.check import check
from loadtest.planner.fit import fit
from loadtest.planner.model import Limits, Replica
from loadtest.planner.requests import Load, of_records
from loadtest.planner.simulate import Setting, Simulation
from loadtest.planner.steps import Steps
from loadtest.planner.trial import crowding, noticing

NAME = "accuracy"
# Of serving/catalog.yaml and the checkpoint.
LIMITS = Limits(seqs=32, budget=2048, beside=256, tile_pixels=80)
_APART = 1000.0  # seconds between runs, when they are put together
_TIMES = ("intended", "sent", "first_byte", "first_token", "end")
_TARGETS = {"capacity": 0.10, "ttft_p95": 0.15}
_UP_TO = 0.8  # of the SLO capacity, up to which the second is meant
_SHOWN = ("service_ttft p50", "service_ttft p95", "tpot mean", "service_e2e p95")


def together(runs: list[list[Record]]) -> list[Record]:
    """One run of several, far apart from each other."""
    return [_later(each, _APART * i) for i, run in enumerate(runs) for each in run]


def _later(record: Record, by: float) -> Record:
    moved = {name: getattr(record, name) for name in _TIMES}
    return msgspec.structs.replace(
        record, **{name: at + by for name, at in moved.items() if at is not None}
    )


def judged(found: dict[Block, list[list[Record]]]) -> dict[str, Any]:
    """The fit, and of each block what was measured beside what is predicted."""
    fitted = [
        run for block, runs in found.items() if block.fitted and block.replicas == 1 for run in runs
    ]
    alone = fit(fitted, TILES, "shipped, one thread", LIMITS, 60.0)
    alone = noticing(alone, fitted, TILES)
    (beside,) = (runs for block, runs in found.items() if block.fitted and block.replicas == 2)
    replica = msgspec.structs.replace(alone, crowding=crowding(alone, together(beside), TILES, 2))
    rows = [row for block, runs in found.items() for row in _rows(replica, block, runs)]
    return {
        "fit": replica.fit,
        "costs": msgspec.to_builtins(replica.costs),
        "crowding": replica.crowding,
        "step_of_one_row_ms": {
            block.name: [round(1e3 * (Steps(run, TILES).pace() or 0.0), 2) for run in runs]
            for block, runs in found.items()
            if block.replicas == 1
        },
        "rows": rows,
        "uncrowded": [
            row
            for block, runs in found.items()
            if block.replicas == 2
            for row in _rows(alone, block, runs)
        ],
        "capacity": _capacity(rows),
    }


def _rows(replica: Replica, block: Block, runs: list[list[Record]]) -> Iterator[dict[str, Any]]:
    records = together(runs)
    busy = round(_busy(replica, block, runs), 3)
    for each in check(replica, records, TILES, block.replicas):
        yield {
            "block": block.name,
            "load": block.load,
            "fitted": block.fitted,
            "busy": busy,
            "answered": sum(not r.error for r in records),
            "failed": sum(bool(r.error) for r in records),
            **each,
        }


def _busy(replica: Replica, block: Block, runs: list[list[Record]]) -> float:
    """The share of the engines' time that they are at work, simulated: the load as they feel it."""
    setting = Setting(block.replicas, together=block.replicas)
    busy = span = 0.0
    for run in filter(None, runs):
        simulation = Simulation(replica, Load(of_records(run, TILES)), setting)
        span += block.replicas * max(record.end for record in simulation.records())
        busy += simulation.busy
    return busy / max(span, 1e-9)


def _capacity(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The share of the closed loop's rate at which the p95 of the time to the first token passes a
    limit, by both curves; the limit is what was measured between the two highest loads."""
    usual = {block.name for block in BLOCKS if (block.mix, block.replicas) == ("usual", 1)}
    curve = sorted(
        (row["load"], row["measured_ms"], row["predicted_ms"])
        for row in rows
        if row["requests"] == "all"
        and row["quantity"] == "service_ttft p95"
        and row["block"] in usual
    )
    limit = (curve[-2][1] * curve[-1][1]) ** 0.5
    ours = _crossing([(x, p) for x, _, p in curve], limit)
    theirs = _crossing([(x, m) for x, m, _ in curve], limit)
    return {
        "limit_ms": limit,
        "measured_load": theirs,
        "predicted_load": ours,
        "error": ours / theirs - 1 if ours and theirs else None,
    }


def _crossing(curve: list[tuple[float, float]], limit: float) -> float | None:
    """Where the curve first passes the limit."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y0 <= limit <= y1:
            return x0 + (x1 - x0) * (limit - y0) / (y1 - y0)
    return None


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each block, all its requests; measured / predicted in ms."""
    by_block: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["requests"] == "all":
            by_block.setdefault(row["block"], {})[row["quantity"]] = row
    return [_line(name, found, result["capacity"]) for name, found in by_block.items()]


def _line(
    name: str, found: dict[str, dict[str, Any]], capacity: dict[str, float | None]
) -> dict[str, str]:
    one = found[_SHOWN[0]]
    share = one["load"] / capacity["measured_load"] if capacity["measured_load"] else None
    meant = share is not None and share <= _UP_TO and not one["fitted"]
    return {
        "load": name + (", fitted" if one["fitted"] else ""),
        "requests": str(one["answered"]),
        "of the SLO capacity": f"{share:.0%}" if share else "",
        "engines busy": f"{one['busy']:.0%}",
        **{
            quantity.replace("service_", "").replace("tpot", "per token,"): _both(found[quantity])
            for quantity in _SHOWN
        },
        "target of TTFT p95": f"±{_TARGETS['ttft_p95']:.0%}" if meant else "",
    }


def _both(row: dict[str, Any]) -> str:
    if row["error"] is None:
        return ""
    return f"{row['measured_ms']:.4g} / {row['predicted_ms']:.4g}: {row['error']:+.0%}"


def remarks(result: dict[str, Any]) -> list[str]:
    """What has no place in the table."""
    capacity = result["capacity"]
    error = capacity["error"]
    found = [
        "SLO capacity, the load at which the p95 of the time to the first token passes "
        f"{capacity['limit_ms']:.0f} ms, measured / predicted in parts of what a closed loop gets: "
        f"{capacity['measured_load'] or 0:.1%} / {capacity['predicted_load'] or 0:.1%}: "
        f"{'not found' if error is None else f'{error:+.1%}'} (target ±{_TARGETS['capacity']:.0%})",
        f"a step takes {result['crowding']:.0%} longer while the other replica works; "
        f"the machine was up to {result['fit'].get('machine_drift', 0.0):.0%} slower in one of the "
        f"fitted runs than in another",
        f"a closed loop gets {', '.join(f'{each:.1f}' for each in result['closed_loop'])} "
        "requests/s of one replica, of two, and of one with more pictures",
    ]
    if result["unsound"]:
        blocks = Counter(result["unsound"]).items()
        often = ", ".join(
            f"{name} ({count} of {len(result['cores'][name])})" for name, count in blocks
        )
        found.append(f"runs in which the client was short of processor: {often}")
    return found


def main() -> None:
    """Measure, fit, compare, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="that it works, not what it says")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the records there")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="records that were kept")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.kept or given.keep
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        head, run = _kept(folder) if given.kept else _measured(given, folder)
        result = {**run, **judged(kept(folder))}
    report.finish(head, table(result), result, [], remarks(result))


def _kept(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    head, run = json.loads((folder / "run.json").read_text())
    return head, run


def _measured(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """From a stack that is started for it: the head of the result, and what was run."""
    rounds, seconds = (1, 6.0) if given.quick else (given.rounds, given.seconds)
    settings = {"rounds": rounds, "seconds": seconds}
    head = report.start(NAME, settings, given.quick, given.note)
    interrupt_on_sigterm()
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        run = measure(serving(stack, folder), rounds, seconds)
    run["minutes"] = round((time.monotonic() - began) / 60, 1)
    (folder / "run.json").write_text(json.dumps([head, run], indent=1) + "\n")
    return head, run


if __name__ == "__main__":
    main()
