"""A page to watch a run, start and stop it and change its load; and Prometheus's endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from loadtest import html, outcome, text
from loadtest.arrivals import profile
from loadtest.core import LoadtestError
from loadtest.exposition import exposition
from loadtest.going import Controls, Going
from loadtest.instrument import Measured
from loadtest.live import snapshot
from loadtest.means import Maker
from loadtest.scenario import Scenario
from loadtest.summary import curves, timeline

_PAGE = Path(__file__).with_name("page.html")


class Desk:
    """The scenario, the run that is going, and the summary of the last one."""

    def __init__(self, scenario: Scenario, make: Maker, calibration: float) -> None:
        self.scenario = scenario
        self._make, self._calibration = make, calibration
        self.run: Going | None = None
        self.summary: dict[str, Any] | None = None
        self.last: tuple[dict[str, Any], Measured] | None = None
        self.problem: str | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def going(self) -> bool:
        """Whether a run is."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start a run."""
        self.summary = self.problem = None
        self._task = asyncio.create_task(self._conduct())

    async def ended(self) -> None:
        """Wait for the run to end."""
        if self._task:
            await self._task

    async def _conduct(self) -> None:
        try:
            run = self.run = self._make(self.scenario, Controls())
            self.last = await outcome.measure(self.scenario, run.execute, self._calibration)
            self.summary = self.last[0]
        except LoadtestError as error:
            self.problem = str(error)

    def state(self) -> dict[str, Any]:
        """For the page."""
        load = self.scenario.load
        return {
            "state": "running" if self.going else "finished" if self.summary else "ready",
            "problem": self.problem,
            "load": {"users": load.concurrency, "rate": load.rate},
            "live": snapshot(self.run) if self.run and self.going else None,
            "summary": self.summary,
            "text": "\n".join(text.lines(self.summary)) if self.summary else None,
        }

    def change(self, users: int | None, rate: str | None) -> None:
        """Another load, now if a run is going and for the next one.

        Raises:
            LoadtestError: it is no load, or not of this scenario's loop.
        """
        closed = self.scenario.load.concurrency is not None
        if closed == (rate is not None):
            raise LoadtestError("this scenario takes " + ("users" if closed else "a rate"))
        if rate is not None:
            profile(rate, 1.0)
        elif not isinstance(users, int) or not 0 < users <= 100_000:
            raise LoadtestError("users must be a number from 1 to 100000")
        if self.run and self.going:
            self.run.controls.change(users, rate)
        update = {"concurrency": users} if closed else {"rate": rate}
        self.scenario = self.scenario.model_copy(
            update={"load": self.scenario.load.model_copy(update=update)}
        )


def application(desk: Desk) -> Starlette:
    """The page and what it calls. Changes need a JSON body, which no foreign page can send."""

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text())

    async def state(request: Request) -> JSONResponse:
        return JSONResponse(desk.state())

    async def last(request: Request) -> HTMLResponse:
        if desk.last is None:
            return HTMLResponse("no run has ended", 404)
        summary, measured = desk.last
        return HTMLResponse(html.page(summary, timeline(measured), curves(measured)))

    async def metrics(request: Request) -> PlainTextResponse:
        return PlainTextResponse(exposition(desk.run))

    async def command(request: Request) -> JSONResponse:
        if request.headers.get("content-type") != "application/json":
            return JSONResponse({"problem": "send JSON"}, 415)
        try:
            _obey(desk, request.path_params["verb"], await request.json())
        except (LoadtestError, ValueError, TypeError) as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse(desk.state())

    return Starlette(
        routes=[
            Route("/", page),
            Route("/state", state),
            Route("/metrics", metrics),
            Route("/report", last),
            Route("/{verb}", command, methods=["POST"]),
        ]
    )


def _obey(desk: Desk, verb: str, body: dict[str, Any]) -> None:
    if verb == "start":
        if desk.going:
            raise LoadtestError("a run is going")
        desk.start()
    elif verb == "stop":
        if desk.run and desk.going:
            desk.run.controls.stop.set()
    elif verb == "load":
        rate = body.get("rate")
        desk.change(body.get("users"), None if rate is None else str(rate))
    else:
        raise LoadtestError(f"there is no {verb}")


@asynccontextmanager
async def serving(desk: Desk, port: int) -> AsyncIterator[int]:
    """The page on a port of this machine (0: a free one), as long as the block lasts.

    Raises:
        OSError: the port is taken.
    """
    server = uvicorn.Server(
        uvicorn.Config(application(desk), host="127.0.0.1", port=port, log_level="error")
    )
    task = asyncio.create_task(server._serve())
    while not server.started and not task.done():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    if task.done():
        raise OSError(f"port {port} is taken")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
