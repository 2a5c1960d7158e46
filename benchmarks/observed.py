"""What it costs to see everything: `serving up` side by side with all telemetry and with none.

With: our metrics and vLLM's, scraped every `SCRAPE` seconds, traces of 1 % of the requests with
vLLM's spans in them, sent to a collector, a line of JSON in the log for each request. Without:
none of these. Both on the same tiny model, loaded in turn in short bursts by the same client.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uvloop

from benchmarks import checkpoint, http_stack, report, rounds
from benchmarks.http_stack import Side, cell_name, front
from benchmarks.processes import free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread

NAME = "observed"
SIDES = ("with", "without")
CONCURRENCY = (16, 64)
TARGET = 0.98  # of the rate without
SCRAPE = 5.0
RATIO = 0.01
_OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


@dataclass
class Scraper:
    """Reads `/metrics` as Prometheus would; milliseconds and bytes of each time."""

    url: str
    milliseconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Until it is over."""
        with httpx.Client(headers=_OPENMETRICS, trust_env=False, timeout=30) as client:
            while not over.wait(SCRAPE):
                began = time.perf_counter()
                text = client.get(self.url).raise_for_status().content
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
        "requests_per_burst": {c: _count(c, options.quick) for c in CONCURRENCY},
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
        with _in_thread(scraper):
            seen = uvloop.run(_rounds(sides, options))
    _report(head, seen, scraper)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three rounds, a quarter of the load")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 3
    return options


def _count(concurrency: int, quick: bool) -> int:
    count = http_stack.COUNTS[concurrency]
    return max(concurrency, count // 4) if quick else count


@contextmanager
def _collecting() -> Iterator[str]:
    """The URL of a collector."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        server.shutdown()


@contextmanager
def _in_thread(scraper: Scraper) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=scraper.run, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _rounds(sides: dict[str, Side], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A figure of each burst: both sides in turn, so that a pair meets the same machine."""
    cells = [(stream, c) for stream in (True, False) for c in CONCURRENCY]
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
                cell[name] = await burst
        print(index, json.dumps(figures), flush=True)
        seen.append(figures)
    return seen


def _report(head: dict[str, Any], seen: list[dict[str, Any]], scraper: Scraper) -> None:
    rows, summary = [], {}
    for name in seen[0]:
        cells = [figures[name] for figures in seen]
        rates = [{side: cell[side]["requests_per_second"] for side in SIDES} for cell in cells]
        cpu = [{side: front(cell[side]["cpu_ms"]) for side in SIDES} for cell in cells]
        rate, used = rounds.ratios(rates, *SIDES), rounds.ratios(cpu, *SIDES)
        kind, concurrency = name.split("/")
        rows.append(
            {
                "": f"{kind}, {concurrency}",
                "requests/s, with / without": f"{rounds.each(rates, 'with').median:.1f} / "
                f"{rounds.each(rates, 'without').median:.1f}",
                "ratio": rate.text(3),
                "target": f"≥ {TARGET}",
                "front-end CPU ms/request, with / without": f"{rounds.each(cpu, 'with').median:.2f}"
                f" / {rounds.each(cpu, 'without').median:.2f}",
                "front-end ratio": used.text(),
            }
        )
        summary[name] = {"rate ratio": rate.json(), "front ratio": used.json()}
    milliseconds, sizes = Spread.of(scraper.milliseconds), Spread.of(scraper.sizes)
    summary["scrape"] = {"ms": milliseconds.json(), "bytes": sizes.json()}
    remarks = [
        f"A scrape of all, vLLM's and Ray Serve's included, under this load: "
        f"{milliseconds.text(0)} ms, {sizes.high / 1e3:.0f} kB.",
        f"Spans sent: {Collector.taken / 1e3:.0f} kB.",
    ]
    report.finish(head, rows, summary, seen, remarks)


if __name__ == "__main__":
    main()
