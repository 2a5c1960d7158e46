"""The `loadtest` command. Exit status: 0 valid, 1 an objective missed, 2 usage, 3 invalid run."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from loadtest import options, outcome, text
from loadtest.core import LoadtestError, UsageError
from loadtest.records import Writer
from loadtest.runner import Controls
from loadtest.scenario import Scenario

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
T = TypeVar("T")


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
) -> None:
    """Make load and report what was measured."""
    load = {"concurrency": concurrency, "rate": rate, "arrivals": arrivals, "ramp": ramp}
    load["limit"] = limit
    with _reported():
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
                "load": {key: value for key, value in load.items() if value is not None},
                "duration": duration,
                "requests": requests,
                "slo": slo,
                "seed": seed,
                "tenants": [tenant] if tenant else None,
            },
        )
        summary = _conducted(scenario, calibration, records)
        _deliver(summary, json)
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

    with _reported():
        target = options.target(url=url, token=token, api=api, account=account, model=model)
        result, lines = _loop(answer(target))
        print("\n".join(lines))
        if json:
            _write(json, result)
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

    with _reported():
        manners = Manners(_times(ttft), _times(itl), _faults(fault or []), together, capacity, seed)

        async def serve() -> None:
            server, _ = await start(manners, host, port)
            print(f"mock: listening on {host}:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()

        try:
            _loop(serve())
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(0) from None
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error


@app.command()
def schema() -> None:
    """The JSON Schema of scenarios."""
    print(msgspec.json.format(msgspec.json.encode(Scenario.model_json_schema())).decode())


def _conducted(scenario: Scenario, calibration: float, records: Path | None) -> dict[str, Any]:
    with ExitStack() as stack:
        observers = [stack.enter_context(Writer(records))] if records else []

        async def work() -> dict[str, Any]:
            controls = Controls()
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, controls.stop.set)
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, controls.stop.set)
            summary, _ = await outcome.conduct(scenario, observers, controls, calibration)
            return summary

        return _loop(work())


def _deliver(summary: dict[str, Any], json: Path | None) -> None:
    print("\n".join(text.lines(summary)))
    if json:
        _write(json, summary)


def _write(file: Path, data: Any) -> None:
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error


def _times(text: str) -> Any:
    from loadtest.distributions import Distribution
    from loadtest.expressions import seconds

    return Distribution.parse(text if "(" in text else seconds(text))


def _faults(texts: list[str]) -> tuple[tuple[str, float], ...]:
    try:
        pairs = [text.split("=") for text in texts]
        return tuple((kind, float(share)) for kind, share in pairs)
    except ValueError as error:
        raise UsageError("a fault is written http_500=0.01") from error


def _loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    result: T = uvloop.run(work)
    return result


class _reported:  # noqa: N801 - reads as a statement
    """Errors of the package become one line and an exit status."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        if isinstance(error, LoadtestError):
            print(f"loadtest: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, UsageError) else 3) from error


def main() -> None:
    """The console script."""
    app()
