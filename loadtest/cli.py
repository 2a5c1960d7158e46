"""The `loadtest` command. Exit status: 0 valid, 1 an objective missed, 2 usage, 3 invalid run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loadtest import answers, console, fitting, options, outcome, planning, text, versus
from loadtest.core import RunError, UsageError
from loadtest.distributions import Distribution
from loadtest.expressions import seconds
from loadtest.going import Controls, Going
from loadtest.instrument import Measured
from loadtest.means import Maker, Means
from loadtest.records import Writer
from loadtest.scenario import Scenario
from loadtest.summary import curves, timeline

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (answers.search, answers.sweep, versus.compare, answers.report):
    app.command()(command)
for foretelling in (fitting.fit, fitting.validate, planning.simulate, planning.plan):
    app.command()(foretelling)


@app.callback()
def _root() -> None:
    """Load for language-model endpoints, measured truthfully."""


@app.command()
@options.spelled_out
def run(
    *,
    file: Annotated[Path | None, typer.Argument(help="Scenario (YAML) or users (Python)")] = None,
    url: options.Url = None,
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    arrivals: Annotated[str | None, typer.Option(help="poisson, constant or gamma(cv)")] = None,
    duration: options.Duration = None,
    requests: Annotated[int | None, typer.Option(help="Stop after so many dialogues")] = None,
    ramp: Annotated[float | None, typer.Option(help="Seconds in which the users start")] = None,
    limit: Annotated[int | None, typer.Option(help="Most requests in flight")] = None,
    asked: options.Asked,
    calibration: options.Calibration = 1.0,
    json: options.Json = None,
    records: options.Records = None,
    html: options.Html = None,
    csv: options.Csv = None,
    junit: Annotated[Path | None, typer.Option(help="Write objectives as test cases")] = None,
    workers: Annotated[int, typer.Option(help="Processes; with --ray, actors", min=1)] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or auto")] = None,
    web: Annotated[int | None, typer.Option(help="Serve a page on this port")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No live view")] = False,
    push: Annotated[str | None, typer.Option(help="Group of a Prometheus Pushgateway")] = None,
) -> None:
    """Make load and report what was measured."""
    load: dict[str, Any] = {
        "concurrency": concurrency,
        "rate": rate,
        "arrivals": arrivals,
        "ramp": ramp,
        "limit": limit,
    }
    given = {key: value for key, value in load.items() if value is not None}
    if concurrency or rate:  # a file's own kind of load makes room
        given = {"concurrency": None, "rate": None, "trace": None, **given}
    with console.reported():
        scenario = asked.scenario(file, url, load=given, duration=duration, requests=requests)
        how = _How(Means(workers, ray), calibration, web, headless, push)
        summary, measured = _conducted(scenario, records, how)
        _deliver(summary, measured, {"json": json, "html": html, "csv": csv, "junit": junit})
    raise typer.Exit(outcome.exit_code(summary))


@app.command()
@options.spelled_out
def quick(
    *,
    url: Annotated[str, typer.Option(help="Base URL: .../client/v4 or .../v1")],
    asked: options.Asked,
    json: options.Json = None,
) -> None:
    """A useful answer in a minute, with nothing but a URL: 1, 4 and 16 users for 15 s each."""
    from loadtest.quick import answer

    with console.reported():
        scenario = asked.scenario(None, url, load={"concurrency": 1}, duration=15)
        result, lines = console.loop(answer(scenario, console.say))
        print("\n".join(lines))
        if json:
            console.write_json(json, result)
    raise typer.Exit(3 if result["verdict"] == "INVALID" else 0)


@app.command()
def mock(
    port: Annotated[int, typer.Option(help="0 for a free one")] = 8099,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    ttft: Annotated[
        str, typer.Option(help="Time to first token: 50ms, uniform(50ms, 450ms)")
    ] = "50ms",
    itl: Annotated[str, typer.Option(help="Time between tokens")] = "20ms",
    fault: Annotated[
        list[str] | None, typer.Option(help="http_500=0.01, truncated=0.05...")
    ] = None,
    together: Annotated[int, typer.Option(help="Tokens in a frame", min=1)] = 1,
    capacity: Annotated[int, typer.Option(help="Requests served at a time", min=1)] = 1_000_000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """A server without a model that knows the truth: GET /truth."""
    from loadtest.mock import Manners, start

    with console.reported():
        manners = Manners(_times(ttft), _times(itl), _faults(fault or []), together, capacity, seed)

        async def serve() -> None:
            server, _ = await start(manners, host, port)
            print(f"mock: listening on {host}:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()

        try:
            console.loop(serve())
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(0) from None
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error


@app.command(hidden=True)
def worker() -> None:
    """One process of a run; a job on stdin."""
    from loadtest import processes

    with console.reported():
        console.loop(processes.worker())


@app.command()
def schema() -> None:
    """The JSON Schema of scenarios."""
    print(msgspec.json.format(msgspec.json.encode(Scenario.model_json_schema())).decode())


@dataclass(frozen=True, slots=True)
class _How:
    """How a run is done and watched."""

    means: Means
    calibration: float
    web: int | None
    headless: bool
    push: str | None


def _conducted(
    scenario: Scenario, records: Path | None, how: _How
) -> tuple[dict[str, Any], Measured]:
    if records is None:
        return console.loop(_carried_out(scenario, None, how))
    with Writer(records) as writer:
        return console.loop(_carried_out(scenario, writer, how))


async def _carried_out(
    scenario: Scenario, writer: Writer | None, how: _How
) -> tuple[dict[str, Any], Measured]:
    async with how.means.ready(writer) as make:
        if how.web is not None:
            return await _on_page(scenario, make, how, how.web)
        controls = Controls()
        console.on_interrupt(controls.stop.set)
        run = make(scenario, controls)
        on_terminal = not how.headless and sys.stderr.isatty()
        async with _watched(lambda: run, on_terminal, how.push):
            return await outcome.measure(scenario, run.execute, how.calibration)


@asynccontextmanager
async def _watched(
    run: Callable[[], Going | None], on_terminal: bool, push: str | None
) -> AsyncIterator[None]:
    watchers: list[Coroutine[Any, Any, None]] = []
    if on_terminal or push:
        from loadtest import live  # rich and httpx are slow to import

        watchers += [live.on_terminal(run)] if on_terminal else []
        watchers += [live.to_gateway(run, push)] if push else []
    tasks = [asyncio.create_task(each) for each in watchers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _on_page(
    scenario: Scenario, make: Maker, how: _How, port: int
) -> tuple[dict[str, Any], Measured]:
    """Runs are started and stopped on the page; Ctrl-C ends with the last one's summary."""
    from loadtest.web import Desk, serving

    desk, over = Desk(scenario, make, how.calibration), asyncio.Event()
    console.on_interrupt(over.set)
    try:
        async with serving(desk, port) as found, _watched(lambda: desk.run, False, how.push):
            console.say(f"loadtest: http://127.0.0.1:{found}")
            await over.wait()
            if desk.run:
                desk.run.controls.stop.set()
            await desk.ended()
    except OSError as error:
        raise UsageError(f"cannot listen: {error}") from error
    if desk.last is None:
        raise RunError("no run was started")
    return desk.last


def _deliver(summary: dict[str, Any], measured: Measured, files: dict[str, Path | None]) -> None:
    """The answer on stdout, and the files that were asked for."""
    from loadtest import html, report

    print("\n".join(text.lines(summary)))
    if file := files["json"]:
        console.write_json(file, summary)
    if file := files["csv"]:
        report.write(file, report.csv_text(summary))
    if file := files["junit"]:
        report.write(file, report.junit(summary))
    if file := files["html"]:
        report.write(file, html.page(summary, timeline(measured), curves(measured)))


def _times(text: str) -> Distribution:
    return Distribution.parse(text if "(" in text else seconds(text))


def _faults(texts: list[str]) -> tuple[tuple[str, float], ...]:
    try:
        pairs = [text.split("=") for text in texts]
        return tuple((kind, float(share)) for kind, share in pairs)
    except ValueError as error:
        raise UsageError("a fault is written http_500=0.01") from error


def main() -> None:
    """The console script."""
    app()
