"""`/metrics` on a port of its own, for all replicas of a machine.

Every replica would serve it and the first to bind the port does; when it ends another takes over
within a second. What it answers comes from the shelf's folder, so it does not matter who answers.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from serving.telemetry import neighbour as ray
from serving.telemetry.exposition import exposition
from serving.telemetry.neighbour import Neighbour

_RETRY = 1.0  # seconds between attempts at the port
_END = b"# EOF\n"
_log = logging.getLogger("serving.telemetry")


class Endpoint:
    """Serves a folder from a thread, as soon as the port is free."""

    def __init__(
        self, folder: Path, host: str, port: int, token: str = "", neighbour: str = ""
    ) -> None:
        """With a `token`, who scrapes sends it as a bearer; `neighbour` is the URL of Ray's."""
        self._app = _guarded(folder, token, Neighbour(neighbour) if neighbour else None)
        self._host, self._port = host, port
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._closing.set()
        if (server := self._server) is not None:
            with suppress(OSError):  # closed already
                server.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
        self._thread.join()

    def _run(self) -> None:
        """The thread."""
        while not self._closing.is_set():
            try:
                server = _Server(self._host, self._port)
            except OSError as error:
                _log.debug("another serves the metrics: %s", error)
                self._closing.wait(_RETRY)
                continue
            server.set_app(self._app)
            with server:
                self._server = server  # before the look at `_closing`: `close` looks here after
                while not self._closing.is_set():
                    server.handle_request()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread per scrape; none keeps the process from ending."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Raises: OSError: the port is taken."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As HTTPServer does it, without asking the DNS what the host is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    """Does not log, and does not wait for ever."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


def _exposed(folder: Path, neighbour: Neighbour | None, accept: str) -> tuple[str, bytes]:
    """Content type and text. Prometheus 2 asks for OpenMetrics."""
    lines = neighbour.lines() if neighbour else []
    if "application/openmetrics-text" in accept:
        whole = exposition(folder, True) + _text(ray.openmetrics(lines)) + _END
        return CONTENT_TYPE_LATEST, whole
    return CONTENT_TYPE_PLAIN_0_0_4, exposition(folder, False) + _text(lines)


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _guarded(folder: Path, token: str, neighbour: Neighbour | None) -> WSGIApplication:
    """The folder at `/metrics`, for whoever knows the token."""
    expected = f"Bearer {token}".encode()

    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        said = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if environ["PATH_INFO"] != "/metrics":
            start("404 Not Found", [])
            return [b""]
        if token and not hmac.compare_digest(said, expected):
            start("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return [b""]
        kind, text = _exposed(folder, neighbour, environ.get("HTTP_ACCEPT", ""))
        start("200 OK", [("Content-Type", kind), ("Content-Length", str(len(text)))])
        return [text]

    return answer
