"""Predicted against measured: the shipped model on CPU, held-out loads, another mix, two replicas.

    python -m benchmarks.accuracy [--quick] [--keep FOLDER]
    python -m benchmarks.accuracy --kept FOLDER

The second fits and judges what the first has kept, and needs no engine. The first takes about
eleven minutes on a machine that does nothing else; figures of a busy one say nothing. One
stack of two replicas with a thread each runs throughout. What is fitted goes straight to one
replica's own port, as what is held out of one replica does; what is held out of two goes through
HAProxy. All take turns in short blocks, so that a machine whose speed drifts drifts under all of
them. Loads are shares of what a closed loop gets out of it just before.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.http_stack import part
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.report import machine
from loadtest.core import Record
from loadtest.planner.check import check, crowding
from loadtest.planner.fit import fit
from loadtest.planner.model import Limits, Replica
from loadtest.planner.requests import Load, of_records
from loadtest.planner.simulate import Setting, Simulation
from loadtest.planner.steps import Steps
from loadtest.records import read

ACCOUNT, TOKEN = "0" * 31 + "1", "accuracy"
LIMITS = Limits(
    seqs=32, budget=2048, beside=256, tile_pixels=80
)  # of serving/catalog.yaml and the checkpoint
TILES = {"vision": 4}
_LENGTHS = {"prompt_tokens": "lognormal(80, 0.6)", "output_tokens": "lognormal(24, 0.5)"}
_CHAT = {"name": "chat", **_LENGTHS}
_PICTURE = {"images": 1, "sizes": ["160x160"]}
_VISION = {"name": "vision", "prompt_tokens": 24, "output_tokens": 16, **_PICTURE}
_MIXES = {
    "usual": [{**_CHAT, "share": 4}, _VISION],
    "pictures": [_CHAT, _VISION],
}
_UNSOUND = 3  # exit status of `loadtest run`
_CLOSED = 10.0  # seconds of a closed loop
_APART = 1000.0  # seconds between blocks, when they are put together
_TIMES = ("intended", "sent", "first_byte", "first_token", "end")
_TARGETS = {"capacity": 0.10, "ttft_p95": 0.15}


@dataclass(frozen=True, slots=True)
class Block:
    """`load`: a share of what the replicas bear. What is fitted of two replicas is one number: how
    they slow each other down."""

    name: str
    load: float
    mix: str = "usual"
    replicas: int = 1
    fitted: bool = False


BLOCKS = (
    Block("25%", 0.25, fitted=True),
    Block("40%", 0.4),
    Block("55%", 0.55),
    Block("60%", 0.6, fitted=True),
    Block("80%", 0.8),
    Block("pictures, 40%", 0.4, "pictures"),
    Block("pictures, 55%", 0.55, "pictures"),
    Block("pictures, 80%", 0.8, "pictures"),
    Block("two, 40%", 0.4, replicas=2, fitted=True),
    Block("two, 55%", 0.55, replicas=2),
    Block("two, 80%", 0.8, replicas=2),
)


@dataclass(frozen=True, slots=True)
class Stack:
    """Ports by how many replicas are behind them."""

    server: Server
    ports: dict[int, int]
    folder: Path
    unsound: list[str] = field(default_factory=list)  # blocks whose client was too busy to measure
    # Used by each part of the service, of each run of a block.
    cores: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def run(self, block: Block, seed: int, seconds: float, **load: Any) -> Path:
        """What `loadtest run` saw: its file of records."""
        url = f"http://127.0.0.1:{self.ports[block.replicas]}/client/v4"
        scenario = {
            "target": {"url": url, "api": "workers-ai", "account": ACCOUNT, "token": TOKEN},
            "load": load,
            "duration": seconds,
            "tenants": _MIXES[block.mix],
            "seed": seed,
        }
        file, out = self.folder / "block.yaml", self.folder / f"{block.name} {seed}.jsonl"
        file.write_text(json.dumps(scenario))  # JSON is YAML
        command = [Path(sys.executable).with_name("loadtest"), "run", file, "--records", out]
        before, client = self.server.cpu(part), _client()
        done = subprocess.run(
            [*command, "--headless", "--calibration", "0"], capture_output=True, text=True
        )
        used = {**self.server.used_since(before, part), "client": _client() - client}
        shares = {name: round(spent / seconds, 3) for name, spent in used.items()}
        self.cores.setdefault(block.name, []).append(shares)
        if done.returncode == _UNSOUND:
            self.unsound.append(block.name)
        elif done.returncode:
            raise RuntimeError(done.stderr[-2000:] or done.stdout[-2000:])
        return out


def _client() -> float:
    """CPU seconds of the load generators that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def serving(stack: ExitStack, folder: Path) -> Stack:
    """The whole stack with two replicas, warm."""
    port, log = free_port(), folder / "serving.log"
    environment = {
        "PORT": str(port),
        "METRICS_PORT": str(free_port()),
        "ACCOUNT_ID": ACCOUNT,
        "API_TOKEN": TOKEN,
        "STATE_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
        "REPLICAS": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).with_name("serving")), "up"]
    server = stack.enter_context(Server(command, environment, log))
    server.wait(lambda: "ready after" in log.read_text(), 400)
    found = Stack(server, {2: port, 1: _replica_port()}, folder)
    for block in (BLOCKS[0], BLOCKS[-1]):
        found.run(block, 99, 8.0, concurrency=4)
    return found


def _replica_port() -> int:
    """On which one of the replicas answers by itself."""
    replicas = [
        each
        for each in psutil.Process().children(recursive=True)
        if "ServeReplica" in " ".join(each.cmdline())
    ]
    return min(
        each.laddr.port
        for each in replicas[0].net_connections()
        if each.status == psutil.CONN_LISTEN and 30000 <= each.laddr.port < 31000
    )


def borne(stack: Stack, block: Block, seconds: float) -> float:
    """Requests a second of a closed loop that keeps the replicas busy."""
    users = 12 * block.replicas
    records = read(stack.run(block, 77, seconds, concurrency=users))
    answered = [each for each in records if not each.error and each.end <= seconds]
    return len(answered) / seconds


def measure(stack: Stack, rounds: int, seconds: float) -> dict[str, Any]:
    """Blocks in turn, in every other round backwards; what their loads are shares of."""
    most = {n: borne(stack, Block(f"closed, {n}", 1.0, replicas=n), _CLOSED) for n in (1, 2)}
    pictures = borne(stack, Block("closed, pictures", 1.0, "pictures"), _CLOSED)
    print(f"a closed loop gets {most} requests/s, {pictures:.2f} with more pictures", flush=True)
    for turn in range(rounds):
        for block in BLOCKS[:: 1 - 2 * (turn % 2)]:
            whole = pictures if block.mix == "pictures" else most[block.replicas]
            stack.run(block, turn, seconds, rate=f"{block.load * whole:.4f}")
            time.sleep(1)
    return {
        "closed_loop": [most[1], most[2], pictures],
        "cores": stack.cores,
        "unsound": stack.unsound,
    }


def kept(folder: Path) -> dict[Block, list[list[Record]]]:
    """The runs of each block that `measure` has left in a folder."""
    files = {block: sorted(folder.glob(f"{block.name} ?.jsonl")) for block in BLOCKS}
    return {block: [list(read(file)) for file in found] for block, found in files.items()}


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
    (beside,) = (runs for block, runs in found.items() if block.fitted and block.replicas == 2)
    replica = msgspec.structs.replace(alone, crowding=crowding(alone, together(beside), TILES, 2))
    rows = [row for block, runs in found.items() for row in _rows(replica, block, runs)]
    return {
        "fit": replica.fit,
        "costs": msgspec.to_builtins(replica.costs),
        "crowding": replica.crowding,
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
    pace = [round(1e3 * (Steps(run, TILES).pace() or 0.0), 2) for run in runs]
    for each in check(replica, records, TILES, block.replicas):
        yield {
            "block": block.name,
            "load": block.load,
            "fitted": block.fitted,
            "busy": busy,
            "step_of_one_row_ms": pace if block.replicas == 1 else None,
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
    curve = sorted(
        (row["load"], row["measured_ms"], row["predicted_ms"])
        for row in rows
        if row["requests"] == "all"
        and row["quantity"] == "service_ttft p95"
        and row["block"]
        in {each.name for each in BLOCKS if (each.mix, each.replicas) == ("usual", 1)}
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


def told(result: dict[str, Any]) -> Iterator[str]:
    head = f"{'requests':<9}{'quantity':<20}{'measured':>10}{'predicted':>11}  error"
    yield f"{'block':<15}{'busy':>5} {head}"
    for row in result["rows"]:
        if row["error"] is not None and row["quantity"].split()[1] != "mean":
            target = "TARGET" if row["quantity"] == "service_ttft p95" else ""
            yield (
                f"{row['block'] + ('*' if row['fitted'] else ''):<15}{row['busy']:>5.0%} "
                f"{row['requests']:<9}"
                f"{row['quantity']:<20}{row['measured_ms']:>10.1f}{row['predicted_ms']:>11.1f}"
                f"  {row['error']:+.0%} {target}"
            )
    if result["unsound"]:
        yield f"NOT SOUND, the machine was too busy to measure: {', '.join(result['unsound'])}"
    yield f"* fitted; targets: {_TARGETS}; capacity: {result['capacity']}"


def main() -> None:
    """Measure, fit, compare, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="that it works, not what it says")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the records there")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="records that were kept")
    given = parser.parse_args()
    if given.kept:
        run = json.loads((given.kept / "run.json").read_text())
        result = {**run, **judged(kept(given.kept))}
    else:
        result = measured_and_judged(given)
    print("\n".join(told(result)))
    if not result["quick"]:
        file = Path(__file__).parent / "results" / "accuracy.json"
        file.write_text(json.dumps(result, indent=1) + "\n")


def measured_and_judged(given: argparse.Namespace) -> dict[str, Any]:
    """From a stack that is started for it."""
    rounds, seconds = (1, 6.0) if given.quick else (given.rounds, given.seconds)
    run = {"rounds": rounds, "seconds": seconds, "quick": given.quick, "machine": machine()}
    interrupt_on_sigterm()
    began = time.monotonic()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        run |= measure(serving(stack, folder), rounds, seconds)
        run["minutes"] = round((time.monotonic() - began) / 60, 1)
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        return {**run, **judged(kept(folder))}


if __name__ == "__main__":
    main()
