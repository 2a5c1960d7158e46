"""The client's own error: the planned load against the mock server, which knows the truth."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from pydantic import SecretStr

from loadtest.client import Exchange
from loadtest.core import RunError
from loadtest.going import Share
from loadtest.histogram import Histogram
from loadtest.instrument import Measured
from loadtest.runner import Run
from loadtest.scenario import Load, Scenario, Target, Tenant
from loadtest.series import total
from loadtest.summary import quantiles

_START = 10.0  # seconds that the mock may take to listen
_TOKENS = 32


@asynccontextmanager
async def mock_server(*options: str) -> AsyncIterator[int]:
    """A mock in a process of its own, so that it does not share the client's loop; its port.

    Raises:
        RunError: it did not start.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "mock", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if process.stdout is None:
            raise RunError("the mock has no output")
        line = await asyncio.wait_for(process.stdout.readline(), _START)
        if not line:
            raise RunError("the mock server did not start")
        yield int(line.rsplit(b":", 1)[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def calibrate(scenario: Scenario, measured: Measured, seconds: float) -> dict[str, Any]:
    """Errors in milliseconds (client less server), at the load and pace that were measured.

    `ttft_error_ms` is of single requests; `itl_p99_error_ms` of the quantile.

    Raises:
        RunError: the mock did not start.
    """
    whole = total(measured.series.timeline())
    gap = min(max(whole.itl.mean, 0.002), 0.05)
    options = ["--ttft", "uniform(10ms, 50ms)", "--itl", f"{gap * 1e6:.0f}us"]
    errors = Histogram(buckets={})
    async with mock_server(*options) as port:
        run = Run(_plan(scenario, measured, port, seconds), Share("calibration"))
        run.wire.on_exchange = lambda exchange: _compare(exchange, errors)
        found = await run.execute()
        truth = await _truth(port)
    seen = total(found.series.timeline())
    return {
        "requests": seen.requests,
        "errors": seen.failed,
        "ttft_error_ms": quantiles(errors),
        "itl_p99_error_ms": round(1e3 * seen.itl.quantile(0.99) - truth["itl_ms"]["p99"], 3),
        "event_loop_lag_ms": quantiles(found.lag),
    }


def _plan(scenario: Scenario, measured: Measured, port: int, seconds: float) -> Scenario:
    load = scenario.load
    if load.trace is not None:
        rate = max(1.0, measured.started / max(measured.window, 1e-9))
        load = Load(rate=str(rate))
    target = Target(url=f"http://127.0.0.1:{port}/v1", api="openai", model="mock", timeout=10.0)
    target = target.model_copy(update={"transport": scenario.target.transport})
    return Scenario(
        target=target.model_copy(update={"token": SecretStr("")}),
        load=load,
        duration=seconds,
        tenants=(Tenant(prompt_tokens="16", output_tokens=str(_TOKENS)),),
    )


def _compare(exchange: Exchange, errors: Histogram) -> None:
    reading = exchange.reading
    if reading.truth and reading.first_token is not None:
        true = (reading.truth["first"] - reading.truth["arrived"]) / 1e6
        errors.add(abs(reading.first_token - exchange.sent - true))


async def _truth(port: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /truth HTTP/1.1\r\nHost: mock\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        found: dict[str, Any] = msgspec.json.decode(await reader.readexactly(length))
        return found
    finally:
        writer.close()
