"""What telemetry costs: each receipt counted, and traces besides, against none; and a scrape.

All sides are the same gateway on the fake engine, called in this process without sockets, so that
nothing but the gateway computes: the engine's share would make the ratio smaller. CPU time is the
process's. Requests come from 1,000 accounts in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks import report
from benchmarks.gateway import ask
from benchmarks.rounds import Spread, orders, ratios
from serving.catalog import Catalog, Model
from serving.core import Receipt, Trace, Usage
from serving.engine.fake import FakeEngine
from serving.gateway.app import Gateway
from serving.gateway.asgi import Headers
from serving.gateway.auth import Credentials
from serving.telemetry.exposition import exposition
from serving.telemetry.observer import Observer
from serving.telemetry.shelf import Shelf
from serving.telemetry.traces import Traces

NAME = "telemetry_cost"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
ACCOUNT, TOKEN = "0123456789abcdef0123456789abcdef", "benchmark-token"
TOKENS = 64
ACCOUNTS = 1000
RATIO = 0.01


class Nowhere(SpanExporter):
    """Takes spans, and that is all."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        return SpanExportResult.SUCCESS


def main() -> None:
    """The command."""
    options = _options()
    settings = {"requests_per_side_and_round": options.requests, "tokens": TOKENS}
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        rounds = asyncio.run(_measured(options, shelf))
        scrape, size = _scrape(shelf)
        shelf.close()
    rows, summary = [], {}
    for kind in ("plain", "streaming"):
        figures = [each[kind] for each in rounds]
        added = Spread.of([each["on"] - each["off"] for each in figures])
        traced = Spread.of([each["traced"] - each["on"] for each in figures])
        ratio = ratios(figures, "on", "off")
        rows.append(
            {
                "answer": kind,
                "CPU us/request without": Spread.of([each["off"] for each in figures]).text(0),
                "added by counting, us": added.text(0),
                "with over without": ratio.text(),
                f"added by traces of {RATIO:.0%}, us": traced.text(0),
            }
        )
        summary[kind] = {"added": added.json(), "ratio": ratio.json(), "traced": traced.json()}
    remark = f"A scrape after {ACCOUNTS} accounts: {scrape.text(1)} ms of CPU, {size / 1e3:.0f} kB."
    report.finish(head, rows, summary | {"scrape_ms": scrape.json()}, rounds, [remark])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="two rounds of 500 requests")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 2, 500
    return options


async def _measured(options: argparse.Namespace, shelf: Shelf) -> list[dict[str, dict[str, float]]]:
    """Microseconds of CPU per request by kind and side, for each round."""
    observer = Observer(shelf, lambda model, usage: _price(usage), 50)
    accounts = itertools.cycle(f"{number:032x}" for number in range(ACCOUNTS))

    def counted(receipt: Receipt) -> None:
        observer(replace(receipt, account=next(accounts), token="t"))

    traces = Traces(Nowhere(), RATIO, {})
    sides = {
        "off": _gateway(),
        "on": _gateway(counted),
        "traced": _gateway(counted, traces, tracing=traces.begin),
    }
    rounds = []
    for order in orders(list(sides), options.rounds):
        found: dict[str, dict[str, float]] = {"plain": {}, "streaming": {}}
        for side in order:
            for kind, figures in found.items():
                figures[side] = await _cost(sides[side], kind, options.requests)
        rounds.append(found)
    return rounds


def _price(usage: Usage) -> int:
    return (usage.prompt_tokens + usage.completion_tokens) * 240_000


def _gateway(
    *observers: Callable[[Receipt], None],
    tracing: Callable[[Headers], Trace] | None = None,
) -> Gateway:
    model = Model(id=MODEL, checkpoint=Path(), context_window=8192, max_images=4)
    credentials = Credentials(ACCOUNT, TOKEN)
    engine, catalog = FakeEngine(), Catalog(model)
    return Gateway(engine, catalog, credentials, observers=observers, tracing=tracing)


async def _cost(gateway: Gateway, kind: str, requests: int) -> float:
    """Microseconds of CPU per request, eight at a time as an engine's batch would have them."""
    body = json.dumps({"prompt": "word " * TOKENS, "stream": kind == "streaming"}).encode()
    gc.collect()
    began = time.process_time()
    for _ in range(requests // 8):
        await asyncio.gather(*(ask(gateway, ACCOUNT, TOKEN, MODEL, body) for _ in range(8)))
    return (time.process_time() - began) / (requests // 8 * 8) * 1e6


def _scrape(shelf: Shelf) -> tuple[Spread, int]:
    """Milliseconds of CPU, and bytes."""
    times, text = [], b""
    for _ in range(20):
        began = time.process_time()
        text = exposition(shelf.folder, True)
        times.append((time.process_time() - began) * 1e3)
    return Spread.of(times), len(text)


if __name__ == "__main__":
    main()
