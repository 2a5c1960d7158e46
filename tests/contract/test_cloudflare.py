"""The `cloudflare` package, unmodified, with another base URL."""

import json
from typing import Any

import cloudflare
import pytest

from serving.core import Image, Message
from tests.contract.clients import Cloudflare
from tests.contract.conftest import ASKED, Running
from tests.contract.requests import AFTER_CALL, CALL, FUNCTION, PNG, SAY, SEE, TOOL, URI
from tests.gateway.conftest import ACCOUNT, MODEL


@pytest.fixture
def client(service: Running) -> cloudflare.Cloudflare:
    return Cloudflare(service.place, ASKED).client


def run(client: cloudflare.Cloudflare, model: str = MODEL, **fields: Any) -> Any:
    return client.ai.run(model, account_id=ACCOUNT, **fields)


def test_a_prompt_and_a_conversation(client: cloudflare.Cloudflare) -> None:
    assert run(client, prompt="Say hello.", max_tokens=16)["response"] == "Say hello."
    found = run(client, messages=SAY)
    assert (found["response"], found["tool_calls"]) == ("Say hello.", [])
    assert found["usage"]["total_tokens"] == 4


def test_a_stream(client: cloudflare.Cloudflare) -> None:
    """Only so: the package has no type for streams."""
    with client.ai.with_streaming_response.run(
        MODEL, account_id=ACCOUNT, messages=SAY, stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    frames = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(frame["response"] for frame in frames) == "Say hello."
    assert not any("tool_calls" in frame for frame in frames)
    assert frames[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("tool", [TOOL, FUNCTION])
def test_a_call_of_a_tool(service: Running, client: cloudflare.Cloudflare, tool: Any) -> None:
    service.engine.answer = CALL
    found = run(client, messages=SAY, tools=[tool])
    assert found["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    service.engine.answer = None
    assert run(client, messages=AFTER_CALL, tools=[tool])["response"] == "sunny"


@pytest.mark.parametrize("wrapped", [False, True])
def test_json(service: Running, client: cloudflare.Cloudflare, wrapped: bool) -> None:
    schema = {"type": "object", "properties": {"echo": {"type": "string"}}}
    wanted = {"name": "e", "schema": schema} if wrapped else schema
    format_: Any = {"type": "json_schema", "json_schema": wanted}
    found = run(client, messages=SAY, response_format=format_)
    assert found["response"] == {"echo": "Say hello."}
    assert service.engine.generations[0].json is not None
    assert service.engine.generations[0].json.schema == schema


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "What colour?", "image": list(PNG)},
        {"prompt": "What colour?", "image": URI},
        {"messages": SEE},
    ],
)
def test_a_picture(service: Running, client: cloudflare.Cloudflare, fields: Any) -> None:
    run(client, **fields)
    (turn,) = service.engine.generations[0].prompt  # type: ignore[misc]
    assert isinstance(turn, Message)
    assert set(turn.content) == {Image(PNG), "What colour?"}


def test_errors_are_those_of_the_client(service: Running, client: cloudflare.Cloudflare) -> None:
    with pytest.raises(cloudflare.BadRequestError) as caught:
        run(client, prompt="x", temperature=9)
    error = caught.value.errors[0]
    assert error.code == 5006
    assert error.message is not None
    assert "Error: oneOf at '/' not met, 0 matches: '/temperature' must be <= 5" in error.message
    with pytest.raises(cloudflare.BadRequestError) as caught:
        run(client, "@cf/nobody/none", prompt="x")
    assert caught.value.errors[0].code == 5007
    with pytest.raises(cloudflare.AuthenticationError):
        run(client.with_options(api_token="wrong"), prompt="x")
    service.engine.faults.overloaded = True
    with pytest.raises(cloudflare.RateLimitError):
        run(client, prompt="x")


def test_the_catalogue_ends(client: cloudflare.Cloudflare) -> None:
    """The package asks for pages until one is empty."""
    found: list[Any] = list(client.ai.models.list(account_id=ACCOUNT, per_page=1))
    assert [model["name"] for model in found] == [MODEL]
    assert found[0]["task"]["name"] == "Text Generation"


def test_the_schema_of_the_model(client: cloudflare.Cloudflare) -> None:
    found: Any = client.ai.models.schema.get(account_id=ACCOUNT, model=MODEL)
    prompt, messages = found.to_dict()["input"]["oneOf"]
    assert prompt["properties"]["temperature"] == {
        "type": "number",
        "minimum": 0,
        "maximum": 5,
        "default": 0.6,
    }
    assert messages["required"] == ["messages"]
    with pytest.raises(cloudflare.NotFoundError):
        client.ai.models.schema.get(account_id=ACCOUNT, model="@cf/x")


def test_tasks_and_tokens(client: cloudflare.Cloudflare) -> None:
    tasks: Any = client.ai.tasks.list(account_id=ACCOUNT)
    assert [task["name"] for task in tasks] == ["Text Generation"]
    authors: Any = client.ai.authors.list(account_id=ACCOUNT)
    assert [author["name"] for author in authors] == ["meta"]
    mine, accounts = client.user.tokens.verify(), client.accounts.tokens.verify(account_id=ACCOUNT)
    assert mine is not None
    assert accounts is not None
    assert (mine.status, mine.id) == (accounts.status, accounts.id)
    assert mine.status == "active"
    with pytest.raises(cloudflare.AuthenticationError):
        client.with_options(api_token="wrong").user.tokens.verify()
