"""The published validator's answers, body by body."""

import random
from typing import Any

import pytest

from serving.errors import InvalidInput
from serving.protocol import schema

HI = {"prompt": "hi"}
TURN = {"role": "user", "content": "hi"}
CHAT = {"messages": [TURN]}
NO_PROMPT = "required properties at '/' are 'prompt'"
NO_MESSAGES = "required properties at '/' are 'messages'"
# A text content is noted as not being the array it might have been.
TEXT_NOTE = "Type mismatch of '/messages/0/content', 'array' not in 'string'"


def neither(*complaints: str) -> str:
    return f"oneOf at '/' not met, 0 matches: {', '.join(complaints)}"


NEITHER_FIELD = neither(NO_PROMPT, NO_MESSAGES)

VALID: dict[str, Any] = {
    "a conversation": CHAT,
    "an empty conversation": {"messages": []},
    "null content beside tool calls": {
        "messages": [TURN, {"role": "assistant", "content": None, "tool_calls": []}]
    },
    "content beyond the prompt's limit": {"messages": [{"role": "user", "content": "x" * 131_073}]},
    "a role nobody knows": {"messages": [{"role": "banana", "content": "x"}]},
    "image as bytes": HI | {"image": [137, 80, 78, 71]},
    "image as no bytes": HI | {"image": []},
    "image as base64": HI | {"image": "iVBORw0KGgo="},
    "image as data URI": HI | {"image": "data:image/png;base64,iVBORw0KGgo="},
    "image as an object": HI | {"image": {"a": 1}},
    "image as null": HI | {"image": None},
    "image as a number": HI | {"image": 3},
    "pixels out of range": HI | {"image": [300, -1]},
    "the hottest temperature": HI | {"temperature": 5},
    "the widest top_p": HI | {"top_p": 2},
    "the largest seed": HI | {"seed": 9_999_999_999},
    "an integer written as a float": HI | {"max_tokens": 5.0},
    "negative max_tokens": HI | {"max_tokens": -5},
    "enormous max_tokens": HI | {"max_tokens": 10_000_000},
    "an unknown field": HI | {"banana": 1},
    "a response format": CHAT | {"response_format": {"type": "json_object"}},
    "a function with code": CHAT | {"functions": [{"name": "f", "code": "return 1"}]},
    "a tool that is none of the shapes": CHAT | {"tools": [{"a": 1}]},
    "a long tool call id": {
        "messages": [
            TURN,
            {"role": "tool", "tool_call_id": "chatcmpl-tool-ed7127682c90443d", "content": "x"},
        ]
    },
    "a list of two parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}
        ]
    },
    "a web address as image": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}
        ]
    },
}

REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ({}, NEITHER_FIELD),
    "a batch": ({"requests": [HI]}, NEITHER_FIELD),
    "a poll of a batch": ({"request_id": "x"}, NEITHER_FIELD),
    "a list": ([1, 2], NEITHER_FIELD),
    "a text": ("x", NEITHER_FIELD),
    "null": (None, NEITHER_FIELD),
    "one turn outside a list": ({"messages": TURN}, NEITHER_FIELD),
    "both": (HI | CHAT, f"oneOf at '/' not met, 2 matches: {TEXT_NOTE}"),
    "an empty prompt": (
        {"prompt": ""},
        neither("Length of '/prompt' must be >= 1 not met", NO_MESSAGES),
    ),
    "a prompt too long": (
        {"prompt": "x" * 131_073},
        neither("Length of '/prompt' must be <= 131072", NO_MESSAGES),
    ),
    "a prompt too long in UTF-16": (
        {"prompt": "\N{GRINNING FACE}" * 65_537},
        neither("Length of '/prompt' must be <= 131072", NO_MESSAGES),
    ),
    "a number as prompt": (
        {"prompt": 1},
        neither("Type mismatch of '/prompt', 'string' not in 'number','integer'", NO_MESSAGES),
    ),
    "a null prompt": (
        {"prompt": None},
        neither("Type mismatch of '/prompt', 'string' not in 'null'", NO_MESSAGES),
    ),
    "a number as lora": (
        HI | {"lora": 3},
        neither("Type mismatch of '/lora', 'string' not in 'number','integer'", NO_MESSAGES),
    ),
    "tools as a text": (
        CHAT | {"tools": "x"},
        neither(NO_PROMPT, TEXT_NOTE, "Type mismatch of '/tools', 'array' not in 'string'"),
    ),
    "a short tool call id": (
        {"messages": [TURN, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
        neither(
            NO_PROMPT,
            TEXT_NOTE,
            "'/messages/1/tool_call_id' failed test [a-zA-Z0-9]{9} patttern",
        ),
    ),
    "a function without code": (
        CHAT | {"functions": [{"name": "f"}]},
        neither(NO_PROMPT, TEXT_NOTE, "required properties at '/functions/0' are 'name,code'"),
    ),
    "two parts and no role": (
        {"messages": [{"content": [{"type": "text"}, {"type": "text"}]}]},
        neither(
            NO_PROMPT,
            "Type mismatch of '/messages/0/content', 'string' not in 'array'",
            NO_MESSAGES,
        ),
    ),
}

# Both shapes complain about a sampling field in the same words, so it is said once.
SAMPLING: list[tuple[str, Any, str]] = [
    ("temperature", 5.1, "'/temperature' must be <= 5"),
    ("temperature", -0.1, "'/temperature' must be >= 0"),
    ("temperature", "0.5", "Type mismatch of '/temperature', 'number' not in 'string'"),
    ("top_p", 2.1, "'/top_p' must be <= 2"),
    ("top_k", 51, "'/top_k' must be <= 50"),
    ("top_k", 0, "'/top_k' must be >= 1"),
    ("top_k", 1.5, "Type mismatch of '/top_k', 'integer' not in 'number'"),
    ("seed", 0, "'/seed' must be >= 1"),
    ("seed", 10_000_000_000, "'/seed' must be <= 9999999999"),
    ("repetition_penalty", 2.1, "'/repetition_penalty' must be <= 2"),
    ("frequency_penalty", 2.5, "'/frequency_penalty' must be <= 2"),
    ("frequency_penalty", -0.5, "'/frequency_penalty' must be >= 0"),
    ("presence_penalty", 3, "'/presence_penalty' must be <= 2"),
    ("max_tokens", "x", "Type mismatch of '/max_tokens', 'integer' not in 'string'"),
    ("max_tokens", None, "Type mismatch of '/max_tokens', 'integer' not in 'null'"),
    ("max_tokens", True, "Type mismatch of '/max_tokens', 'integer' not in 'boolean'"),
    ("stream", "yes", "Type mismatch of '/stream', 'boolean' not in 'string'"),
]


@pytest.mark.parametrize("body", VALID.values(), ids=VALID.keys())
def test_accepts(body: Any) -> None:
    schema.validate(body)


@pytest.mark.parametrize(("body", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_in_the_published_words(body: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema.validate(body)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(("name", "value", "complaint"), SAMPLING)
def test_refuses_a_sampling_field_once_for_both_shapes(
    name: str, value: Any, complaint: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema.validate(HI | {name: value})
    assert str(caught.value) == neither(complaint)


def test_swallowed_complaints_are_listed_when_the_body_fails_anyway() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    schema.validate(CHAT | {"tools": [tool]})
    with pytest.raises(InvalidInput, match="at '/tools/0/function/parameters' are 'type,prop"):
        schema.validate(CHAT | {"tools": [tool], "top_k": 51})


@pytest.mark.parametrize("seed", range(50))
def test_any_json_is_either_accepted_or_refused(seed: int) -> None:
    """No body makes the validator itself fall over."""
    chance = random.Random(seed)
    names = ["prompt", "messages", "image", "tools", "functions", "role", "content", "parameters"]

    def value(depth: int) -> Any:
        kind = chance.randrange(8 if depth else 6)
        if kind == 6:
            return [value(depth - 1) for _ in range(chance.randrange(3))]
        if kind == 7:
            return {chance.choice(names): value(depth - 1) for _ in range(3)}
        return [None, True, 7, 0.5, "", "x"][kind]

    for _ in range(40):
        body = {name: value(5) for name in names if chance.random() < 0.6}
        try:
            schema.validate(body)
        except InvalidInput as error:
            assert str(error).startswith("oneOf at '/' not met, ")  # noqa: PT017
