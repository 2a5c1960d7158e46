"""One tenant offers twenty times its share: what another notices, and what it costs all together.

The whole stack (`serving up`) on a tiny model, two tenants of equal weight. The quiet one sends
streams at random moments, at a fraction of its share; the loud one keeps `FLOOD` requests under
way, twenty times what its half of the engine runs at once. In turn, a few seconds each:

    alone    the quiet one by itself
    modest   beside the loud one while that keeps to its share: half of the engine, nobody waits
    shares   beside the loud one, each with an account of its own
    fcfs     the same load through one account, within which the queue is first come, first served
    jain     four tenants that always have somebody waiting, one of them with five times the others'

Percentiles are of all rounds together, as a p99 needs hundreds of requests. `shares` over `modest`
is what the flood costs the quiet tenant; `modest` over `alone` what it costs to share an engine
at all: whoever comes waits for the step under way, and a step of many takes longer than of one.
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
from typing import Any

import uvloop

from benchmarks import checkpoint, http_stack, load, report
from benchmarks.load import Answer
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread, orders

NAME = "fairness"
TOKENS = 32
SLOTS = 32
RATE = 8.0  # streams a second of the quiet tenant
FLOOD = 20 * SLOTS // 2
EQUALS = (60, 60, 60, 300)
SIDES = ("alone", "modest", "shares", "fcfs", "jain")
# How many requests the other tenant keeps under way, and through whose account.
NEIGHBOUR = {"modest": SLOTS // 2, "shares": FLOOD, "fcfs": FLOOD}
_LEAD, _FOR = 0.1, 0.8  # of a side's time: the neighbour's start, and how long the quiet one sends


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
    parser.add_argument("--rounds", type=int, default=8)
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
) -> dict[str, Any]:
    """The figures of one side."""
    if side == "jain":
        floods = (
            load.flood(port, tenant.requests(50 + index), many, seconds)
            for tenant, many in zip(tenants, EQUALS, strict=True)
        )
        return {"jain": _jain([_tokens(each) for each in await asyncio.gather(*floods)])}
    quiet, other = tenants[0], tenants[0 if side == "fcfs" else 1]
    requests = list(itertools.islice(quiet.requests(10 + index), int(seconds * RATE * _FOR)))
    paced = load.paced(port, requests, RATE, seed=index)
    if side == "alone":
        return _latency(await paced)
    requests_of = other.requests(20 + index)
    flood = asyncio.create_task(load.flood(port, requests_of, NEIGHBOUR[side], seconds))
    await asyncio.sleep(seconds * _LEAD)  # the queue is full when the quiet one begins
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


def _latency(answers: list[Answer]) -> dict[str, Any]:
    """Times to the first token, in ms, in order."""
    times = sorted(round(1000 * answer.first, 1) for answer in answers if answer.status == 200)
    return {"ttft_ms": times, "failed": len(answers) - len(times)}


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _tokens(answers: list[Answer]) -> int:
    return sum(max(0, answer.completion_tokens) for answer in answers if answer.status == 200)


def _jain(served: list[int]) -> float:
    """1 when all got the same, 1/n when one got it all."""
    return float(sum(served) ** 2 / (len(served) * sum(each**2 for each in served)))


def _report(head: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
    """The ratios: of all rounds' requests together, and within the rounds from least to most."""

    def ttft(share: float, side: str, over: str) -> Spread:
        within = [_of(side, share, [each]) / _of(over, share, [each]) for each in rounds]
        return Spread(_of(side, share, rounds) / _of(over, share, rounds), min(within), max(within))

    jain = Spread.of([each["jain"]["jain"] for each in rounds])
    rates = [[each[side]["tokens_per_second"] for side in ("shares", "fcfs")] for each in rounds]
    whole = Spread.of([shares / fcfs for shares, fcfs in rates])
    figures = {
        "quiet TTFT p99, beside the loud / alone": (ttft(0.99, "shares", "alone"), "≤ 1.5"),
        "beside a neighbour within its share / alone": (ttft(0.99, "modest", "alone"), ""),
        "beside the loud / beside that neighbour": (ttft(0.99, "shares", "modest"), ""),
        "within one account (FCFS) / alone": (ttft(0.99, "fcfs", "alone"), ""),
        "quiet TTFT p50, beside the loud / alone": (ttft(0.5, "shares", "alone"), ""),
        "Jain's index over four tenants": (jain, "≥ 0.95"),
        "tokens a second, shares / FCFS": (whole, "≥ 0.97"),
    }
    rows = [
        {"figure": name, "measured": found.text(), "target": target}
        for name, (found, target) in figures.items()
    ]
    summary = {name: found.json() for name, (found, _) in figures.items()}
    report.finish(head, rows, summary, rounds, _remarks(rounds))


def _of(side: str, share: float, rounds: list[dict[str, Any]]) -> float:
    """A percentile of a side's TTFT over these rounds, in ms."""
    return _percentile([time for each in rounds for time in each[side]["ttft_ms"]], share)


def _remarks(rounds: list[dict[str, Any]]) -> list[str]:
    sides = ("alone", *NEIGHBOUR)
    times = ", ".join(
        f"{side} {_of(side, 0.5, rounds):.0f} / {_of(side, 0.99, rounds):.0f}" for side in sides
    )
    failed = sum(each[side]["failed"] for each in rounds for side in sides)
    count = sum(len(each["alone"]["ttft_ms"]) for each in rounds)
    return [f"quiet TTFT p50 / p99, ms, of {count} requests a side: {times}; {failed} failed"]


if __name__ == "__main__":
    main()
