"""One tenant offers twenty times its share: what another notices, and what it costs all together.

The whole stack (`serving up`) on a tiny model, two tenants of equal weight. The quiet one sends
streams at random moments, at a fraction of its share; the loud one keeps `FLOOD` requests under
way. In turn, a few seconds each:

    alone    the quiet one by itself
    shares   beside the loud one, each with an account of its own
    fcfs     the same load through one account, within which the queue is first come, first served
    jain     four tenants that always have somebody waiting, one of them with five times the others'
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks import checkpoint, http_stack, load, report
from benchmarks.load import Answer
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread, orders

NAME = "fairness"
TOKENS = 32
SLOTS = 32
RATE = 4.0  # streams a second of the quiet tenant
FLOOD = 320
EQUALS = (60, 60, 60, 300)
SIDES = ("alone", "shares", "fcfs", "jain")


@dataclass(frozen=True)
class Tenant:
    """An account and its token."""

    account: str
    token: str

    def requests(self, seed: int) -> Iterator[bytes]:
        """Streams without end, every one with another prompt."""
        path = f"/client/v4/accounts/{self.account}/ai/run/{http_stack.MODEL}"
        for index in itertools.count(seed * 10_000_000):
            body: dict[str, Any] = {
                "messages": http_stack.conversation(index),
                "max_tokens": TOKENS,
                "temperature": 0,
                "stream": True,
            }
            data = json.dumps(body).encode()
            yield load.post(path, data, (f"Authorization: Bearer {self.token}",))


def main() -> None:
    """The command."""
    options = _options()
    settings = {
        "tokens": TOKENS,
        "max_num_seqs": SLOTS,
        "quiet_per_second": RATE,
        "loud_at_once": FLOOD,
        "jain_at_once": EQUALS,
        "seconds": options.seconds,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, tenants = _serving(stack, folder)
        rounds = uvloop.run(_rounds(port, tenants, options))
    _report(head, rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each side")
    parser.add_argument("--quick", action="store_true", help="one round of 8 seconds a side")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 8.0
    return options


def _serving(stack: ExitStack, folder: Path) -> tuple[int, list[Tenant]]:
    """The stack on a free port, and four tenants."""
    checkpoint.tiny(folder / "model")
    catalog, port = folder / "catalog.yaml", free_port()
    engine = {**http_stack.ENGINE, "max_num_seqs": SLOTS}
    entry = {
        "checkpoint": str(folder / "model"),
        "context_window": http_stack.CONTEXT,
        "max_images": http_stack.IMAGES,
        "engine": engine,
    }
    catalog.write_text(json.dumps({"models": {http_stack.MODEL: entry}}))  # JSON is YAML
    environment = {
        **http_stack._environment(folder),
        "PORT": str(port),
        "CATALOG": str(catalog),
        "STATE_DIR": str(folder / "state"),
        "QUEUE_SECONDS": "300",
    }
    tenants = [_tenant(environment, f"tenant {index}") for index in range(len(EQUALS))]
    command = [str(Path(sys.executable).with_name("serving")), "up"]
    server = stack.enter_context(Server(command, environment, folder / "serving.log"))
    log = folder / "serving.log"
    server.wait(lambda: "ready after" in log.read_text(), 400)
    return port, tenants


def _tenant(environment: dict[str, str], name: str) -> Tenant:
    account = _serving_command(environment, "account", "create", name)
    return Tenant(account, _serving_command(environment, "token", "create", account))


def _serving_command(environment: dict[str, str], *words: str) -> str:
    command = [str(Path(sys.executable).with_name("serving")), *words]
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


async def _rounds(
    port: int, tenants: list[Tenant], options: argparse.Namespace
) -> list[dict[str, Any]]:
    found = []
    await load.flood(port, tenants[0].requests(99), SLOTS, 5)  # warm up
    for index, order in enumerate(orders(SIDES, options.rounds)):
        sides = {}
        for side in order:
            sides[side] = await _side(side, port, tenants, options.seconds, index)
            await _idle(port, tenants[0])
        print(json.dumps(sides), flush=True)
        found.append(sides)
    return found


async def _side(
    side: str, port: int, tenants: list[Tenant], seconds: float, index: int
) -> dict[str, float]:
    """The figures of one side."""
    quiet, loud = tenants[0], tenants[1]
    if side == "jain":
        floods = (
            load.flood(port, tenant.requests(50 + index), many, seconds)
            for tenant, many in zip(tenants, EQUALS, strict=True)
        )
        return {"jain": _jain([_tokens(each) for each in await asyncio.gather(*floods)])}
    # Enough for the time in which the loud one is there too.
    requests = list(itertools.islice(quiet.requests(10 + index), int(seconds * RATE * 0.6)))
    paced = load.paced(port, requests, RATE, seed=index)
    if side == "alone":
        return _latency(await paced)
    through = loud if side == "shares" else quiet
    flood = asyncio.create_task(load.flood(port, through.requests(20 + index), FLOOD, seconds))
    await asyncio.sleep(seconds / 5)  # the queue is full when the quiet one begins
    first = asyncio.create_task(paced)
    answers, rest = await flood, await first
    return {**_latency(rest), "tokens_per_second": _tokens(answers) / seconds}


async def _idle(port: int, tenant: Tenant) -> None:
    """Wait until a request is answered as if nobody else were there."""
    for _ in range(20):
        request = itertools.islice(tenant.requests(98), 1)
        (answer,) = (await load.burst(port, list(request), 1, 60)).answers
        if answer.last < 0.5:
            return
        await asyncio.sleep(0.5)


def _latency(answers: list[Answer]) -> dict[str, float]:
    times = sorted(answer.first for answer in answers if answer.status == 200)
    at = min(len(times) - 1, int(0.99 * len(times)))
    failed = sum(answer.status != 200 for answer in answers)
    return {"p50": median(times), "p99": times[at], "failed": failed, "requests": len(answers)}


def _tokens(answers: list[Answer]) -> int:
    return sum(max(0, answer.completion_tokens) for answer in answers if answer.status == 200)


def _jain(served: list[int]) -> float:
    """1 when all got the same, 1/n when one got it all."""
    return float(sum(served) ** 2 / (len(served) * sum(each**2 for each in served)))


def _report(head: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
    def spread(figure: str, side: str, over: str) -> Spread:
        return Spread.of([each[side][figure] / each[over][figure] for each in rounds])

    jain = Spread.of([each["jain"]["jain"] for each in rounds])
    whole = spread("tokens_per_second", "shares", "fcfs")
    figures = (
        ("quiet TTFT p99, beside the loud / alone", spread("p99", "shares", "alone"), "≤ 1.5"),
        ("the same within one account (FCFS)", spread("p99", "fcfs", "alone"), ""),
        ("quiet TTFT p50, beside the loud / alone", spread("p50", "shares", "alone"), ""),
        ("Jain's index over four tenants", jain, "≥ 0.95"),
        ("tokens a second, shares / FCFS", whole, "≥ 0.97"),
    )
    rows = [
        {"figure": name, "measured": found.text(), "target": target}
        for name, found, target in figures
    ]
    alone = Spread.of([each["alone"]["p99"] * 1e3 for each in rounds])
    remarks = [f"TTFT p99 of the quiet tenant alone: {alone.text(0)} ms"]
    report.finish(head, rows, {"jain": jain.json(), "throughput": whole.json()}, rounds, remarks)


if __name__ == "__main__":
    main()
