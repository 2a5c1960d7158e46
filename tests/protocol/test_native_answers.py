"""Deltas -> answers and frames of `ai/run`, and errors in the published shapes."""

import json
from typing import Any

import pytest

from serving import errors
from serving.core import Delta, Finish, Generation, JsonFormat, Tool, ToolCall, Usage
from serving.protocol import envelope, native, sse
from serving.protocol.dialect import Ask
from tests.protocol.models import catalog

PLAIN = Generation("r1", "@cf/m", ())
JSON = Generation("r1", "@cf/m", (), json=JsonFormat())
TOOLS = Generation("r1", "@cf/m", (), tools=(Tool("f"),))
ASK = Ask("r1", catalog(), "@cf/m")
USAGE = Usage(10, 3, 2)
USAGE_ON_WIRE = {
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def final(text: str = "", calls: tuple[ToolCall, ...] = ()) -> Delta:
    return Delta(text, calls, Finish.STOP, USAGE)


def result(generation: Generation, delta: Delta) -> Any:
    body = json.loads(native.Writer(generation, ASK).whole(delta))
    assert body == {"result": body["result"], "success": True, "errors": [], "messages": []}
    return body["result"]


def events(generation: Generation, *deltas: Delta, ask: Ask = ASK) -> list[Any]:
    """The decoded frames; each is one `data:` line and a blank one."""
    writer = native.Writer(generation, ask)
    stream = b"".join(writer.frames(delta) for delta in deltas)
    assert stream.endswith(b"\n\n")
    lines = stream.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [
        text if text == "[DONE]" else json.loads(text)
        for text in (line.removeprefix("data: ") for line in lines)
    ]


def test_an_answer_holds_the_text_no_calls_and_the_usage() -> None:
    expected = {"response": "Hello", "tool_calls": [], "usage": USAGE_ON_WIRE}
    assert result(PLAIN, final("Hello")) == expected


def test_a_json_answer_arrives_parsed() -> None:
    assert result(JSON, final('{"name": "India"}'))["response"] == {"name": "India"}


def test_json_is_not_parsed_unless_asked_for() -> None:
    assert result(PLAIN, final("[1]"))["response"] == "[1]"


def test_json_cut_short_is_an_error() -> None:
    with pytest.raises(errors.JsonNotMet):
        native.Writer(JSON, ASK).whole(final('{"name": "Ind'))


def test_calls_in_the_text_become_tool_calls() -> None:
    found = result(TOOLS, final('{"name": "f", "parameters": {"a": 1}}'))
    assert found["response"] == ""
    assert found["tool_calls"] == [{"name": "f", "arguments": {"a": 1}}]


def test_a_stream_is_text_frames_then_usage_then_done() -> None:
    deltas = (Delta("Hel"), Delta("lo"), final("!"))
    assert events(PLAIN, *deltas) == [
        {"response": "Hel"},
        {"response": "lo"},
        {"response": "!"},
        {"response": "", "usage": USAGE_ON_WIRE},
        "[DONE]",
    ]


def test_text_survives_the_frame() -> None:
    text = 'quote " backslash \\ line\nbreak \u2028 café 🙂 \x00 </script>'
    assert events(PLAIN, Delta(text), final())[0] == {"response": text}


def test_a_delta_without_text_makes_no_frame() -> None:
    assert native.Writer(PLAIN, ASK).frames(Delta()) == b""


def test_streamed_calls_are_one_flat_frame() -> None:
    deltas = (Delta('{"name": "f", '), Delta('"parameters": {}}'), final())
    assert events(TOOLS, *deltas) == [
        {"response": "", "tool_calls": [{"name": "f", "arguments": {}}]},
        {"response": "", "usage": USAGE_ON_WIRE},
        "[DONE]",
    ]


def test_calls_the_engine_found_itself_are_passed_on() -> None:
    call = ToolCall("f", {"a": 1})
    assert events(PLAIN, final("", (call,)))[0]["tool_calls"] == [
        {"name": "f", "arguments": {"a": 1}}
    ]


MODEL_ERRORS: list[tuple[errors.ServingError, int, int, str]] = [
    (errors.InvalidInput("oneOf"), 400, 5006, "AiError: Bad input: Error: oneOf (r1)"),
    (errors.MalformedBody("not JSON"), 400, 5006, "AiError: Bad input: Error: not JSON (r1)"),
    (
        errors.InvalidImage("reason invalid base64 encoding"),
        400,
        8006,
        "AiError: AiError: Invalid data for image - reason invalid base64 encoding (r1)",
    ),
    (
        errors.NotAnImage("object"),
        400,
        5004,
        "AiError: AiError: Invalid data type for base64 input: object (r1)",
    ),
    (
        errors.UnknownModel("@cf/x"),
        400,
        5007,
        "AiError: No such model: No such model @cf/x or task (r1)",
    ),
    (
        errors.ContextExceeded(200, 100),
        413,
        5021,
        "AiError: Ai: The estimated number of input and maximum output tokens (200) "
        "exceeded this model context window limit (100). (r1)",
    ),
    (errors.BodyTooLarge(9), 413, 3006, "AiError: AiError: Request is too large, the limit is 9"),
    (errors.MissingBody(), 400, 3003, "AiError: AiError: Request is missing headers or body: body"),
    (errors.LoraUnsupported("m"), 405, 5005, "AiError: AiError: The model m does not support LoRA"),
    (errors.Overloaded("Busy."), 429, 3040, "AiError: AiError: Busy. (r1)"),
    (errors.JsonNotMet(), 400, 5024, "AiError: AiError: JSON Mode couldn't be met (r1)"),
    (errors.EngineFailed("secret"), 500, 3043, "AiError: AiError: Internal server error (r1)"),
]

API_ERRORS: list[tuple[errors.ServingError, int, int, str]] = [
    (errors.UnknownPath(), 400, 7000, "No route for that URI"),
    (
        errors.UnknownObject("/a/b"),
        404,
        7003,
        "Could not route to /a/b, perhaps your object identifier is invalid?",
    ),
    (errors.MethodRefused("GET", "POST"), 405, 7001, "GET not supported for requested URI."),
    (errors.Unauthenticated("Missing"), 400, 9106, "Missing"),
    (errors.WrongToken("Authentication error"), 401, 10000, "Authentication error"),
    (errors.Forbidden("Authentication error"), 403, 10000, "Authentication error"),
]


@pytest.mark.parametrize(("error", "status", "code", "text"), MODEL_ERRORS)
def test_model_errors_name_the_request(
    error: errors.ServingError, status: int, code: int, text: str
) -> None:
    body = json.loads(envelope.failure(error, "r1"))
    message = body["errors"][0]["message"]
    assert message.startswith(text)
    assert message.endswith(" (r1)")
    assert body == {
        "errors": [{"message": message, "code": code}],
        "success": False,
        "result": {},
        "messages": [],
    }
    assert envelope.problem(error).status == status


@pytest.mark.parametrize(("error", "status", "code", "text"), API_ERRORS)
def test_api_errors_have_a_null_result(
    error: errors.ServingError, status: int, code: int, text: str
) -> None:
    assert json.loads(envelope.failure(error, "r1")) == {
        "result": None,
        "success": False,
        "errors": [{"code": code, "message": text}],
        "messages": [],
    }
    assert envelope.problem(error).status == status


def test_some_errors_have_headers() -> None:
    assert envelope.headers(errors.Overloaded("", 2.1)) == [(b"retry-after", b"3")]
    assert envelope.headers(errors.Overloaded("", 0)) == [(b"retry-after", b"1")]
    assert envelope.headers(errors.MethodRefused("GET", "POST")) == [(b"allow", b"POST")]
    assert envelope.headers(errors.UnknownPath()) == []


def test_a_broken_stream_says_so_in_a_frame_clients_can_print() -> None:
    frame = sse.event(envelope.interruption(errors.EngineFailed(), "r1"))
    body = json.loads(frame.removeprefix(b"data: "))
    assert body["response"] == ""
    assert body["errors"][0]["code"] == 3043
