"""The `openai` package, unmodified, with another base URL."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from serving.core import Image, Message, RawPrompt, Tool, ToolCall
from serving.engine.fake import IMAGE_TOKENS
from tests.contract.clients import OpenAI
from tests.contract.conftest import ASKED, Running
from tests.contract.requests import (
    AFTER_CALL,
    CALL,
    FUNCTION,
    LONG_CALL,
    PARAMETERS,
    PNG,
    SAY,
    SEE,
    TOOL,
    TWO_CALLS,
    URI,
)
from tests.gateway.conftest import MODEL


@pytest.fixture
def client(service: Running) -> openai.OpenAI:
    return OpenAI(service.place, ASKED).client


def test_a_chat_completion(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model=MODEL, messages=SAY)
    (choice,) = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Say hello.")
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert (found.object, found.model) == ("chat.completion", MODEL)
    assert found.usage is not None
    assert found.usage.total_tokens == 4
    assert found.usage.prompt_tokens_details is not None
    assert found.usage.prompt_tokens_details.cached_tokens == 0


def test_tokens_of_an_answer_are_limited(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=SAY, max_completion_tokens=1, max_tokens=9
    )
    assert found.choices[0].message.content == "Say"
    assert found.choices[0].finish_reason == "length"


def test_a_streamed_chat_completion(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=SAY, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Say", " hello.", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [4]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_of_a_stream_as_openai_counts_it(client: openai.OpenAI, wanted: bool) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=SAY, stream=True, stream_options={"include_usage": wanted}
        )
    )
    counted = [chunk for chunk in chunks if chunk.usage]
    assert [(chunk.choices, chunk.usage.total_tokens) for chunk in counted if chunk.usage] == (
        [([], 4)] if wanted else []
    )


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=SAY) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert final.choices[0].message.content == "Say hello."


def test_a_call_of_a_tool(service: Running, client: openai.OpenAI) -> None:
    service.engine.answer = TWO_CALLS
    found = client.chat.completions.create(model=MODEL, messages=SAY, tools=[TOOL])
    (choice,) = found.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls: Any = choice.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", '{"city":"Paris"}'),
        ("get_weather", '{"city":"Rome"}'),
    ]
    assert len({call.id for call in calls}) == 2
    declared = Tool(FUNCTION["name"], FUNCTION["description"], PARAMETERS)
    assert service.engine.generations[0].tools == (declared,)


def test_streamed_calls_come_with_their_name_first_and_one_after_the_other(
    service: Running, client: openai.OpenAI
) -> None:
    service.engine.answer = TWO_CALLS
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=SAY, tools=[TOOL], stream=True)
    )
    assert all(chunk.choices[0].delta.content == "" for chunk in chunks)
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert [
        (
            part.index,
            part.function and part.function.name,
            part.function and part.function.arguments,
        )
        for part in parts
    ] == [
        (0, "get_weather", ""),
        (0, None, '{"city":"Paris"}'),
        (1, "get_weather", ""),
        (1, None, '{"city":"Rome"}'),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_forced_call_is_streamed_as_it_is_written(
    service: Running, client: openai.OpenAI
) -> None:
    service.engine.answer = LONG_CALL
    asked: Any = {"tools": [TOOL], "tool_choice": "required"}
    chunks = list(client.chat.completions.create(model=MODEL, messages=SAY, stream=True, **asked))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    functions: Any = [part.function for part in parts]
    assert [(part.index, bool(part.id)) for part in parts[:2]] == [(0, True), (0, False)]
    assert [function.name for function in functions] == ["get_weather"] + [None] * 3
    assert [function.arguments for function in functions] == ["", '{"city":', ' "New', ' York"}']
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"
    with client.chat.completions.stream(model=MODEL, messages=SAY, **asked) as stream:
        final: Any = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "New York"}


def test_a_forced_call_that_is_cut_says_so(service: Running, client: openai.OpenAI) -> None:
    service.engine.answer = LONG_CALL
    asked: Any = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 5, "stream": True}
    chunks: Any = list(client.chat.completions.create(model=MODEL, messages=SAY, **asked))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert "".join(part.function.arguments for part in parts) == '{"city": "New'
    assert chunks[-1].choices[0].finish_reason == "length"
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    asked = {"tools": [tool], "tool_choice": "required", "max_output_tokens": 5, "stream": True}
    *_, done, last = list(client.responses.create(model=MODEL, input="weather?", **asked))
    assert (done.item.status, done.item.arguments) == ("incomplete", '{"city": "New')
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")


def test_one_call_at_a_time(service: Running, client: openai.OpenAI) -> None:
    service.engine.answer = TWO_CALLS
    found = client.chat.completions.create(
        model=MODEL, messages=SAY, tools=[TOOL], parallel_tool_calls=False
    )
    assert len(found.choices[0].message.tool_calls or ()) == 1


def test_a_call_that_is_required_is_made(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=SAY, tools=[TOOL], tool_choice="required"
    )
    calls: Any = found.choices[0].message.tool_calls
    assert calls[0].function.name == "get_weather"


def test_a_conversation_that_used_a_tool(service: Running, client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model=MODEL, messages=AFTER_CALL, tools=[TOOL])
    assert found.choices[0].message.content == "sunny"
    call = ToolCall("get_weather", {"city": "Paris"}, "chatcmpl-tool-0123456789")
    assert service.engine.generations[0].prompt == (
        Message("user", ("Say hello.",)),
        Message("assistant", (), (call,)),
        Message("tool", ("sunny",), tool_call_id="chatcmpl-tool-0123456789"),
    )


def test_a_picture(service: Running, client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model=MODEL, messages=SEE)
    assert found.usage is not None
    assert found.usage.prompt_tokens == 3 + IMAGE_TOKENS
    seen = Message("user", ("What colour?", Image(PNG)))
    assert service.engine.generations[0].prompt == (seen,)


def test_json_is_a_text_here(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=SAY, response_format={"type": "json_object"}
    )
    assert json.loads(found.choices[0].message.content or "") == {"echo": "Say hello."}


def test_structured_output(service: Running, client: openai.OpenAI) -> None:
    class Echo(BaseModel):
        echo: str

    found = client.chat.completions.parse(model=MODEL, messages=SAY, response_format=Echo)
    assert found.choices[0].message.parsed == Echo(echo="Say hello.")
    wanted = service.engine.generations[0].json
    assert wanted is not None
    assert wanted.schema is not None
    assert wanted.schema["properties"].keys() == {"echo"}


@pytest.mark.parametrize(
    "unserved",
    [
        {"n": 2},
        {"logprobs": True},
        {"logit_bias": {"1": 1}},
        {"functions": [FUNCTION]},
        {"modalities": ["text", "audio"]},
        {"temperature": 9},
        {"max_tokens": 0},
        {"tool_choice": "any"},
    ],
)
def test_what_is_not_served_is_refused(client: openai.OpenAI, unserved: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=SAY, **unserved)
    (name,) = unserved
    error: Any = caught.value.body
    assert name in error["message"] or error["code"] == "8001"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "ignored",
    [
        {"user": "me"},
        {"store": True, "metadata": {"a": "b"}},
        {"logprobs": False},
        {"n": 1},
        {"stop": None, "max_tokens": None, "seed": None},
        {"reasoning_effort": "low"},
    ],
)
def test_what_changes_no_answer_is_ignored(client: openai.OpenAI, ignored: dict[str, Any]) -> None:
    found = client.chat.completions.create(model=MODEL, messages=SAY, **ignored)
    assert found.choices[0].message.content == "Say hello."


def test_errors_are_those_of_the_client(service: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="Authentication error"):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="No such model @cf/x") as caught:
        client.chat.completions.create(model="@cf/x", messages=SAY)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="The model name is invalid"):
        client.models.retrieve("@cf/x")
    service.engine.faults.overloaded = True
    with pytest.raises(openai.RateLimitError, match="Capacity temporarily exceeded"):
        client.chat.completions.create(model=MODEL, messages=SAY)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_an_engine_that_fails_on_the_way_breaks_the_stream(
    service: Running, client: openai.OpenAI, endpoint: str
) -> None:
    service.engine.faults.fail_after = 1
    if endpoint == "chat":
        with pytest.raises(openai.APIError, match="Internal server error"):
            list(client.chat.completions.create(model=MODEL, messages=SAY, stream=True))
    else:
        last: Any = list(client.responses.create(model=MODEL, input="a b", stream=True))[-1]
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert "Internal server error" in last.response.error.message


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [(model.id, model.owned_by) for model in listed] == [(MODEL, "meta")]
    assert client.models.retrieve(MODEL) == listed[0]


@pytest.mark.parametrize("prompt", ["go on", ["go on"]])
def test_a_completion_goes_on_with_a_text_as_it_is(
    service: Running, client: openai.OpenAI, prompt: Any
) -> None:
    found = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("go", "length")
    assert service.engine.generations[0].prompt == RawPrompt("go on")
    chunks = list(client.completions.create(model=MODEL, prompt=prompt, stream=True))
    assert [chunk.choices[0].text for chunk in chunks] == ["go", " on", ""]
    assert chunks[-1].usage is not None


@pytest.mark.parametrize(
    "unserved", [{"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"echo": True}, {"suffix": "x"}]
)
def test_completions_that_are_not_served(client: openai.OpenAI, unserved: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(unserved))):
        client.completions.create(**{"model": MODEL, "prompt": "hi", **unserved})


def test_a_response(service: Running, client: openai.OpenAI) -> None:
    found = client.responses.create(model=MODEL, instructions="Be brief.", input="Say hello.")
    assert (found.output_text, found.status) == ("Say hello.", "completed")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (4, 2)
    assert service.engine.generations[0].prompt == (
        Message("system", ("Be brief.",)),
        Message("user", ("Say hello.",)),
    )


def test_a_response_that_was_cut(client: openai.OpenAI) -> None:
    found = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=1)
    assert (found.status, found.output_text) == ("incomplete", "Say")
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"


def test_a_streamed_response(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(model=MODEL, input="a b c", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type.endswith("text.delta")) == "a b c"
    assert events[-1].response.output_text == "a b c"


def test_the_helper_for_streamed_responses(service: Running, client: openai.OpenAI) -> None:
    service.engine.answer = TWO_CALLS
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    with client.responses.stream(model=MODEL, input="weather?", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.done") == 2
    outputs: list[Any] = list(final.output)
    assert [(item.type, item.name, item.arguments) for item in outputs] == [
        ("function_call", "get_weather", '{"city":"Paris"}'),
        ("function_call", "get_weather", '{"city":"Rome"}'),
    ]


def test_a_forced_call_grows_in_a_streamed_response(
    service: Running, client: openai.OpenAI
) -> None:
    service.engine.answer = LONG_CALL
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    asked: Any = {"tools": [tool], "tool_choice": "required", "stream": True}
    events: list[Any] = list(client.responses.create(model=MODEL, input="weather?", **asked))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * 3,
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    (made,) = events[-1].response.output
    assert (made.name, json.loads(made.arguments)) == ("get_weather", {"city": "New York"})
    assert "".join(e.delta for e in events if e.type.endswith("arguments.delta")) == made.arguments


def test_a_response_after_a_call_and_with_a_picture(
    service: Running, client: openai.OpenAI
) -> None:
    service.engine.answer = CALL
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    first = client.responses.create(model=MODEL, input="weather?", tools=[tool])
    call: Any = first.output[0]
    service.engine.answer = None
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "input_image", "image_url": URI, "detail": "auto"}]},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    second = client.responses.create(model=MODEL, input=turns, tools=[tool])
    assert second.output_text == "sunny"
    assert service.engine.generations[1].prompt == (
        Message("user", (Image(PNG),)),
        Message("assistant", (), (ToolCall("get_weather", {"city": "Paris"}, call.call_id),)),
        Message("tool", ("sunny",), tool_call_id=call.call_id),
    )


def test_a_structured_response(client: openai.OpenAI) -> None:
    class Echo(BaseModel):
        echo: str

    found = client.responses.parse(model=MODEL, input="hi", text_format=Echo)
    assert found.output_parsed == Echo(echo="hi")


@pytest.mark.parametrize(
    "unserved",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
    ],
)
def test_responses_that_are_not_served(client: openai.OpenAI, unserved: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(unserved))):
        client.responses.create(**{"model": MODEL, "input": "hi", **unserved})
