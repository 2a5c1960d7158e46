"""The lines of curl in Cloudflare's documentation, which say nothing of a content type."""

import json
import shutil
import subprocess

import pytest

from tests.contract.conftest import Running
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")

RUN = f"accounts/{ACCOUNT}/ai/run/{MODEL}"


def curl(service: Running, path: str, *options: str) -> str:
    """What curl prints with the token sent along."""
    command = ["curl", "-sS", f"{service.api}/{path}", *options]
    command += ["-H", f"Authorization: Bearer {TOKEN}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def test_a_prompt(service: Running) -> None:
    found = json.loads(curl(service, RUN, "-X", "POST", "-d", '{ "prompt": "Where is it?" }'))
    assert found["result"]["response"] == "Where is it?"


def test_a_stream(service: Running) -> None:
    body = '{ "prompt": "Where is it?", "stream": true }'
    lines = curl(service, RUN, "-X", "POST", "-d", body).split("\n\n")
    assert lines[0] == 'data: {"response":"Where"}'
    assert lines[-2:] == ["data: [DONE]", ""]


def test_a_chat_completion(service: Running) -> None:
    turns = [{"role": "user", "content": "Say hello."}]
    body = json.dumps({"model": MODEL, "messages": turns})
    path = f"accounts/{ACCOUNT}/ai/v1/chat/completions"
    header = ("-H", "Content-Type: application/json")
    found = json.loads(curl(service, path, *header, "--data-raw", body))
    assert found["choices"][0]["message"]["content"] == "Say hello."


def test_the_token(service: Running) -> None:
    assert json.loads(curl(service, "user/tokens/verify"))["result"]["status"] == "active"
