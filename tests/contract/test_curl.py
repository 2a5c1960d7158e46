"""The lines of curl in Cloudflare's documentation, which say nothing of a content type."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.engine.fake import IMAGE_TOKENS
from tests.contract.conftest import Running
from tests.contract.requests import CALL, FUNCTION, PNG, SAY
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")

RUN = f"accounts/{ACCOUNT}/ai/run/{MODEL}"


def curl(service: Running, path: str, *options: str) -> str:
    """What curl prints with the token sent along."""
    command = ["curl", "-sS", f"{service.place.api}/{path}", *options]
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


def test_a_conversation(service: Running) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *SAY]
    found = json.loads(curl(service, RUN, "-X", "POST", "-d", json.dumps({"messages": turns})))
    assert found["result"]["response"] == "Say hello."
    encoded = RUN.replace(MODEL, MODEL.replace("/", "%2F").replace("@", "%40"))
    assert json.loads(curl(service, encoded, "-d", '{"prompt": "hi"}'))["success"] is True


def test_a_picture_from_a_file(service: Running, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"prompt": "What colour?", "image": list(PNG)}))
    found = json.loads(curl(service, RUN, "-X", "POST", "--data-binary", f"@{file}"))
    assert found["result"]["usage"]["prompt_tokens"] == 3 + IMAGE_TOKENS


def test_tools_and_json(service: Running) -> None:
    wanted = {"messages": SAY, "response_format": {"type": "json_object"}}
    found = json.loads(curl(service, RUN, "-X", "POST", "-d", json.dumps(wanted)))
    assert found["result"]["response"] == {"echo": "Say hello."}
    service.engine.answer = CALL
    asked = json.dumps({"messages": SAY, "tools": [FUNCTION]})
    found = json.loads(curl(service, RUN, "-X", "POST", "-d", asked))
    assert found["result"]["tool_calls"] == [
        {"name": "get_weather", "arguments": {"city": "Paris"}}
    ]


def test_a_raw_prompt_with_an_adapter_where_there_are_none(service: Running) -> None:
    """As its page about adapters writes it."""
    body = '{"messages": [{"role": "user", "content": "Hello"}], "raw": "true", "lora": "mine"}'
    found = json.loads(curl(service, RUN, "-d", body))
    assert found["errors"][0]["code"] == 5005
    raw = json.loads(curl(service, RUN, "-d", '{"prompt": "Hello", "raw": "true"}'))
    assert raw["result"]["response"] == "Hello"


def test_a_session_and_a_gateway(service: Running) -> None:
    session = ("-H", "x-session-affinity: ses_12345678")
    body = json.dumps({"messages": SAY, "options": {"rejectIfBusy": True}})
    assert json.loads(curl(service, RUN, *session, "-d", body))["success"] is True
    gateway = ("-H", "cf-aig-gateway-id: default")
    named = json.dumps({"model": MODEL, "input": {"messages": SAY}})
    path = f"accounts/{ACCOUNT}/ai/run"
    assert json.loads(curl(service, path, *gateway, "-d", named))["success"] is True


def test_the_catalogue(service: Running) -> None:
    found = json.loads(curl(service, f"accounts/{ACCOUNT}/ai/models/search?per_page=1000"))
    assert [model["name"] for model in found["result"]] == [MODEL]
    last = json.loads(curl(service, f"accounts/{ACCOUNT}/ai/models/search?per_page=1000&page=2"))
    assert last["result"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (RUN.replace(ACCOUNT, "notanaccount"), 7003),
        (RUN.replace(ACCOUNT, "0" * 32), 10000),
        (RUN.replace(MODEL, "@cf/nobody/none"), 5007),
        (f"accounts/{ACCOUNT}/ai/models/schema", 7001),
    ],
)
def test_errors(service: Running, path: str, code: int) -> None:
    found = json.loads(curl(service, path, "-X", "POST", "-d", '{"prompt": "x"}'))
    assert (found["success"], found["errors"][0]["code"]) == (False, code)
