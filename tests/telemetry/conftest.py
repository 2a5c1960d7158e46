"""Replicas as processes that share a folder and a metrics port; what they say, parsed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.servers import free_port

ACCOUNT = "023e105f4ecef8ad9ca31a8372d0c353"
TOKEN = "s3cret-token"
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"
SECRET = "scrape-me"
VISION = 0.125  # seconds that the encoder took for a request with pictures
PIXELS = 1000  # of a picture


@dataclass
class Site:
    """A machine: replicas by their ports."""

    state: Path
    metrics_port: int = field(default_factory=free_port)
    slots: int = 64
    environment: dict[str, str] = field(default_factory=dict)
    replicas: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where all replicas log, at every level."""
        return self.state.with_suffix(".log")

    def start(self, count: int = 1) -> list[int]:
        """Replicas more; their ports, once they answer."""
        ports = [free_port() for _ in range(count)]
        for port in ports:
            command = [sys.executable, "-m", "tests.telemetry.replica", str(port), str(self.state)]
            command += [str(self.metrics_port), SECRET, str(self.slots)]
            with self.log.open("ab") as out:
                self.replicas[port] = subprocess.Popen(
                    command, env=os.environ | self.environment, stdout=out, stderr=out
                )
        until(lambda: all(map(_answers, ports)), 60)
        until(self.is_scraped)
        return ports

    def is_scraped(self) -> bool:
        try:
            return self.scrape().status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, port: int, how: signal.Signals = signal.SIGKILL) -> None:
        """As a crash, unless told otherwise."""
        process = self.replicas.pop(port)
        process.send_signal(how)
        process.wait()

    def client(self, port: int) -> httpx.AsyncClient:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=30)

    def scrape(self, **headers: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {SECRET}"} | headers
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", headers=headers)

    def samples(self) -> list[Sample]:
        """All that is exposed; the parser raises if a family comes twice or is malformed."""
        response = self.scrape()
        assert response.status_code == 200, response.text
        families = list(text_string_to_metric_families(response.text))
        assert len({family.name for family in families}) == len(families)
        return [sample for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for sample in self.samples()
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something to become true, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One replica, shared by tests that look at differences."""
    made = Site(tmp_path_factory.mktemp("standing") / "state")
    made.start()
    yield made
    for port in list(made.replicas):
        made.stop(port)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """No replica yet."""
    made = Site(tmp_path / "state")
    yield made
    for port in list(made.replicas):
        made.stop(port)
