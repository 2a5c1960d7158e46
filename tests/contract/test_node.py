"""The JavaScript clients with the fake engine: what `node/clients.mjs` saw."""

from typing import Any

from serving.engine.fake import IMAGE_TOKENS
from tests.contract.conftest import ASKED, Running
from tests.contract.javascript import INSTALLED, run
from tests.contract.requests import CALL, TOOL
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

SCHEMA = {"type": "object", "properties": {"echo": {"type": "string"}}, "required": ["echo"]}
ASK = {**vars(ASKED), "tool": TOOL, "schema": SCHEMA, "settings": {}}
ECHO, PARIS = {"echo": "Say hello."}, {"name": "get_weather", "arguments": {"city": "Paris"}}
SEEN = {"text": "What colour?", "tokens": 3 + IMAGE_TOKENS}  # of the picture too

pytestmark = INSTALLED


def seen(service: Running, package: str, *abilities: str, **changes: str) -> dict[str, Any]:
    """What a client saw, or `failed` to."""
    place = {"HOST": service.place.host, "ACCOUNT": ACCOUNT, "TOKEN": TOKEN, "MODEL": MODEL}
    return run(package, abilities, ASK, **{**place, **changes})


def test_openai(service: Running) -> None:
    asked = ("text", "stream", "helper", "response", "picture", "json", "parsed", "models", "hot")
    found = seen(service, "openai", *asked)
    error = found.pop("hot")["failed"]
    assert found == {
        "text": "Say hello.",
        "stream": ["Say", " hello.", ""],
        "helper": "Say hello.",
        "response": "Say hello.",
        "picture": SEEN,
        "json": ECHO,
        "parsed": ECHO,
        "models": [MODEL],
    }
    assert (error["name"], error["status"]) == ("BadRequestError", 400)
    assert "$.temperature" in error["message"]
    denied = seen(service, "openai", "models", TOKEN="wrong")["models"]["failed"]
    assert (denied["name"], denied["status"]) == ("AuthenticationError", 401)


def test_openai_tools(service: Running) -> None:
    service.engine.answer = CALL
    found = seen(service, "openai", "calls", "streamed_calls")
    assert found == {"calls": [PARIS], "streamed_calls": [PARIS]}


def test_cloudflare(service: Running) -> None:
    asked = ("text", "stream", "picture", "json", "models", "token")
    assert seen(service, "cloudflare", *asked) == {
        "text": "Say hello.",
        "stream": ["Say", " hello.", ""],
        "picture": SEEN,
        "json": ECHO,
        "models": [MODEL],
        "token": "active",
    }
    unknown = seen(service, "cloudflare", "text", MODEL="@cf/nobody/none")["text"]["failed"]
    assert (unknown["name"], unknown["status"]) == ("BadRequestError", 400)
    assert "5007" in unknown["message"]


def test_cloudflare_tools(service: Running) -> None:
    service.engine.answer = CALL
    found = seen(service, "cloudflare", "calls", "streamed_calls")
    assert found == {"calls": [PARIS], "streamed_calls": [PARIS]}


def test_vercels_sdk(service: Running) -> None:
    assert seen(service, "vercel", "text", "stream", "ending", "picture", "json") == {
        "text": "Say hello.",
        "stream": ["Say", " hello."],
        "ending": {"reason": "stop", "tokens": 2},
        "picture": SEEN,
        "json": ECHO,
    }
    failed = seen(service, "vercel", "text", "stream", MODEL="@cf/nobody/none")
    assert [each["failed"]["status"] for each in failed.values()] == [400, 400]


def test_vercels_sdk_tools(service: Running) -> None:
    service.engine.answer = CALL
    found = seen(service, "vercel", "calls", "streamed_calls")
    assert found == {"calls": [PARIS], "streamed_calls": [PARIS]}


def test_langchain(service: Running) -> None:
    found = seen(service, "langchain", "text", "turns", "stream")
    assert (found["text"], found["turns"]) == ("Say hello.", "Say hello.")
    assert "".join(found["stream"]) == "Say hello."
    failed = seen(service, "langchain", "text", "stream", MODEL="@cf/nobody/none")
    assert [each["failed"]["status"] for each in failed.values()] == [400, 400]
