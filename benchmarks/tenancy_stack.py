"""What tenants add to a request on the real stack: CPU, and time to the first token.

A replica behind Ray Serve and its proxy, on a tiny model, with two gateways in front of the same
engine: with authentication, admission and metering, for an account that has limits of every kind,
and with one token and none of it. Every request says in a header which it wants. Nothing is counted
for metrics on either side.

For the time to the first token they alternate, one at a time, so that both of a pair meet the same
machine. For the CPU there are two such servers, loaded at the same moment (see `windows`): one with
tenants, the other without, and then the other way about, so that what the servers differ in meets
both sides. All of it is done anew for every start of the servers, of which each is a little faster
or slower than the last for as long as it runs. A minute to start, then half a minute a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import uvloop

from benchmarks import http_stack, load, report, windows
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread, orders
from benchmarks.tenancy_cost import LIMITS
from benchmarks.tenants import catalogue
from benchmarks.windows import Load
from serving.catalog import Catalog
from serving.cluster import environment, local
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
    """One server and how to ask it."""

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

    def asked(self, side: str, seed: int) -> Load:
        """For a window."""
        return Load(
            self.server, self.port, self.requests(side, seed), CONCURRENCY, TOKENS, fewest=TOKENS
        )


def main() -> None:
    """The command."""
    options = _options()
    if options.serve:
        _serve(Path(options.serve))
        return
    settings = {
        "tokens": TOKENS,
        "starts": options.starts,
        "rounds_of_each": options.rounds,
        "pairs": options.pairs,
        "clients_of_each_side": CONCURRENCY,
        "limits": 5,
        **windows.SETTINGS,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    found = []
    for _ in range(options.starts):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = [_started(stack, folder / name, options.redis) for name in ("one", "other")]
            found.append(uvloop.run(_rounds(servers, options)))
    _report(head, found, "Redis" if options.redis else "memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=6, help="of the servers, 6 or more")
    parser.add_argument("--rounds", type=int, default=2, help="a start")
    parser.add_argument("--pairs", type=int, default=60, help="of single requests, a round")
    parser.add_argument("--redis", default="", help="URL of a Redis that keeps the limits")
    parser.add_argument("--quick", action="store_true", help="one round a start, of fewer pairs")
    parser.add_argument("--note", default="")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.pairs = 1, 20
    return options


def _started(stack: ExitStack, folder: Path, redis: str) -> Stack:
    folder.mkdir()
    port = free_port()
    account, token = secrets.token_hex(16), secrets.token_hex(16)
    told = {
        **environment.variables(folder / "ray", 1, 1),
        **http_stack._environment(folder),
        "PORT": str(port),
        "CATALOG": str(catalogue(folder, {})),
        "STATE_DIR": str(folder / "state"),
        "ACCOUNT_ID": account,
        "API_TOKEN": token,
        "REDIS_URL": redis,
        "METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--serve", str(folder / "ray")]
    server = stack.enter_context(Server(command, told, folder / "serving.log"))
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


async def _rounds(servers: Sequence[Stack], options: argparse.Namespace) -> dict[str, Any]:
    """All pairs before all windows, after which every thread has a core it must keep to."""
    one = servers[0]
    await _pairs(one, list(SIDES), 0, CONCURRENCY)  # warm up
    pairs = []
    for index, order in enumerate(orders(SIDES, options.rounds), 1):
        pairs.append(await _pairs(one, order, index, options.pairs))
        print(json.dumps(pairs[-1]), flush=True)
    await _windows(servers, 1000)  # warm up
    seen = []
    for index in range(options.rounds):
        seen.append({"load": round(os.getloadavg()[0], 2), **await _windows(servers, index)})
        print(json.dumps(seen[-1]), flush=True)
    return {"alternating": pairs, "windows": seen}


async def _pairs(server: Stack, order: list[str], index: int, count: int) -> dict[str, float]:
    """One at a time, in turn: the medians of TTFT, and of the differences within pairs; ms."""
    streams = {side: server.requests(side, 10 * index + n) for n, side in enumerate(SIDES)}
    requests = [next(streams[side]) for _ in range(count) for side in order]
    burst = await load.burst(server.port, requests, 1, 300)
    if failures := burst.failures(TOKENS):
        raise RuntimeError(f"{failures} of {len(requests)} requests failed")
    times = {side: [1000 * a.first for a in burst.answers[n::2]] for n, side in enumerate(order)}
    added = median(on - off for on, off in zip(times["on"], times["off"], strict=True))
    return {**{side: median(times[side]) for side in SIDES}, "added": added}


async def _windows(servers: Sequence[Stack], index: int) -> dict[str, dict[str, float]]:
    """Two, in which the servers change sides: each side's mean TTFT (ms) and CPU (us a request)."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for half in (0, 1):
        seed = 1000 + 2 * index + half
        loads = {side: servers[n ^ half].asked(side, 10 * seed + n) for n, side in enumerate(SIDES)}
        for side, did in (await windows.together(loads, index)).items():
            found[side].append(did)
    return {
        side: {
            "ttft_ms": round(fmean(each["ttft_p50_ms"] for each in both), 2),
            "cpu_us": round(1000 * fmean(each["cpu_ms"]["replica"] for each in both), 1),
        }
        for side, both in found.items()
    }


def _report(head: dict[str, Any], starts: list[dict[str, Any]], store: str) -> None:
    beside = f"{CONCURRENCY} at a time"
    figures = {
        "TTFT p50 added, one at a time, ms": (_alone(starts, "added"), f"≤ {TARGET_MS:g}"),
        "TTFT p50 without, one at a time, ms": (_alone(starts, "off"), ""),
        f"TTFT p50 added, {beside}, ms": (_added(starts, "ttft_ms"), ""),
        f"TTFT p50 without, {beside}, ms": (_without(starts, "ttft_ms"), ""),
        "replica's CPU added, us a request": (_added(starts, "cpu_us"), f"≤ {TARGET_US:g}"),
        "replica's CPU without, us a request": (_without(starts, "cpu_us"), ""),
    }
    rows = [
        {"figure": name, "limits kept in": store, "measured": spread.text(), "target": target}
        for name, (spread, target) in figures.items()
    ]
    summary = {name: spread.json() for name, (spread, _) in figures.items()}
    remarks = [
        "Medians of the starts' means over their rounds, with the bounds of their 95 % confidence."
    ]
    report.finish(head, rows, summary, starts, remarks)


def _alone(starts: list[dict[str, Any]], figure: str) -> Spread:
    return _means([[each[figure] for each in start["alternating"]] for start in starts])


def _added(starts: list[dict[str, Any]], figure: str) -> Spread:
    return _means(
        [[each["on"][figure] - each["off"][figure] for each in s["windows"]] for s in starts]
    )


def _without(starts: list[dict[str, Any]], figure: str) -> Spread:
    return _means([[each["off"][figure] for each in start["windows"]] for start in starts])


def _means(starts: list[list[float]]) -> Spread:
    return Spread.confident([fmean(rounds) for rounds in starts])


if __name__ == "__main__":
    main()
