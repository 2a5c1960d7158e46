"""What tenants add to the time to the first token, on the real stack.

One replica behind Ray Serve and its proxy, on a tiny model, with two gateways in front of the same
engine: with authentication, admission and metering on, and with one token and none of it. Every
request says in a header which it wants; one at a time they alternate, so that both of a pair meet
the same machine; at sixteen at a time bursts alternate. The account has limits of every kind. What
is counted for metrics is on the side of the tenants: it adds to their CPU, after the answer's end.
A minute to start, then half a minute a round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks import http_stack, load, report
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread, orders
from benchmarks.tenancy_cost import LIMITS
from benchmarks.tenants import catalogue
from serving.catalog import Catalog
from serving.cluster import local
from serving.cluster.replica import APPLICATION, Replica, application
from serving.gateway.app import Gateway
from serving.gateway.asgi import App, Receive, Scope, Send
from serving.gateway.auth import Credentials
from serving.gateway.receipts import log_access
from serving.settings import Settings
from serving.tenancy import accounts

NAME = "tenancy_stack"
TOKENS = 16
CONCURRENCY = 16
SIDES = ("off", "on")
TARGET_MS, TARGET_US = 1.0, 300.0
_OFF = (b"x-tenants", b"off")
_READY = "ready"


class Both(Replica):
    """A replica that serves with tenants, and without to those who say so."""

    def __init__(self, models: Catalog, settings: Settings) -> None:
        """As a replica; the account of the settings gets limits."""
        super().__init__(models, settings)
        with self._tenants.tenancy.database.begin() as connection:
            accounts.set_limits(connection, NAME, settings.account_id, None, LIMITS)
        one = Credentials(settings.account_id, settings.api_token)
        self._bare = Gateway(self._engine, models, one, observers=(log_access,))

    async def __serve_build_asgi_app__(self) -> App:  # type: ignore[override]
        """See `Replica`."""
        whole, bare = await super().__serve_build_asgi_app__(), self._bare

        async def either(scope: Scope, receive: Receive, send: Send) -> None:
            chosen = bare if _OFF in scope.get("headers", ()) else whole
            await chosen(scope, receive, send)

        return either


@dataclass(frozen=True)
class Stack:
    """The server and how to ask it."""

    server: Server
    port: int
    account: str
    token: str

    def requests(self, side: str, seed: int) -> Iterator[bytes]:
        """Streams without end, every one with another prompt."""
        path = f"/client/v4/accounts/{self.account}/ai/run/{http_stack.MODEL}"
        headers = [f"Authorization: Bearer {self.token}"]
        if side == "off":
            headers.append("X-Tenants: off")
        for index in itertools.count(seed * 1_000_000):
            body = {"messages": http_stack.conversation(index), "max_tokens": TOKENS}
            data = json.dumps({**body, "temperature": 0, "stream": True}).encode()
            yield load.post(path, data, headers)


def main() -> None:
    """The command."""
    options = _options()
    if options.serve:
        _serve(Path(options.serve))
        return
    settings = {"tokens": TOKENS, "pairs": options.pairs, "burst": options.burst, "limits": 5}
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = uvloop.run(_rounds(_started(stack, folder, options.redis), options))
    _report(head, found, "Redis" if options.redis else "memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=60, help="of single requests, a round")
    parser.add_argument("--burst", type=int, default=320, help="requests, a side and round")
    parser.add_argument("--redis", default="", help="URL of a Redis that keeps the limits")
    parser.add_argument("--quick", action="store_true", help="two small rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.pairs, options.burst = 2, 20, 64
    return options


def _started(stack: ExitStack, folder: Path, redis: str) -> Stack:
    port = free_port()
    account, token = secrets.token_hex(16), secrets.token_hex(16)
    environment = {
        **http_stack._environment(folder),
        "PORT": str(port),
        "CATALOG": str(catalogue(folder, {})),
        "STATE_DIR": str(folder / "state"),
        "ACCOUNT_ID": account,
        "API_TOKEN": token,
        "REDIS_URL": redis,
    }
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--serve", str(folder / "ray")]
    server = stack.enter_context(Server(command, environment, folder / "serving.log"))
    server.wait(lambda: (folder / "ray" / _READY).exists(), 400)
    return Stack(server, port, account, token)


def _serve(folder: Path) -> None:
    """The cluster with such a replica, until told to stop."""
    from ray import serve

    from benchmarks.tenancy_stack import Both as Importable  # by its name, for Ray's workers

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings()
    folder.mkdir()
    try:
        with local.cluster(settings, folder):
            app = application(settings, Importable)
            serve.run(app, name=APPLICATION, route_prefix="/")
            (folder / _READY).touch()
            signal.pause()
    except KeyboardInterrupt:
        return


async def _rounds(stack: Stack, options: argparse.Namespace) -> list[dict[str, Any]]:
    for side in SIDES:  # warm up
        await _asked(stack, side, 1, CONCURRENCY, CONCURRENCY)
    found = []
    for index, order in enumerate(orders(SIDES, options.rounds), 2):
        seen: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
        seen["alternating"] = await _pairs(stack, order, index, options.pairs)
        for side in order:
            seen[side] = await _burst(stack, side, index, options.burst)
        print(json.dumps(seen), flush=True)
        found.append(seen)
    return found


async def _pairs(stack: Stack, order: list[str], index: int, count: int) -> dict[str, float]:
    """One at a time, in turn: the medians of TTFT, and of the differences within pairs; ms."""
    streams = {side: stack.requests(side, 10 * index + n) for n, side in enumerate(SIDES)}
    requests = [next(streams[side]) for _ in range(count) for side in order]
    answers = (await load.burst(stack.port, requests, 1, 300)).answers
    _check(answers)
    times = {side: [1000 * a.first for a in answers[n::2]] for n, side in enumerate(order)}
    added = median(on - off for on, off in zip(times["on"], times["off"], strict=True))
    return {**{side: median(times[side]) for side in SIDES}, "added": added}


async def _burst(stack: Stack, side: str, index: int, count: int) -> dict[str, float]:
    """Sixteen at a time: median TTFT (ms) and the replica's CPU (us a request)."""
    before = stack.server.cpu(http_stack.part)
    answers = await _asked(stack, side, 100 * index + SIDES.index(side), count, CONCURRENCY)
    await asyncio.sleep(0.6)  # what threads have still to do for these requests counts too
    spent = stack.server.used_since(before, http_stack.part)
    times = median(1000 * answer.first for answer in answers)
    return {"ttft_ms": times, "cpu_us": 1e6 * spent["replica"] / count}


async def _asked(
    stack: Stack, side: str, seed: int, count: int, concurrency: int
) -> list[load.Answer]:
    requests = list(itertools.islice(stack.requests(side, seed), count))
    answers = (await load.burst(stack.port, requests, concurrency, 300)).answers
    _check(answers)
    return answers


def _check(answers: list[load.Answer]) -> None:
    """Raises: RuntimeError: one was not a whole answer."""
    wrong = [a for a in answers if a.status != 200 or a.completion_tokens != TOKENS]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(answers)} failed, such as {wrong[0]}")


def _report(head: dict[str, Any], rounds: list[dict[str, Any]], store: str) -> None:
    figures = {
        "TTFT p50 added, one at a time, ms": (
            Spread.of([each["alternating"]["added"] for each in rounds]),
            f"≤ {TARGET_MS:g}",
        ),
        "TTFT p50 without, one at a time, ms": (
            Spread.of([each["alternating"]["off"] for each in rounds]),
            "",
        ),
        f"TTFT p50 added, {CONCURRENCY} at a time, ms": (_added(rounds, "ttft_ms"), ""),
        f"TTFT p50 without, {CONCURRENCY} at a time, ms": (
            Spread.of([each["off"]["ttft_ms"] for each in rounds]),
            "",
        ),
        "replica's CPU added, us a request": (_added(rounds, "cpu_us"), f"≤ {TARGET_US:g}"),
    }
    rows = [
        {"figure": name, "limits kept in": store, "measured": found.text(), "target": target}
        for name, (found, target) in figures.items()
    ]
    summary = {name: found.json() for name, (found, _) in figures.items()}
    report.finish(head, rows, summary, rounds)


def _added(rounds: list[dict[str, Any]], figure: str) -> Spread:
    return Spread.of([each["on"][figure] - each["off"][figure] for each in rounds])


if __name__ == "__main__":
    main()
