"""The JavaScript clients, unmodified: what `node/clients.mjs` saw."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Running
from tests.contract.requests import CALL, SAY, SEE, TOOL
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

FOLDER = Path(__file__).parent / "node"
SCHEMA = {"type": "object", "properties": {"echo": {"type": "string"}}, "required": ["echo"]}
PARIS = {"name": "get_weather", "arguments": {"city": "Paris"}}
PARIS_AS_TEXT = {"name": "get_weather", "arguments": '{"city":"Paris"}'}

# Also for tests elsewhere that need these clients.
INSTALLED = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules").is_dir(),
        reason="the packages are not installed: `make test` does it where there is npm",
    ),
]


pytestmark = INSTALLED


def seen(service: Running, client: str, scenario: str) -> Any:
    """What a client saw in a scenario."""
    return run(client, scenario, HOST=service.host, ACCOUNT=ACCOUNT, TOKEN=TOKEN)


def run(client: str, scenario: str, **variables: str) -> Any:
    """What a client saw of the service that the `variables` describe."""
    ask = {"say": SAY, "see": SEE, "tool": TOOL, "schema": SCHEMA}
    environment = {
        "PATH": os.environ["PATH"],
        "MODEL": MODEL,
        "ASK": json.dumps(ask),
        "AI_SDK_LOG_WARNINGS": "false",
        **variables,
    }
    done = subprocess.run(
        ["node", "clients.mjs", client, scenario],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_openai(service: Running) -> None:
    found = seen(service, "openai", "plain")
    error = found.pop("error")
    assert found == {
        "text": "Say hello.",
        "streamed": "Say hello.",
        "helper": "Say hello.",
        "response": "Say hello.",
        "picture": 3,
        "json": {"echo": "Say hello."},
        "parsed": {"echo": "Say hello."},
        "models": [MODEL],
        "denied": "AuthenticationError",
    }
    assert (error["name"], error["status"]) == ("BadRequestError", 400)
    assert "$.temperature" in error["message"]


def test_openai_tools(service: Running) -> None:
    service.engine.answer = CALL
    found = seen(service, "openai", "tools")
    assert found["whole"] == [PARIS_AS_TEXT]
    assert found["streamed"][0].items() >= PARIS_AS_TEXT.items()


def test_cloudflare(service: Running) -> None:
    found = seen(service, "cloudflare", "plain")
    assert (found["text"], found["picture"], found["models"]) == ("Say hello.", 3, [MODEL])
    assert found["json"] == {"echo": "Say hello."}
    assert 'data: {"response":"Say"}\n\n' in found["streamed"]
    assert found["streamed"].endswith("data: [DONE]\n\n")
    assert found["status"] == "active"
    assert (found["error"]["name"], found["error"]["status"]) == ("BadRequestError", 400)


def test_cloudflare_tools(service: Running) -> None:
    service.engine.answer = CALL
    found = seen(service, "cloudflare", "tools")
    assert found["whole"] == [PARIS]
    frame = json.dumps({"response": "", "tool_calls": [PARIS]}, separators=(",", ":"))
    assert f"data: {frame}\n\n" in found["streamed"]


def test_vercels_sdk(service: Running) -> None:
    found = seen(service, "vercel", "plain")
    error = found.pop("error")
    assert found == {
        "text": "Say hello.",
        "streamed": "Say hello.",
        "finish": "stop",
        "usage": 2,
        "picture": 3,
        "object": {"echo": "Say hello."},
    }
    assert error["status"] == 400


def test_vercels_sdk_tools(service: Running) -> None:
    service.engine.answer = CALL
    assert seen(service, "vercel", "tools") == {"whole": [PARIS], "streamed": [PARIS]}


def test_langchain(service: Running) -> None:
    found = seen(service, "langchain", "plain")
    error = found.pop("error")
    assert found == dict.fromkeys(("text", "turns", "streamed"), "Say hello.")
    assert "400" in error["message"]
