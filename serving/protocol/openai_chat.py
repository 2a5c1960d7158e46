"""OpenAI's chat completions, `ai/v1/chat/completions`.

Answers are bare objects. Beyond what Workers AI itself sends, streams say the role in their first
chunk and a text content in every one: OpenAI's own client libraries need the one, others the other.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from serving.core import CallPart, Delta, Generation, Usage
from serving.errors import InvalidInput, ServingError
from serving.protocol import (
    calls,
    images,
    messages,
    native,
    openai,
    payload,
    response_format,
    sse,
    tools,
)
from serving.protocol.dialect import Ask, Dialect
from serving.protocol.openai import FINISH

_HOLE = "\0"


class Body(openai.Body, kw_only=True):
    """A chat completion's request."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    max_completion_tokens: openai.Tokens | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None

    def check(self) -> None:
        """Raises: InvalidInput: something is asked for that is not served here."""
        openai.Body.check(self)
        if self.logprobs or self.top_logprobs:
            raise InvalidInput("'/logprobs' is not supported")
        if self.functions:
            raise InvalidInput("'/functions' is not supported, declare them as '/tools'")
        if self.modalities and self.modalities != ["text"]:
            raise InvalidInput("'/modalities' must be [\"text\"]")


def parse(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the body names.

    Raises:
        BadRequest: see `native.parse`.
    """
    body = payload.shaped(data, Body)
    model = ask.find(body.model)
    body.check()
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    turns = messages.parse(body.messages)
    images.check_count(messages.count_images(turns), model.max_images)
    offered, must_call = tools.choose(tools.parse(body.tools), body.tool_choice)
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=turns,
        sampling=body.sampling(),
        tools=offered,
        json=response_format.parse(body.response_format),
        stream=body.stream,
        must_call=must_call,
        lora=model.lora(body.lora),
    )
    return generation, Writer(generation, ask, body)


DIALECT = Dialect(parse, openai.failure)


class Writer:
    """Writes the completion or its chunks."""

    def __init__(self, generation: Generation, ask: Ask, body: Body) -> None:
        self._id = generation.id
        self._head = {
            "id": f"chatcmpl-{generation.id}",
            "object": "chat.completion",
            "created": ask.created,
            "model": generation.model,
        }
        self._usage = (body.stream_options or openai.StreamOptions()).include_usage
        only_one = body.parallel_tool_calls is False
        self._sift = calls.sift(generation, only_one=only_one, in_parts=True)
        self._calls = 0
        self._begun = False
        if generation.stream:
            self._head["object"] = "chat.completion.chunk"
            self._before, self._after = sse.template(self._chunk({"content": _HOLE}), _HOLE)

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        message: dict[str, Any] = {"role": "assistant", "content": delta.text}
        if delta.tool_calls:
            message["content"] = delta.text or None
            message["tool_calls"] = [
                openai.function_call(call, self._call_id(index))
                for index, call in enumerate(delta.tool_calls)
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": FINISH[delta.finish] if delta.finish else None,
        }
        used = native.usage(delta.usage or Usage())
        return sse.encode({**self._head, "choices": [choice], "usage": used})

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        frames = b""
        if delta.text:
            if self._begun:
                frames = self._before + sse.encode(delta.text) + self._after
            else:
                frames = self._first(delta.text)
        for part in calls.parts(delta):
            frames += self._call_chunks(part)
        if delta.finish is not None:
            frames += self._end(delta)
        return frames

    def broken(self, error: ServingError) -> bytes:
        """See `dialect.Writer`. The client libraries raise on a frame with an `error`."""
        return sse.event(openai.described(error, self._id))

    def _first(self, text: str) -> bytes:
        self._begun = True
        return sse.event(self._chunk({"role": "assistant", "content": text}))

    def _call_chunks(self, part: CallPart) -> bytes:
        """A chunk with the name of a call, and chunks with its arguments."""
        chunks = b"" if self._begun else self._first("")
        self._calls += bool(part.name)
        index = self._calls - 1
        if part.name:
            named = {"name": part.name, "arguments": ""}
            id_ = self._call_id(index)
            chunks += self._call_chunk(index, id=id_, type="function", function=named)
        if part.arguments:
            chunks += self._call_chunk(index, function={"arguments": part.arguments})
        return chunks

    def _call_chunk(self, index: int, **fields: Any) -> bytes:
        made = {"index": index, **fields}
        return sse.event(self._chunk({"content": "", "tool_calls": [made]}))

    def _call_id(self, index: int) -> str:
        return openai.call_id(self._id, index)

    def _end(self, delta: Delta) -> bytes:
        """The chunk with the finish reason, the usage in it or after it, and `[DONE]`."""
        opening = b"" if self._begun else self._first("")
        assert delta.finish is not None
        last = self._chunk({"content": ""}, FINISH[delta.finish])
        used = native.usage(delta.usage or Usage())
        return opening + openai.ending(self._head, last, used, self._usage)

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}
