"""The whole stack on a tiny model, with accounts made for a benchmark."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, http_stack, load
from benchmarks.processes import Server, free_port

_START_LIMIT = 400.0
_COMMAND = str(Path(sys.executable).with_name("serving"))


@dataclass(frozen=True)
class Tenant:
    """An account and its token."""

    account: str
    token: str

    def requests(self, seed: int, tokens: int) -> Iterator[bytes]:
        """Streams of so many tokens without end, every one with another prompt."""
        path = f"/client/v4/accounts/{self.account}/ai/run/{http_stack.MODEL}"
        for index in itertools.count(seed * 10_000_000):
            body: dict[str, Any] = {
                "messages": http_stack.conversation(index),
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
            }
            data = json.dumps(body).encode()
            yield load.post(path, data, (f"Authorization: Bearer {self.token}",))


def serving(
    stack: ExitStack, folder: Path, engine: Mapping[str, Any], count: int
) -> tuple[int, list[Tenant]]:
    """The stack on a free port, with these of the engine's settings, and so many tenants."""
    port = free_port()
    environment = {
        **http_stack._environment(folder),
        "PORT": str(port),
        "CATALOG": str(catalogue(folder, engine)),
        "STATE_DIR": str(folder / "state"),
        "QUEUE_SECONDS": "300",
    }
    tenants = [_tenant(environment, f"tenant {index}") for index in range(count)]
    log = folder / "serving.log"
    server = stack.enter_context(Server([_COMMAND, "up"], environment, log))
    server.wait(lambda: "ready after" in log.read_text(), _START_LIMIT)
    return port, tenants


def catalogue(folder: Path, engine: Mapping[str, Any]) -> Path:
    """One of a tiny model, made here, with these of the engine's settings."""
    checkpoint.tiny(folder / "model")
    file = folder / "catalog.yaml"
    entry = {
        "checkpoint": str(folder / "model"),
        "context_window": http_stack.CONTEXT,
        "max_images": http_stack.IMAGES,
        "engine": {**http_stack.ENGINE, **engine},
    }
    file.write_text(json.dumps({"models": {http_stack.MODEL: entry}}))  # JSON is YAML
    return file


def _tenant(environment: dict[str, str], name: str) -> Tenant:
    account = _said(environment, "account", "create", name)
    return Tenant(account, _said(environment, "token", "create", account))


def _said(environment: dict[str, str], *words: str) -> str:
    """What a command of `serving` prints."""
    done = subprocess.run(
        [_COMMAND, *words],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
