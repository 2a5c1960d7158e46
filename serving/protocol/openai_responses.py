"""OpenAI's responses, `ai/v1/responses`, without a store: each request brings its conversation.

    answer   {"object": "response", "status", "output": [message or function_call...], "usage", ...}
    stream   response.created, response.in_progress, then for each output item its
             response.output_item.added ... response.output_item.done, with the deltas between,
             and last response.completed or response.incomplete

Events are numbered, and named both in an `event:` line and in their `type`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving.core import Delta, Finish, Generation, Image, JsonFormat, Message, ToolCall, Usage
from serving.errors import InvalidChoice, InvalidInput, ServingError
from serving.protocol import (
    images,
    messages,
    openai,
    payload,
    response_format,
    sampling,
    sse,
    tools,
)
from serving.protocol.calls import Calls
from serving.protocol.dialect import Ask, Dialect

_HOLE = "\0"
# They need a store, or tools of OpenAI's own.
_UNSERVED = ("previous_response_id", "conversation", "background", "prompt")


class Body(msgspec.Struct, kw_only=True):
    """A response's request."""

    model: str = ""
    input: str | list[dict[str, Any]] = ""
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: openai.Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=2)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=0)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None


def parse(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the body names.

    Raises:
        BadRequest: see `native.parse`.
    """
    body = payload.shaped(data, Body)
    model = ask.find(body.model)
    for name in _UNSERVED:
        if getattr(body, name):
            raise InvalidInput(f"'/{name}' is not supported")
    turns = tuple(_turns(body))
    images.check_count(messages.count_images(turns), model.max_images)
    offered, must_call = tools.choose(_tools(body), _choice(body.tool_choice))
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=turns,
        sampling=sampling.parse(_drawn(body)),
        tools=offered,
        json=_format(body.text or {}),
        stream=body.stream,
        must_call=must_call,
    )
    return generation, Writer(generation, ask, body)


DIALECT = Dialect(parse, openai.failure)


def _drawn(body: Body) -> dict[str, Any]:
    given = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
    }
    return {name: value for name, value in given.items() if value is not None}


def _format(text: dict[str, Any]) -> JsonFormat | None:
    """`text.format` has the schema beside the type, where chat completions nest it."""
    match text.get("format"):
        case {"type": "json_schema", "schema": dict(schema)}:
            return JsonFormat(schema)
        case wanted:
            return response_format.parse(wanted)


def _choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"function": {"name": name}}
        case None | str():
            return choice
    raise InvalidChoice


def _tools(body: Body) -> tuple[Any, ...]:
    for index, tool in enumerate(body.tools or ()):
        if tool.get("type") != "function":
            raise InvalidInput(f"'/tools/{index}/type' must be function")
    return tools.parse(body.tools)


def _turns(body: Body) -> Iterator[Message]:
    if body.instructions:
        yield Message("system", (body.instructions,))
    if isinstance(body.input, str):
        yield Message("user", (body.input,))
        return
    for index, item in enumerate(body.input):
        yield from _turn(item, f"/input/{index}")


def _turn(item: dict[str, Any], path: str) -> Iterator[Message]:
    """The message of an input item; reasoning is dropped, since the model has none."""
    match item:
        case {"type": "reasoning"}:
            return
        case {"type": "function_call", "call_id": str(id_)}:
            call = {"id": id_, "name": item.get("name"), "arguments": item.get("arguments")}
            yield from messages.parse([{"role": "assistant", "tool_calls": [call]}])
        case {"type": "function_call_output", "call_id": str(id_), "output": output}:
            yield Message("tool", _content(output, f"{path}/output"), tool_call_id=id_)
        case {"role": str(role), "content": content} if item.get("type", "message") == "message":
            role = messages.role(role)
            yield Message(role, _content(content, f"{path}/content"))
        case _:
            raise InvalidInput(f"'{path}' must be a message, a function_call or its output")


def _content(content: Any, path: str) -> tuple[str | Image, ...]:
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise InvalidInput(f"'{path}' must be a string or an array of parts")
    return tuple(_part(part, f"{path}/{index}") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str | Image:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": "input_image", "image_url": str(url)}:
            return images.parse_text(url)
    raise InvalidInput(f"'{path}' must be an input_text or an input_image with an image_url")


class Writer:
    """Writes the response, or the events in which it grows."""

    def __init__(self, generation: Generation, ask: Ask, body: Body) -> None:
        self._id = generation.id
        self._response = _blank(generation, ask, body)
        self._one_call = body.parallel_tool_calls is False
        self._sift = Calls(generation.tools).feed if generation.tools else None
        self._output: list[dict[str, Any]] = []
        self._texts: list[str] = []  # of the message that is open
        self._open: dict[str, Any] | None = None
        self._number = 0
        self._before = self._middle = self._after = b""

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        if delta.text or not delta.tool_calls:
            self._output.append(self._message(delta.text))
        for call in self._kept(delta.tool_calls):
            self._output.append(self._call(call))
        return sse.encode(self._ended(delta))

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        frames = b""
        if self._number == 0:
            frames = self._event("response.created", response=self._response)
            frames += self._event("response.in_progress", response=self._response)
        if delta.text:
            frames += self._text(delta.text)
        for call in self._kept(delta.tool_calls):
            frames += self._close() + self._call_events(call)
        if delta.finish is not None:
            frames += self._end(delta)
        return frames

    def broken(self, error: ServingError) -> bytes:
        """See `dialect.Writer`."""
        told = openai.described(error, self._id)["error"]
        failed = {
            **self._response,
            "status": "failed",
            "output": self._output,
            "error": {"code": "server_error", "message": told["message"]},
        }
        return self._event("response.failed", response=failed)

    def _text(self, text: str) -> bytes:
        """The hot path: one call of the encoder, but for the first text of a message."""
        opening = b"" if self._open is not None else self._begin()
        self._texts.append(text)
        number = b"%d" % self._number
        self._number += 1
        return b"".join(
            (opening, self._before, number, self._middle, sse.encode(text), self._after)
        )

    def _begin(self) -> bytes:
        """The events that open a message."""
        item = self._open = self._message("")
        item |= {"status": "in_progress", "content": []}
        place = {"item_id": item["id"], "output_index": len(self._output), "content_index": 0}
        frames = self._event(
            "response.output_item.added", output_index=len(self._output), item=item
        )
        frames += self._event("response.content_part.added", **place, part=_text_part(""))
        shape = {
            "type": "response.output_text.delta",
            "sequence_number": _HOLE,
            **place,
            "delta": _HOLE,
            "logprobs": [],
        }
        self._before, rest = sse.template(shape, _HOLE, named=True)
        self._middle, _, self._after = rest.partition(sse.encode(_HOLE))
        return frames

    def _close(self) -> bytes:
        """The events that close the open message, if one is."""
        if self._open is None:
            return b""
        text = "".join(self._texts)
        index = len(self._output)
        place = {"item_id": self._open["id"], "output_index": index, "content_index": 0}
        item = self._message(text)
        self._output.append(item)
        self._open, self._texts = None, []
        return (
            self._event("response.output_text.done", **place, text=text, logprobs=[])
            + self._event("response.content_part.done", **place, part=_text_part(text))
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _call_events(self, call: ToolCall) -> bytes:
        index, item = len(self._output), self._call(call)
        self._output.append(item)
        text, place = item["arguments"], {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        name = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event(f"{name}.delta", **place, delta=text)
            + self._event(f"{name}.done", **place, arguments=text, name=call.name)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _end(self, delta: Delta) -> bytes:
        opening = b"" if self._open is not None or self._output else self._begin()
        closing = self._close()
        ended = self._ended(delta)
        return opening + closing + self._event(f"response.{ended['status']}", response=ended)

    def _ended(self, delta: Delta) -> dict[str, Any]:
        cut = delta.finish is Finish.LENGTH
        return {
            **self._response,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": _usage(delta.usage or Usage()),
        }

    def _event(self, type_: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse.named_event({"type": type_, "sequence_number": number, **fields})

    def _kept(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """The calls to pass on: at most one where one was asked for."""
        if not self._one_call:
            return calls
        made = sum(item["type"] == "function_call" for item in self._output)
        return calls[: 1 - made]

    def _message(self, text: str) -> dict[str, Any]:
        return {
            "id": f"msg_{self._id}_{len(self._output)}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_text_part(text)],
        }

    def _call(self, call: ToolCall) -> dict[str, Any]:
        place = len(self._output)
        return {
            "id": f"fc_{self._id}_{place}",
            "type": "function_call",
            "call_id": openai.call_id(self._id, place),
            "name": call.name,
            "arguments": openai.arguments(call),
            "status": "completed",
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(spent: Usage) -> dict[str, Any]:
    return {
        "input_tokens": spent.prompt_tokens,
        "input_tokens_details": {"cached_tokens": spent.cached_tokens},
        "output_tokens": spent.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }


def _blank(generation: Generation, ask: Ask, body: Body) -> dict[str, Any]:
    """The response before it has any output, with the request's own fields in it."""
    drawn = generation.sampling
    return {
        "id": f"resp_{generation.id}",
        "object": "response",
        "created_at": ask.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": drawn.max_tokens,
        "metadata": body.metadata or {},
        "model": generation.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": drawn.temperature,
        "text": {"format": {"type": "text"}, **(body.text or {})},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if drawn.top_p is None else drawn.top_p,
        "truncation": "disabled",
        "usage": None,
    }
