"""The whole stack on a tiny model, with accounts made for a benchmark."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import checkpoint, http_stack, load
from benchmarks.checkpoint import TINY, Shape
from benchmarks.processes import Server, free_port

_START_LIMIT = 400.0
_COMMAND = str(Path(sys.executable).with_name("serving"))


_WORDS = (
    "what",
    "is",
    "the",
    "colour",
    "of",
    "shape",
    "left",
    "and",
    "how",
    "many",
    "are",
    "there",
)
_PICTURES = 16  # that differ to the eye; to the service all do


@dataclass(frozen=True)
class Kind:
    """What a tenant sends: questions of so many words, on a picture of `side` pixels or on none."""

    words: int
    tokens: int  # of each answer
    side: int = 0

    def messages(self, seed: int) -> list[dict[str, Any]]:
        """Every seed's are others."""
        generator = random.Random(seed)
        text = " ".join((str(seed), *generator.choices(_WORDS, k=self.words)))
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if self.side:
            picture = _picture(self.side, seed % _PICTURES) + seed.to_bytes(8)
            url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
            parts.append({"type": "image_url", "image_url": {"url": url}})
        return [{"role": "user", "content": parts}]


@cache
def _picture(side: int, seed: int) -> bytes:
    """A JPEG of soft shapes, as large as a photo's is; what follows its end nobody reads."""
    spots = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(spots).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


@dataclass(frozen=True)
class Tenant:
    """An account and its token."""

    account: str
    token: str

    def requests(self, seed: int, kind: Kind) -> Iterator[bytes]:
        """Streams of a kind without end, every one with another prompt."""
        path = f"/client/v4/accounts/{self.account}/ai/run/{http_stack.MODEL}"
        for index in itertools.count(seed * 10_000_000):
            body: dict[str, Any] = {
                "messages": kind.messages(index),
                "max_tokens": kind.tokens,
                "temperature": 0,
                "stream": True,
            }
            data = json.dumps(body).encode()
            yield load.post(path, data, (f"Authorization: Bearer {self.token}",))


def serving(
    stack: ExitStack, folder: Path, engine: Mapping[str, Any], count: int, shape: Shape = TINY
) -> tuple[int, list[Tenant]]:
    """The stack on a free port, with these of the engine's settings, and so many tenants."""
    port = free_port()
    environment = {
        **http_stack._environment(folder),
        "PORT": str(port),
        "CATALOG": str(catalogue(folder, engine, shape)),
        "STATE_DIR": str(folder / "state"),
        "QUEUE_SECONDS": "300",
    }
    tenants = [_tenant(environment, f"tenant {index}") for index in range(count)]
    log = folder / "serving.log"
    server = stack.enter_context(Server([_COMMAND, "up"], environment, log))
    server.wait(lambda: "ready after" in log.read_text(), _START_LIMIT)
    return port, tenants


def catalogue(folder: Path, engine: Mapping[str, Any], shape: Shape = TINY) -> Path:
    """One of a tiny model, made here, with these of the engine's settings."""
    checkpoint.tiny(folder / "model", shape)
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
