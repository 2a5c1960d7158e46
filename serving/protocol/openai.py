"""What the dialects of OpenAI's API share: sampling fields, what they refuse, usage, errors.

An error answer is the envelope with OpenAI's `error` object beside, so that clients of either API
find what they look for.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving import errors
from serving.core import Finish, Sampling, ToolCall
from serving.errors import InvalidInput
from serving.protocol import calls, envelope, sampling, sse

Tokens = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
FINISH = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.TOOL_CALLS: "tool_calls"}

_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES: dict[type[errors.ServingError], str] = {
    errors.ContextExceeded: "context_length_exceeded",
    errors.UnknownModel: "model_not_found",
    errors.UnknownAdapter: "model_not_found",
    errors.UnknownEntry: "model_not_found",
    errors.Overloaded: "rate_limit_exceeded",
    errors.InvalidImage: "invalid_image",
}


class StreamOptions(msgspec.Struct):
    """`stream_options`. Unset, usage comes as Workers AI sends it: with the finish reason."""

    include_usage: bool | None = None


class Body(msgspec.Struct, kw_only=True):
    """Fields of both kinds of completion. Ranges: the published ones, and OpenAI's where wider."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=50)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0, le=2)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: str | list[str] | None = None
    lora: str | None = None
    # What is refused unless it asks for nothing.
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    logit_bias: dict[str, float] | None = None

    def check(self) -> None:
        """Refuse what would change the answer and is not served here.

        Raises:
            InvalidInput: `logit_bias`.
        """
        if self.logit_bias:
            raise InvalidInput("'/logit_bias' is not supported")

    def sampling(self) -> Sampling:
        """How tokens are drawn; Workers AI's defaults for what is absent."""
        given = {name: getattr(self, name) for name in _SAMPLING}
        return sampling.parse({name: value for name, value in given.items() if value is not None})


def failure(error: errors.ServingError, request_id: str) -> bytes:
    """The body of an error answer."""
    return sse.encode(described(error, request_id))


def described(error: errors.ServingError, request_id: str) -> dict[str, Any]:
    """The envelope of an error with the `error` object beside."""
    body = envelope.described(error, request_id)
    entry = body["errors"][0]
    body["error"] = {
        "message": entry["message"],
        "type": _type(envelope.problem(error).status),
        "param": None,
        "code": _CODES.get(type(error), str(entry["code"])),
    }
    return body


def ending(
    head: dict[str, Any], last: dict[str, Any], used: dict[str, Any], apart: bool | None
) -> bytes:
    """The `last` chunk of a stream, the usage and `[DONE]`.

    `apart` is `include_usage`: with it the usage has a chunk of its own, refused there is none, and
    where nothing was said it is in the last chunk, as Workers AI sends it.
    """
    if apart is None:
        return sse.event({**last, "usage": used}) + sse.DONE
    counted = sse.event({**head, "choices": [], "usage": used}) if apart else b""
    return sse.event(last) + counted + sse.DONE


def call_id(request_id: str, index: int) -> str:
    """An id for a call: letters and digits of the request's, which is unique, and its place."""
    return f"chatcmpl-tool-{request_id.replace('-', '')[:28]}{index:04x}"


def function_call(call: ToolCall, id_: str) -> dict[str, Any]:
    """A call as OpenAI nests it; the arguments are text."""
    function = {"name": call.name, "arguments": calls.arguments(call)}
    return {"id": id_, "type": "function", "function": function}


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")
