"""The runs that `benchmarks.accuracy` judges: blocks of load on the shipped model on CPU.

One stack of two replicas with a thread each runs throughout. What is asked of one replica goes
straight to its own port, what is asked of two through HAProxy. All blocks take turns in short runs,
so that a machine whose speed drifts drifts under all of them. Loads are shares of what a closed
loop gets out of the same replicas just before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.http_stack import part
from benchmarks.processes import Server, free_port
from loadtest.core import Record
from loadtest.records import read

ACCOUNT, TOKEN = "0" * 31 + "1", "accuracy"
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
_TIMES = 3
_CLOSED = 10.0  # seconds of a closed loop


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


def _borne(stack: Stack, block: Block, seconds: float, seed: int) -> float:
    """Requests a second of a closed loop that keeps the replicas busy."""
    users = 12 * block.replicas
    records = read(stack.run(block, seed, seconds, concurrency=users))
    answered = [each for each in records if not each.error and each.end <= seconds]
    return len(answered) / seconds


def measure(stack: Stack, rounds: int, seconds: float) -> dict[str, Any]:
    """Blocks in turn, in every other round backwards; what their loads are shares of."""
    loops = [Block(f"closed, {n}", 1.0, replicas=n) for n in (1, 2)]
    loops.append(Block("closed, pictures", 1.0, "pictures"))
    # The most of some: in a slow moment of the machine's all loads would be small ones.
    found = [[_borne(stack, each, _CLOSED, 70 + n) for each in loops] for n in range(_TIMES)]
    one, two, pictures = map(max, zip(*found, strict=True))
    most = {1: one, 2: two}
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
