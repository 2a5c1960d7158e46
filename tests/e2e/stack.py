"""`serving up` as a child process, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

from tests.servers import free_port

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "e2e-token"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
START, STOP = 240.0, 60.0
"""Seconds allowed; a quiet machine needs 35 and 3."""


@dataclass
class Stack:
    """A running stack."""

    process: psutil.Popen
    port: int
    seconds: float
    """From the command to the line that says it is ready."""
    said: str
    environment: dict[str, str]

    def metrics(self) -> str:
        """What `/metrics` says."""
        return httpx.get(f"http://127.0.0.1:{self.environment['METRICS_PORT']}/metrics").text

    def total(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = [line for line in self.metrics().splitlines() if re.match(rf"{name}[{{ ]", line)]
        assert lines, name
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, token: str = TOKEN) -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def run(self, body: dict[str, Any], **options: Any) -> httpx.Response:
        """POST to the model with the right credentials."""
        with self.client() as client:
            return client.post(path(), json=body, **options)

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def find(self, name: str) -> psutil.Process:
        """The one process with this in its name or title."""
        (found,) = [process for process in self.tree() if name in _title(process)]
        return found

    def interrupt(self) -> int:
        """Ctrl-C: SIGINT to the whole group, as a terminal does it. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(STOP)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join((process.name(), *process.cmdline()))
    except psutil.NoSuchProcess:  # or a zombie: it has ended on the way here
        return ""


def path(model: str = MODEL, account: str = ACCOUNT) -> str:
    return f"/client/v4/accounts/{account}/ai/run/{model}"


@contextmanager
def stack(
    folder: Path,
    *command: str,
    inherited: Mapping[str, str] = os.environ,
    options: Mapping[str, Any] = MappingProxyType({}),
    **settings: str,
) -> Iterator[Stack]:
    """Start the stack with its state in `folder`; whatever is left of it dies at the end.

    `options` are for `subprocess.Popen`.
    """
    port, log = free_port(), folder / "up.log"
    environment = {
        **inherited,
        "PORT": str(port),
        "METRICS_PORT": str(free_port()),
        "ACCOUNT_ID": ACCOUNT,
        "API_TOKEN": TOKEN,
        "STATE_DIR": str(folder / "state"),
        **settings,
    }
    command = command or (str(Path(sys.executable).with_name("serving")), "up")
    began = time.monotonic()
    with log.open("w") as out:
        process = psutil.Popen(
            command,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        _await_ready(process, log)
        yield Stack(process, port, time.monotonic() - began, log.read_text(), environment)
    finally:
        _end(process)


def _end(process: psutil.Popen) -> None:
    """Politely, then not."""
    if process.poll() is not None:
        return
    tree = process.children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, alive = psutil.wait_procs([process, *tree], timeout=STOP)
    for each in alive:
        each.kill()


def _await_ready(process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + START
    while "ready after" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the stack did not start:\n{log.read_text()}")
        time.sleep(0.2)
