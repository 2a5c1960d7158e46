"""The `loadtest` command. Exit status: 0 valid, 1 an objective missed, 2 usage, 3 invalid run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loadtest import answers, console, fitting, jobs, options, outcome, planning, text
from loadtest.core import RunError, UsageError
from loadtest.distributions import Distribution
from loadtest.expressions import seconds
from loadtest.instrument import Measured
from loadtest.records import Writer
from loadtest.runner import Controls, Run
from loadtest.scenario import Scenario
from loadtest.summary import curves, timeline
from loadtest.wire import Observer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for command in (answers.search, answers.sweep, answers.compare, answers.report):
    app.command()(command)
for foretelling in (fitting.fit, fitting.validate, planning.simulate, planning.plan):
    app.command()(foretelling)


@app.callback()
def _root() -> None:
    """Load for language-model endpoints, measured truthfully."""


@app.command()
def run(
    file: Annotated[Path | None, typer.Argument(help="Scenario (YAML) or users (Python)")] = None,
    url: options.Url = None,
    token: options.Token = None,
    api: options.Api = None,
    account: options.Account = None,
    model: options.Model = None,
    concurrency: Annotated[int | None, typer.Option(help="Users, in a closed loop")] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="Requests/s, in an open loop: 10, ramp(1, 20), "
            "steps(5, 10), spike(5, 50), sine(5, 20, 60)"
        ),
    ] = None,
    arrivals: Annotated[str | None, typer.Option(help="poisson, constant or gamma(cv)")] = None,
    duration: options.Duration = None,
    requests: Annotated[int | None, typer.Option(help="Stop after so many dialogues")] = None,
    max_tokens: options.MaxTokens = None,
    prompt_tokens: options.PromptTokens = None,
    image: options.Image = None,
    stream: Annotated[bool | None, typer.Option("--stream/--no-stream")] = None,
    slo: options.Slo = None,
    seed: options.Seed = None,
    ramp: Annotated[float | None, typer.Option(help="Seconds in which the users start")] = None,
    limit: Annotated[int | None, typer.Option(help="Most requests in flight")] = None,
    timeout: options.Timeout = None,
    transport: options.Transport = None,
    insecure: options.Insecure = None,
    metrics: options.Metrics = None,
    calibration: options.Calibration = 1.0,
    json: options.Json = None,
    records: Annotated[Path | None, typer.Option(help="Write a line for each request")] = None,
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
        tenant = options.tenant(max_tokens, prompt_tokens, image, stream)
        scenario = options.scenario(
            file,
            {
                "target": options.target(
                    url=url,
                    token=token,
                    api=api,
                    account=account,
                    model=model,
                    timeout=timeout,
                    transport=transport,
                    insecure=insecure,
                    metrics=metrics,
                ),
                "load": given,
                "duration": duration,
                "requests": requests,
                "slo": slo,
                "seed": seed,
                "tenants": [tenant] if tenant else None,
            },
        )
        how = (workers, ray, web, headless, push)
        summary, measured = _conducted(scenario, calibration, records, how)
        _deliver(summary, measured, {"json": json, "html": html, "csv": csv, "junit": junit})
    raise typer.Exit(outcome.exit_code(summary))


@app.command()
def quick(
    url: Annotated[str, typer.Option(help="Base URL: .../client/v4 or .../v1")],
    token: options.Token = None,
    api: options.Api = None,
    account: options.Account = None,
    model: options.Model = None,
    json: options.Json = None,
) -> None:
    """A useful answer in a minute, with nothing but a URL: 1, 4 and 16 users for 15 s each."""
    from loadtest.quick import answer

    with console.reported():
        target = options.target(url=url, token=token, api=api, account=account, model=model)
        result, lines = console.loop(answer(target))
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
    with console.reported():
        console.loop(jobs.worker())


@app.command()
def schema() -> None:
    """The JSON Schema of scenarios."""
    print(msgspec.json.format(msgspec.json.encode(Scenario.model_json_schema())).decode())


def _conducted(
    scenario: Scenario,
    calibration: float,
    records: Path | None,
    how: tuple[int, str | None, int | None, bool, str | None],
) -> tuple[dict[str, Any], Measured]:
    """In this process, or by as many workers as are wanted."""
    workers, cluster, port, headless, push = how
    if workers > 1 or cluster:
        many = _many(scenario, workers, cluster, records)
        return console.loop(outcome.measure(scenario, many, calibration))
    with ExitStack() as stack:
        observers: list[Observer] = [stack.enter_context(Writer(records))] if records else []
        if port is not None:
            return console.loop(_on_page(scenario, observers, calibration, port))
        return console.loop(_alone(scenario, observers, calibration, headless, push))


def _many(
    scenario: Scenario, workers: int, cluster: str | None, records: Path | None
) -> Callable[[], Awaitable[Measured]]:
    name = outcome.new_run()
    if cluster is None:
        return lambda: jobs.on_processes(scenario, name, workers, records)
    if records:
        raise UsageError("records stay on the nodes of a cluster; leave --records out")
    from loadtest.swarm import on_ray  # Ray is slow to import, and need not be there

    count = workers if workers > 1 else None
    return lambda: asyncio.to_thread(on_ray, scenario, name, count, cluster)


async def _alone(
    scenario: Scenario,
    observers: list[Observer],
    calibration: float,
    headless: bool,
    push: str | None,
) -> tuple[dict[str, Any], Measured]:
    controls, drawing = Controls(), []
    console.on_interrupt(controls.stop.set)

    def watch(run: Run) -> None:
        if not headless and sys.stderr.isatty():
            from loadtest.live import on_terminal

            drawing.append(asyncio.create_task(on_terminal(run)))
        if push:
            from loadtest.live import to_gateway  # httpx is slow to import

            drawing.append(asyncio.create_task(to_gateway(run, push)))

    try:
        return await outcome.conduct(scenario, observers, controls, calibration, watch)
    finally:
        for task in drawing:
            task.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)


async def _on_page(
    scenario: Scenario, observers: list[Observer], calibration: float, port: int
) -> tuple[dict[str, Any], Measured]:
    """Runs are started and stopped on the page; Ctrl-C ends with the last one's summary."""
    from loadtest.web import Desk, serving

    desk, over = Desk(scenario, observers, calibration), asyncio.Event()
    console.on_interrupt(over.set)
    try:
        async with serving(desk, port) as found:
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
    from loadtest import report

    print("\n".join(text.lines(summary)))
    if file := files["json"]:
        console.write_json(file, summary)
    if file := files["csv"]:
        report.write(file, report.csv_text(summary))
    if file := files["junit"]:
        report.write(file, report.junit(summary))
    if file := files["html"]:
        report.write(file, report.html(summary, timeline(measured), curves(measured)))


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
