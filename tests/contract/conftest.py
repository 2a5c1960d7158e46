"""The gateway on a socket in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from serving.engine.fake import FakeEngine, Faults
from tests.contract.clients import Asked, Place
from tests.contract.requests import SAY, SEE
from tests.gateway.conftest import ACCOUNT, TOKEN, Service

ASKED = Asked(say=SAY, see=SEE, call=SAY, json=SAY)
"""Of the fake engine, which is told what to answer."""


class Running(Service):
    """A service that listens, with what its clients are told."""

    @property
    def place(self) -> Place:
        return Place(f"http://127.0.0.1:{self.port}", ACCOUNT, TOKEN)


@pytest.fixture(scope="session")
def _running() -> Iterator[Running]:
    service = Running(FakeEngine())
    listener = socket.create_server(("127.0.0.1", 0))
    service.port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(service.gateway, log_level="error", access_log=False))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield service
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def service(_running: Running) -> Running:
    """The running service, as if nobody had used it."""
    _running.engine.answer = None
    _running.engine.faults = Faults()
    _running.engine.generations.clear()
    _running.receipts.clear()
    return _running
