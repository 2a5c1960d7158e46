"""Who reads the telemetry of a stack that is measured: a scraper, and a collector of traces."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

SCRAPE = 5.0
"""Seconds, as in deploy/prometheus; most scrape every 15 or 30."""
_OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


@dataclass
class Scraper:
    """Reads `/metrics` as Prometheus would; milliseconds and bytes of each time."""

    url: str
    milliseconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    left: float = SCRAPE  # seconds of load until the next
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(headers=_OPENMETRICS, trust_env=False, timeout=30)
    )

    async def during(self, burst: Awaitable[Any]) -> Any:
        """What the burst finds, scraped when it is time: not while the other side is loaded."""
        scraping = asyncio.create_task(self._run())
        try:
            return await burst
        finally:
            scraping.cancel()
            with suppress(asyncio.CancelledError):
                await scraping

    async def _run(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                await asyncio.sleep(self.left)
            finally:
                self.left = max(0.0, self.left - (time.perf_counter() - began))
            await asyncio.to_thread(self._scrape)
            self.left = SCRAPE

    def _scrape(self) -> None:
        began = time.perf_counter()
        text = self.client.get(self.url).raise_for_status().content
        self.milliseconds.append(1000 * (time.perf_counter() - began))
        self.sizes.append(len(text))


class Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    taken = 0

    def do_POST(self) -> None:
        """One batch."""
        Collector.taken += len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def collecting() -> Iterator[str]:
    """The URL of a collector."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        server.shutdown()
