"""What it costs to see everything: `serving up` side by side with all telemetry and with none.

With: our metrics and vLLM's, scraped every `SCRAPE` seconds of load, traces of 1 % of the requests
with vLLM's spans in them, sent to a collector, a line of JSON in the log for each request. Without:
none of these. Both on the same tiny model, loaded in turn in short bursts by the same client.

On a machine whose cores are all busy a request's rate is what its CPU time leaves: CPU of all
processes of a stack is shown beside the rate, since it hardly feels what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import httpx
import uvloop

from benchmarks import checkpoint, http_stack, report, rounds
from benchmarks.http_stack import Side, cell_name, front
from benchmarks.processes import free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread

NAME = "observed"
SIDES = ("with", "without")
# Requests in a burst, by concurrency: short ones, so that more pairs meet the same machine.
COUNTS = {16: 96, 64: 256}
TARGET = 0.98  # of the rate without
SCRAPE = 5.0  # as in deploy/prometheus; most scrape every 15 or 30
RATIO = 0.01
_OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


@dataclass
class Scraper:
    """Reads `/metrics` as Prometheus would; milliseconds and bytes of each time."""

    url: str
    milliseconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    left: float = SCRAPE  # seconds of load until the next
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(headers=_OPENMETRICS, trust_env=False, timeout=30)
    )

    async def during(self, burst: Awaitable[Any]) -> Any:
        """What the burst finds, scraped when it is time: not while the other side is loaded."""
        scraping = asyncio.create_task(self._run())
        try:
            return await burst
        finally:
            scraping.cancel()
            with suppress(asyncio.CancelledError):
                await scraping

    async def _run(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                await asyncio.sleep(self.left)
            finally:
                self.left = max(0.0, self.left - (time.perf_counter() - began))
            await asyncio.to_thread(self._scrape)
            self.left = SCRAPE

    def _scrape(self) -> None:
        began = time.perf_counter()
        text = self.client.get(self.url).raise_for_status().content
        self.milliseconds.append(1000 * (time.perf_counter() - began))
        self.sizes.append(len(text))


class Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    taken = 0

    def do_POST(self) -> None:
        """One batch."""
        Collector.taken += len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def main() -> None:
    """The command."""
    options = _options()
    settings = {
        "engine": http_stack.ENGINE,
        "threads": 1,
        "output_tokens": http_stack.TOKENS,
        "requests_per_burst": {c: _count(c, options.quick) for c in COUNTS},
        "seconds_between_scrapes": SCRAPE,
        "traces_ratio": RATIO,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint.tiny(folder / "model")
        metrics = free_port()
        everything = {
            "METRICS_PORT": str(metrics),
            "TRACES_ENDPOINT": stack.enter_context(_collecting()),
            "TRACES_RATIO": str(RATIO),
            "LOG_FORMAT": "json",
        }
        nothing = {"METRICS_PORT": "0", "LOG_LEVEL": "warning"}
        silent = {"disable_log_stats": True}
        sides = {
            "with": http_stack.serving(stack, folder, "with", settings=everything),
            "without": http_stack.serving(
                stack, folder, "without", settings=nothing, engine=silent
            ),
        }
        scraper = Scraper(f"http://127.0.0.1:{metrics}/metrics")
        seen = uvloop.run(_rounds(sides, scraper, options))
    _report(head, seen, scraper)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="six rounds, a quarter of the load")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 6
    return options


def _count(concurrency: int, quick: bool) -> int:
    return max(concurrency, COUNTS[concurrency] // 4) if quick else COUNTS[concurrency]


@contextmanager
def _collecting() -> Iterator[str]:
    """The URL of a collector."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        server.shutdown()


async def _rounds(
    sides: dict[str, Side], scraper: Scraper, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A figure of each burst: both sides in turn, so that a pair meets the same machine."""
    cells = [(stream, c) for stream in (True, False) for c in COUNTS]
    shuffle = random.Random(0).sample
    for side in sides.values():  # warm up
        for stream, concurrency in cells:
            await http_stack.burst(side, stream, concurrency, concurrency, 1)
    seen = []
    for index, order in enumerate(rounds.orders(SIDES, options.rounds), 1):
        figures: dict[str, Any] = {}
        for stream, concurrency in shuffle(cells, len(cells)):
            count = _count(concurrency, options.quick)
            cell = figures[cell_name(stream, concurrency)] = {}
            for name in order:
                burst = http_stack.burst(sides[name], stream, concurrency, count, index)
                cell[name] = await (scraper.during(burst) if name == "with" else burst)
        print(index, json.dumps(figures), flush=True)
        seen.append(figures)
    return seen


def _report(head: dict[str, Any], seen: list[dict[str, Any]], scraper: Scraper) -> None:
    rows, summary = [], {}
    for name in seen[0]:
        bursts = [figures[name] for figures in seen]
        row, summary[name] = _compared(bursts)
        kind, concurrency = name.split("/")
        rows.append({"": f"{kind}, {concurrency}", **row})
    whole = [{side: _mean_of(figures, side) for side in SIDES} for figures in seen]
    summary["all"] = {"rate ratio": _ratio(whole).json()}
    milliseconds, sizes = Spread.of(scraper.milliseconds), Spread.of(scraper.sizes)
    summary["scrape"] = {"ms": milliseconds.json(), "bytes": sizes.json()}
    remarks = [
        "Ratios are medians of pairs, with the bounds of their 95 % confidence.",
        f"All kinds together, by the geometric mean of their rates: {_ratio(whole).text(3)}.",
        f"A scrape of all, vLLM's and Ray Serve's included, under this load: "
        f"{milliseconds.text(0)} ms, {sizes.high / 1e3:.0f} kB.",
        f"Spans sent: {Collector.taken / 1e3:.0f} kB.",
    ]
    report.finish(head, rows, summary, seen, remarks)


def _compared(bursts: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, Any]]:
    """One kind of burst over the rounds: for people and for files."""
    rates = [{side: burst[side]["requests_per_second"] for side in SIDES} for burst in bursts]
    cpu = [{side: sum(burst[side]["cpu_ms"].values()) for side in SIDES} for burst in bursts]
    fronts = [{side: front(burst[side]["cpu_ms"]) for side in SIDES} for burst in bursts]

    def both(figures: list[dict[str, float]], digits: int) -> str:
        return " / ".join(f"{rounds.each(figures, side).median:.{digits}f}" for side in SIDES)

    row = {
        "requests/s, with / without": both(rates, 1),
        "ratio": _ratio(rates).text(3),
        "target": f"≥ {TARGET}",
        "CPU ms/request, all processes": both(cpu, 2),
        "its ratio": _ratio(cpu).text(3),
        "of them front end": both(fronts, 2),
        "front-end ratio": _ratio(fronts).text(3),
    }
    summary = {"rate ratio": rates, "cpu ratio": cpu, "front ratio": fronts}
    return row, {name: _ratio(figures).json() for name, figures in summary.items()}


def _ratio(figures: list[dict[str, float]]) -> Spread:
    return Spread.confident([each["with"] / each["without"] for each in figures])


def _mean_of(figures: dict[str, Any], side: str) -> float:
    return geometric_mean(cell[side]["requests_per_second"] for cell in figures.values())


if __name__ == "__main__":
    main()
