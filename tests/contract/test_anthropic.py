"""The `anthropic` package, unmodified, with another base URL."""

import base64
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from serving.core import Image, Message, ToolCall
from tests.contract.conftest import Running
from tests.contract.requests import CALL, LONG_CALL, PARAMETERS, PNG, SAY, TWO_CALLS
from tests.gateway.conftest import MODEL, TOKEN

TOOL: Any = {"name": "get_weather", "description": "Weather", "input_schema": PARAMETERS}


@pytest.fixture(params=["api_key", "auth_token"])
def client(service: Running, request: pytest.FixtureRequest) -> anthropic.Anthropic:
    """It appends `/v1/messages` to its base URL, and has two headers for a key."""
    key: dict[str, Any] = {"api_key": None, "auth_token": None, request.param: TOKEN}
    return anthropic.Anthropic(base_url=service.place.ai, max_retries=0, **key)


def ask(client: anthropic.Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "max_tokens": 100, "messages": SAY, **fields})


def test_a_message(service: Running, client: anthropic.Anthropic) -> None:
    found = ask(client, system=[{"type": "text", "text": "Be brief."}])
    assert [(block.type, block.text) for block in found.content] == [("text", "Say hello.")]
    assert (found.role, found.stop_reason, found.model) == ("assistant", "end_turn", MODEL)
    assert (found.usage.input_tokens, found.usage.output_tokens) == (4, 2)
    assert service.engine.generations[0].prompt[0] == Message("system", ("Be brief.",))


def test_why_it_stopped(client: anthropic.Anthropic) -> None:
    assert ask(client, max_tokens=1).stop_reason == "max_tokens"
    stopped = ask(client, stop_sequences=["x", "hello"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "hello")
    assert stopped.content[0].text == "Say"


def test_a_streamed_message(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=9, messages=SAY) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert texts == ["Say", " hello."]
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (2, 2)


def test_the_events_of_a_stream(client: anthropic.Anthropic) -> None:
    assert [event.type for event in ask(client, stream=True)] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_of_tools(service: Running, client: anthropic.Anthropic, streamed: bool) -> None:
    service.engine.answer = TWO_CALLS
    if streamed:
        with client.messages.stream(
            model=MODEL, max_tokens=99, messages=SAY, tools=[TOOL]
        ) as stream:
            found: Any = stream.get_final_message()
    else:
        found = ask(client, tools=[TOOL])
    assert [(block.type, block.name, block.input) for block in found.content] == [
        ("tool_use", "get_weather", {"city": "Paris"}),
        ("tool_use", "get_weather", {"city": "Rome"}),
    ]
    assert found.stop_reason == "tool_use"
    assert len({block.id for block in found.content}) == 2


@pytest.mark.parametrize("choice", ["any", "tool"])
def test_a_call_that_is_required_is_made(client: anthropic.Anthropic, choice: str) -> None:
    wanted = {"type": choice} | ({"name": "get_weather"} if choice == "tool" else {})
    found = ask(client, tools=[TOOL], tool_choice=wanted)
    assert found.content[0].type == "tool_use"


def test_a_forced_call_is_streamed_as_it_is_written(
    service: Running, client: anthropic.Anthropic
) -> None:
    service.engine.answer = LONG_CALL
    asked: Any = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    events = list(ask(client, stream=True, **asked))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert [delta.partial_json for delta in deltas] == ['{"city":', ' "New', ' York"}']
    with client.messages.stream(model=MODEL, max_tokens=99, messages=SAY, **asked) as stream:
        (block,) = stream.get_final_message().content
    assert (block.type, block.input) == ("tool_use", {"city": "New York"})


def test_structured_output(service: Running, client: anthropic.Anthropic) -> None:
    class Echo(BaseModel):
        echo: str

    found = client.messages.parse(model=MODEL, max_tokens=9, messages=SAY, output_format=Echo)
    assert found.parsed_output == Echo(echo="Say hello.")
    wanted = service.engine.generations[0].json
    assert wanted is not None
    assert wanted.schema is not None
    assert wanted.schema["properties"].keys() == {"echo"}
    with pytest.raises(anthropic.BadRequestError):
        ask(client, output_config={"format": {"type": "xml"}})


def test_a_picture_and_the_result_of_a_tool(service: Running, client: anthropic.Anthropic) -> None:
    data = base64.b64encode(PNG).decode()
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    ask(
        client,
        messages=[
            {"role": "user", "content": [picture, {"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
        ],
    )
    assert service.engine.generations[0].prompt == (
        Message("user", (Image(PNG), "Where?")),
        Message("assistant", ("Hm.",), (ToolCall("get_weather", {"city": "Rome"}, "toolu_1"),)),
        Message("tool", ("sunny",), tool_call_id="toolu_1"),
        Message("user", ("So?",)),
    )


def test_errors_are_those_of_the_client(service: Running, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"at `\$.temperature`"):
        ask(client, extra_body={"temperature": 9})
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client, model="@cf/x")
    assert caught.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="custom"):
        ask(client, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    service.engine.faults.overloaded = True
    with pytest.raises(anthropic.RateLimitError):
        ask(client)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=client.base_url, api_key="no", max_retries=0).messages.create(
            model=MODEL, max_tokens=1, messages=SAY
        )


def test_an_engine_that_fails_on_the_way_breaks_the_stream(
    service: Running, client: anthropic.Anthropic
) -> None:
    service.engine.faults.fail_after = 1
    with pytest.raises(anthropic.APIStatusError, match="Internal server error"):
        list(ask(client, stream=True))


def test_a_thought_of_another_model_is_dropped(
    service: Running, client: anthropic.Anthropic
) -> None:
    service.engine.answer = CALL
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    content = [thought, {"type": "text", "text": "Hi."}]
    ask(client, messages=[*SAY, {"role": "assistant", "content": content}, *SAY])
    assert service.engine.generations[0].prompt[1] == Message("assistant", ("Hi.",))


def test_tokens_are_counted_without_generating(
    service: Running, client: anthropic.Anthropic
) -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
    content: Any = [{"type": "image", "source": picture}, {"type": "text", "text": "What is it?"}]
    asked: Any = {"messages": [{"role": "user", "content": content}], "system": "Be brief."}
    counted = client.messages.count_tokens(model=MODEL, tools=[TOOL], **asked)
    assert service.engine.started == []
    assert counted.input_tokens == ask(client, tools=[TOOL], **asked).usage.input_tokens
    with pytest.raises(anthropic.BadRequestError, match="custom"):
        client.messages.count_tokens(model=MODEL, messages=SAY, tools=[{"type": "x", "name": "x"}])  # type: ignore[list-item]
