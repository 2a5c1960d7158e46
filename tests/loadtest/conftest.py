"""A mock server in the loop of the test, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadtest.distributions import Distribution
from loadtest.mock import Manners, Mock, start
from loadtest.scenario import Scenario, build


@dataclass
class Server:
    """A mock and where it listens."""

    mock: Mock
    port: int

    def target(self, api: str = "openai", **more: Any) -> dict[str, Any]:
        base = "v1" if api == "openai" else "client/v4"
        return {"url": f"http://127.0.0.1:{self.port}/{base}", "api": api, "account": "a", **more}

    def scenario(self, api: str = "openai", **more: Any) -> Scenario:
        tenant = {"prompt_tokens": "8", "output_tokens": "8"}
        target = {**self.target(api), **more.pop("target", {})}
        return build({"target": target, "tenants": [tenant], **more})


@asynccontextmanager
async def mocked(ttft: float = 0.01, itl: float = 0.004, **manners: Any) -> AsyncIterator[Server]:
    """A mock server with these manners."""
    times = Distribution.parse(ttft), Distribution.parse(itl)
    server, mock = await start(Manners(*times, **manners), "127.0.0.1", 0)
    try:
        yield Server(mock, server.sockets[0].getsockname()[1])
    finally:
        server.close()


@dataclass
class Finished:
    """A command that has ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Coroutine[Any, Any, Finished]]


@pytest.fixture
def loadtest(tmp_path: Path) -> Command:
    """`await loadtest("run", ...)`: the command in a process of its own."""

    async def call(*arguments: str) -> Finished:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return Finished(process.returncode or 0, out.decode(), err.decode())

    return call


def ended(done: Finished, status: int = 0) -> None:
    """The command ended so; or it says, truly, that this machine was too busy to measure."""
    if done.status == 3:
        invalid = [line for line in done.out.splitlines() if "- INVALID" in line]
        busy = ("event loop", "the client used", "were achieved", "against the mock")
        assert invalid, done.out + done.err
        assert all(any(word in line for word in busy) for line in invalid), done.out
    else:
        assert done.status == status, done.out + done.err


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
