"""Bodies of `ai/run` -> generations."""

import base64
import json
from typing import Any

import pytest

from serving.core import (
    Generation,
    Image,
    JsonFormat,
    Message,
    RawPrompt,
    Sampling,
    Tool,
    ToolCall,
)
from serving.errors import (
    InvalidImage,
    InvalidInput,
    LoraUnsupported,
    MalformedBody,
    MissingBody,
)
from serving.protocol import native
from serving.protocol.dialect import Ask
from tests.protocol.models import catalog

PNG = Image(b"\x89PNG")
B64 = base64.b64encode(PNG.data).decode()
URI = f"data:image/png;base64,{B64}"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def parse(body: dict[str, Any] | bytes, max_images: int = 2) -> Generation:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return native.parse(data, Ask("r1", catalog(max_images), "@cf/m"))[0]


def turns(*messages: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    prompt = parse({"messages": list(messages), **fields}).prompt
    assert isinstance(prompt, tuple)
    return prompt


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_prompt_is_the_users_only_turn() -> None:
    expected = Generation("r1", "@cf/m", (Message("user", ("hi",)),))
    assert parse({"prompt": "hi"}) == expected


def test_the_licence_word_is_a_prompt_like_any_other() -> None:
    assert parse({"prompt": "agree"}).prompt == (Message("user", ("agree",)),)


@pytest.mark.parametrize("image", [B64, URI, list(PNG.data)])
def test_an_image_comes_before_the_prompt(image: Any) -> None:
    assert parse({"prompt": "hi", "image": image}).prompt == (Message("user", (PNG, "hi")),)


@pytest.mark.parametrize("raw", [True, "true"])
def test_a_raw_prompt_skips_the_template(raw: Any) -> None:
    generation = parse({"prompt": "<|image|>hi", "raw": raw, "image": URI})
    assert generation.prompt == RawPrompt("<|image|>hi", (PNG,))


def test_an_image_beside_messages_belongs_to_the_last_user_turn() -> None:
    first, last = user("one"), user("two")
    answer = {"role": "assistant", "content": "ok"}
    assert turns(first, answer, last, answer, image=URI) == (
        Message("user", ("one",)),
        Message("assistant", ("ok",)),
        Message("user", (PNG, "two")),
        Message("assistant", ("ok",)),
    )


def test_an_image_without_a_user_turn_gets_one() -> None:
    system = {"role": "system", "content": "Describe."}
    assert turns(system, image=URI) == (
        Message("system", ("Describe.",)),
        Message("user", (PNG,)),
    )


def test_parts_keep_their_order() -> None:
    parts = [
        {"type": "text", "text": "left"},
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "text", "text": "right"},
        {"type": "image_url", "image_url": URI},
    ]
    assert turns(user(parts)) == (Message("user", ("left", PNG, "right", PNG)),)


def test_content_may_be_one_bare_part() -> None:
    assert turns(user({"type": "text", "text": "hi"})) == (Message("user", ("hi",)),)


@pytest.mark.parametrize(
    ("role", "speaks_as"),
    [
        ("developer", "system"),
        ("function", "tool"),
        ("ipython", "tool"),
        ("banana", "user"),
        (None, "user"),
    ],
)
def test_any_role_finds_one_the_model_knows(role: str | None, speaks_as: str) -> None:
    assert turns({"role": role, "content": "x"})[0].role == speaks_as


def test_a_tool_round_trip_is_read_in_both_shapes() -> None:
    nested = {
        "id": "call-12345",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 1}'},
    }
    flat = {"name": "f", "arguments": {"a": 1}}
    asks = {"role": "assistant", "content": None, "tool_calls": [nested, flat]}
    tells = {"role": "tool", "name": None, "tool_call_id": "call-1234567890", "content": "42"}
    assert turns(user("?"), asks, tells)[1:] == (
        Message(
            "assistant",
            (),
            (ToolCall("f", {"a": 1}, "call-12345"), ToolCall("f", {"a": 1})),
        ),
        Message("tool", ("42",), (), "call-1234567890"),
    )


def test_absent_fields_take_the_published_defaults() -> None:
    sampling = parse({"prompt": "hi"}).sampling
    assert (sampling.max_tokens, sampling.temperature) == (256, 0.6)
    assert sampling == Sampling()


def test_every_sampling_field_arrives() -> None:
    fields = {
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
    }
    sampling = parse({"prompt": "hi", "stop": "END", **fields}).sampling
    assert sampling == Sampling(**fields, stop=("END",))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_p": 2}, Sampling(top_p=1.0)),
        ({"top_p": 0}, Sampling(top_k=1)),
        ({"repetition_penalty": 0}, Sampling()),
        ({"max_tokens": 5.0, "top_k": 3.0, "seed": 2.0}, Sampling(max_tokens=5, top_k=3, seed=2)),
        ({"stop": ["a", "", "b"]}, Sampling(stop=("a", "b"))),
    ],
)
def test_the_ends_of_the_published_ranges_mean_something(
    fields: dict[str, Any], expected: Sampling
) -> None:
    sampling = parse({"prompt": "hi", **fields}).sampling
    assert sampling == expected
    assert all(not isinstance(n, float) for n in (sampling.max_tokens, sampling.top_k))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb'{"prompt": "\ud83d\ude00"}', "\N{GRINNING FACE}"),
        (rb'{"prompt": "cut \ud83d"}', "cut ?"),
        (b'\xef\xbb\xbf{"prompt": "marked"}', "marked"),
    ],
)
def test_what_javascript_can_read_is_read(body: bytes, text: str) -> None:
    assert parse(body).prompt == (Message("user", (text,)),)


def test_nulls_are_absent_fields() -> None:
    nulls = dict.fromkeys(["stop", "max_tokens", "stream", "image", "tools", "response_format"])
    message = {**user("hi"), "name": None, "tool_calls": None, "tool_call_id": None}
    expected = parse({"messages": [user("hi")]})
    assert parse({"messages": [message], **nulls}) == expected


def test_a_null_prompt_is_absent_beside_messages_and_else_refused_as_published() -> None:
    assert parse({"prompt": None, "messages": [user("hi")]}) == parse({"messages": [user("hi")]})
    with pytest.raises(InvalidInput, match="Type mismatch of '/prompt', 'string' not in 'null'"):
        parse({"prompt": None})


def test_stream_is_a_flag() -> None:
    assert parse({"prompt": "hi", "stream": True}).stream
    assert not parse({"prompt": "hi"}).stream


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonFormat()),
        ({"type": "json_schema", "json_schema": SCHEMA}, JsonFormat(SCHEMA)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            JsonFormat(SCHEMA),
        ),
        (
            {"type": "json_schema", "json_schema": {"type": "object", "schema": {}}},
            JsonFormat({"type": "object", "schema": {}}),
        ),
    ],
)
def test_json_formats_come_bare_and_wrapped(wanted: Any, expected: JsonFormat | None) -> None:
    assert parse({"prompt": "hi", "response_format": wanted}).json == expected


def test_tools_and_functions_are_declared_unless_none_is_wanted() -> None:
    body = {"messages": [user("hi")], "tools": [{"name": "f"}]}
    assert parse(body).tools == (Tool("f"),)
    assert parse({**body, "tool_choice": "none"}).tools == ()


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"", MissingBody, "Request is missing headers or body: body"),
        (b" \n", MissingBody, "Request is missing headers or body: body"),
        (b"{", MalformedBody, "the body is not JSON"),
        (b"prompt=hi", MalformedBody, "the body is not JSON"),
        (b'{"prompt": "\xff"}', MalformedBody, "the body is not JSON"),
        (b"[" * 100_000, MalformedBody, "nested too deeply"),
        (b"[]", InvalidInput, "oneOf at '/' not met"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    body: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        parse(body)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"messages": [3]}, InvalidInput, "'/messages/0' must be an object"),
        ({"messages": [user(3)]}, InvalidInput, "'/messages/0/content' must be a string"),
        (
            {"messages": [user([{"type": "video_url"}])]},
            InvalidInput,
            "'/messages/0/content/0' must be a text or image_url part",
        ),
        (
            {"messages": [{**user("x"), "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            InvalidInput,
            "'/messages/0/tool_calls/0' must have a JSON object as its arguments",
        ),
        (
            {"messages": [{**user("x"), "tool_calls": [{}]}]},
            InvalidInput,
            "'/messages/0/tool_calls/0' must name a function",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])]},
            InvalidImage,
            "HTTP URLs are not accepted",
        ),
        ({"prompt": "x", "max_tokens": 0}, InvalidInput, "'/max_tokens' must be >= 1"),
        ({"prompt": "x", "stop": 3}, InvalidInput, "'/stop' must be a string or an array"),
        ({"prompt": "x", "response_format": {}}, InvalidInput, "'/response_format' must be"),
        ({"prompt": "x", "lora": "mine"}, LoraUnsupported, "@cf/m does not support LoRA"),
    ],
)
def test_what_the_published_schema_lets_pass_and_nobody_can_mean_is_refused(
    fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        parse(fields)


@pytest.mark.parametrize("raw", [True, False])
def test_images_are_counted_against_the_models_limit(raw: bool) -> None:
    with pytest.raises(InvalidImage, match="at most 0 images, got 1"):
        parse({"prompt": "x", "image": URI, "raw": raw}, max_images=0)
