"""What it costs to see everything: `serving up` side by side with all telemetry and with none.

With: our metrics and vLLM's, scraped every `SCRAPE` seconds of load, traces of 1 % of the requests
with vLLM's spans in them, sent to a collector, a line of JSON in the log for each request. Without:
none of these.

Both are loaded at the same moment, with as many closed-loop clients each: see `windows`.

Two engines: a tiny model asked in text, so fast that it leaves a front end little room, and the
shipped one as `make serve` runs it, each request with a picture that was not seen before.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import uvloop
import yaml
from PIL import Image, ImageDraw

from benchmarks import checkpoint, http_stack, report, rounds, windows
from benchmarks.http_stack import Side, Work, cell_name, front
from benchmarks.processes import free_port, interrupt_on_sigterm
from benchmarks.readers import SCRAPE, Collector, Scraper, collecting
from benchmarks.rounds import Spread
from benchmarks.windows import Load
from serving import catalog

NAME = "observed"
SIDES = ("with", "without")
TARGET = 0.98  # of the rate without
RATIO = 0.01
SIZE = 160  # pixels a side: the four tiles of the shipped model


@dataclass(frozen=True)
class Engine:
    """A model as the catalogue has it, what is asked of it, and how many ask each side at once."""

    name: str
    entry: Mapping[str, Any]
    work: Work
    clients: int

    def sides(
        self, stack: ExitStack, folder: Path, metrics: int, collector: str
    ) -> dict[str, Side]:
        """It twice, `with` its metrics on that port and its traces to that collector."""
        told = {
            "with": {
                "METRICS_PORT": str(metrics),
                "TRACES_ENDPOINT": collector,
                "TRACES_RATIO": str(RATIO),
                "LOG_FORMAT": "json",
            },
            "without": {"METRICS_PORT": "0", "LOG_LEVEL": "warning"},
        }
        silent = {"disable_log_stats": True, "enable_mm_processor_stats": False}
        entries = {
            "with": self.entry,
            "without": {**self.entry, "engine": {**self.entry["engine"], **silent}},
        }
        return {
            side: http_stack.serving(
                stack, folder, entries[side], f"{self.name}-{side}", told[side], self.work
            )
            for side in SIDES
        }


def main() -> None:
    """The command."""
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = _engines(folder)
        head = report.start(NAME, _settings(engines), options.quick, options.note)
        interrupt_on_sigterm()
        collector = stack.enter_context(collecting())
        cells = []
        scrapers = []
        for engine in engines:
            metrics = free_port()
            sides = engine.sides(stack, folder, metrics, collector)
            scrapers.append(Scraper(f"http://127.0.0.1:{metrics}/metrics"))
            cells += [
                Cell(engine.name, sides, scrapers[-1], stream, engine.clients)
                for stream in (True, False)
            ]
        seen = uvloop.run(_rounds(cells, options.rounds))
    _report(head, seen, scrapers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="six rounds")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 6
    return options


def _engines(folder: Path) -> tuple[Engine, Engine]:
    checkpoint.tiny(folder / "model")
    (shipped,) = yaml.safe_load(catalog.DEFAULT.read_text())["models"].values()
    shipped["checkpoint"] = str(checkpoint.SHIPPED)
    return (
        Engine("tiny", http_stack.tiny(folder), Work(http_stack.conversation), 32),
        Engine("shipped", shipped, Work(pictured, fewest=1), 16),
    )


def _settings(engines: Iterable[Engine]) -> dict[str, Any]:
    return {
        "engines": {each.name: each.entry["engine"] for each in engines},
        "clients_of_each_side": {each.name: each.clients for each in engines},
        **windows.SETTINGS,
        "threads": 1,
        "output_tokens": http_stack.TOKENS,
        "seconds_between_scrapes": SCRAPE,
        "traces_ratio": RATIO,
    }


def pictured(seed: int) -> list[dict[str, Any]]:
    """A question about a picture that differs for every seed."""
    place = random.Random(seed)
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    left, top = place.uniform(0, SIZE / 2), place.uniform(0, SIZE / 2)
    colour = place.choice(("red", "green", "blue", "yellow", "purple", "black"))
    ImageDraw.Draw(picture).ellipse((left, top, left + SIZE / 2, top + SIZE / 2), fill=colour)
    picture.putpixel((place.randrange(SIZE), place.randrange(SIZE)), tuple(place.randbytes(3)))
    file = BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    shown = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "Describe the picture."}, shown]}]


@dataclass(frozen=True)
class Cell:
    """A kind of request, asked of both sides of an engine."""

    engine: str
    sides: Mapping[str, Side]
    scraper: Scraper
    stream: bool
    clients: int

    @property
    def name(self) -> str:
        """As in the result file."""
        return f"{self.engine}/{cell_name(self.stream, self.clients)}"

    async def window(self, index: int) -> dict[str, Any]:
        """What each side did in a window, under the load of both; who counts is scraped."""
        seed = 100_000 * (2 * index + self.stream)  # what a stream has asked is not asked again
        loads = {
            name: Load(
                side.server,
                side.port,
                side.endless(self.stream, seed),
                self.clients,
                http_stack.TOKENS,
                side.work.fewest,
            )
            for name, side in self.sides.items()
        }
        found: dict[str, Any] = await self.scraper.during(windows.together(loads, index))
        return found


async def _rounds(cells: Sequence[Cell], count: int) -> list[dict[str, Any]]:
    """A window of each kind in each round."""
    shuffle = random.Random(0).sample
    for cell in cells:  # warm up
        await cell.window(1)
    seen = []
    for index in range(2, count + 2):
        figures = {cell.name: await cell.window(index) for cell in shuffle(cells, len(cells))}
        print(index - 1, json.dumps(figures), flush=True)
        seen.append(figures)
    return seen


def _report(head: dict[str, Any], seen: list[dict[str, Any]], scrapers: Sequence[Scraper]) -> None:
    rows, summary, remarks = [], {}, []
    for name in sorted(seen[0]):
        row, summary[name] = _compared([figures[name] for figures in seen])
        engine, kind, concurrency = name.split("/")
        rows.append({"": f"{engine}, {kind}, {concurrency}", **row})
    for engine in dict.fromkeys(name.split("/")[0] for name in sorted(seen[0])):
        rate, cpu = (_ratio(_together(seen, engine, figure)) for figure in (_rate, _cpu))
        summary[engine] = {"rate ratio": rate.json(), "cpu ratio": cpu.json()}
        remarks.append(
            f"{engine}, all kinds together, by their geometric mean: rate {rate.text(3)}, "
            f"CPU {cpu.text(3)}."
        )
    milliseconds = Spread.of([each for scraper in scrapers for each in scraper.milliseconds])
    sizes = Spread.of([each for scraper in scrapers for each in scraper.sizes])
    summary["scrape"] = {"ms": milliseconds.json(), "bytes": sizes.json()}
    remarks = [
        "Ratios are medians of windows, with the bounds of their 95 % confidence.",
        *remarks,
        f"A scrape of all, vLLM's and Ray Serve's included, under this load: "
        f"{milliseconds.text(0)} ms, {sizes.high / 1e3:.0f} kB.",
        f"Spans sent: {Collector.taken / 1e3:.0f} kB.",
    ]
    report.finish(head, rows, summary, seen, remarks)


def _compared(windows: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, Any]]:
    """One kind of request over the rounds: for people and for files."""
    rates, cpu, fronts = (
        [{side: figure(window[side]) for side in SIDES} for window in windows]
        for figure in (_rate, _cpu, lambda found: front(found["cpu_ms"]))
    )

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


def _together(
    seen: list[dict[str, Any]], engine: str, figure: Callable[[dict[str, Any]], float]
) -> list[dict[str, float]]:
    """The mean of a figure over an engine's kinds of requests, in each round."""
    return [
        {
            side: geometric_mean(
                figure(cell[side]) for name, cell in figures.items() if name.startswith(engine)
            )
            for side in SIDES
        }
        for figures in seen
    ]


def _rate(found: dict[str, Any]) -> float:
    return float(found["requests_per_second"])


def _cpu(found: dict[str, Any]) -> float:
    """Of all processes, in milliseconds a request."""
    return float(sum(found["cpu_ms"].values()))


if __name__ == "__main__":
    main()
