"""The public clients for JavaScript, as `node/clients.mjs` drives them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.contract.clients import CAPITAL, Calls, Client, FailedError
from tests.contract.requests import TOOL

FOLDER = Path(__file__).parent / "node"
INSTALLED = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules").is_dir(),
        reason="the packages are not installed: `make test` does it where there is npm",
    ),
]
"""Marks of the tests that need these clients."""


def run(package: str, abilities: Iterable[str], ask: Any, **variables: str) -> dict[str, Any]:
    """What a client saw of the service that the `variables` describe, by ability.

    An ability that failed has `{"failed": {"name", "status", "message"}}`.
    """
    done = subprocess.run(
        ["node", "clients.mjs", package, *abilities],
        cwd=FOLDER,
        env={
            "PATH": os.environ["PATH"],
            "ASK": json.dumps(ask),
            "AI_SDK_LOG_WARNINGS": "false",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class JavaScript(Client):
    """Does all it can in one run."""

    package: ClassVar[str]
    can: ClassVar[tuple[str, ...]] = ()

    def _seen(self, ability: str) -> Any:
        found = self._all[ability]
        if isinstance(found, dict) and (failed := found.get("failed")):
            raise FailedError(failed["status"], failed["message"])
        return found

    @cached_property
    def _all(self) -> dict[str, Any]:
        place = self.place
        settings = {"temperature": 0} if self.cold else {}
        return run(
            self.package,
            ("text", "stream", *self.can),
            {**vars(self.asked), "settings": settings, "schema": CAPITAL, "tool": TOOL},
            HOST=place.host,
            ACCOUNT=place.account,
            TOKEN=place.token,
            MODEL=place.model,
        )

    def text(self) -> str:
        return self._seen("text")

    def stream(self) -> list[str]:
        return self._seen("stream")


class LangChain(JavaScript):
    name = "`@langchain/cloudflare`"
    package = "langchain"
    cold = False


class Vercel(JavaScript):
    name = "`workers-ai-provider` with Vercel's `ai`"
    package = "vercel"
    can = ("picture", "calls", "streamed_calls", "json")

    def picture(self) -> str:
        return self._seen("picture")["text"]

    def calls(self) -> Calls:
        return [(call["name"], call["arguments"]) for call in self._seen("calls")]

    def streamed_calls(self) -> Calls:
        return [(call["name"], call["arguments"]) for call in self._seen("streamed_calls")]

    def json(self) -> Any:
        return self._seen("json")


class OpenAI(Vercel):
    name = "`openai` (Node)"
    package = "openai"
    can = (*Vercel.can, "models")

    def models(self) -> list[str]:
        return self._seen("models")


class Cloudflare(OpenAI):
    name = "`cloudflare` (Node)"
    package = "cloudflare"
