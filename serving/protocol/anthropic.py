"""Anthropic's messages, `ai/v1/messages`.

    answer   {"type": "message", "content": [text or tool_use blocks], "stop_reason", "usage", ...}
    stream   message_start, then per block content_block_start, _delta..., _stop, then
             message_delta with the stop reason and the usage, and message_stop

Thinking is not something this model does: the parameter is ignored and such blocks are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving import errors
from serving.core import Delta, Finish, Generation, Image, Message, Tool, ToolCall, Usage
from serving.errors import InvalidChoice, InvalidInput, ServingError
from serving.protocol import envelope, images, messages, openai, payload, sampling, sse, tools
from serving.protocol.calls import Calls
from serving.protocol.dialect import Ask, Dialect

_HOLE = "\0"
_STOP = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.TOOL_CALLS: "tool_use",
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Body(msgspec.Struct, kw_only=True):
    """A message's request. Workers AI's defaults hold for what is absent, `max_tokens` too."""

    messages: list[dict[str, Any]]
    model: str = ""
    system: str | list[dict[str, Any]] = ""
    stream: bool = False
    max_tokens: openai.Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None


def parse(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the body names.

    Raises:
        BadRequest: see `native.parse`.
    """
    body = payload.shaped(data, Body)
    model = ask.find(body.model)
    turns = tuple(_turns(body))
    images.check_count(messages.count_images(turns), model.max_images)
    offered, must_call = tools.choose(_tools(body.tools or []), _choice(body.tool_choice))
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=turns,
        sampling=sampling.parse(_drawn(body)),
        tools=offered,
        stream=body.stream,
        must_call=must_call,
    )
    one_call = bool((body.tool_choice or {}).get("disable_parallel_tool_use"))
    return generation, Writer(generation, one_call)


def failure(error: ServingError, request_id: str) -> bytes:
    """The body of an error answer: the envelope and Anthropic's `error` in one."""
    return sse.encode(_described(error, request_id))


DIALECT = Dialect(parse, failure)


def _described(error: ServingError, request_id: str) -> dict[str, Any]:
    body = envelope.described(error, request_id)
    status = envelope.problem(error).status
    kind = "invalid_request_error" if status < 500 else "api_error"
    if isinstance(error, errors.UnknownModel):
        kind = "not_found_error"
    told = {"type": _TYPES.get(status, kind), "message": body["errors"][0]["message"]}
    return {"type": "error", "error": told, "request_id": request_id, **body}


def _drawn(body: Body) -> dict[str, Any]:
    given = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences,
    }
    return {name: value for name, value in given.items() if value is not None}


def _tools(items: list[dict[str, Any]]) -> tuple[Tool, ...]:
    for index, item in enumerate(items):
        if item.get("type") not in (None, "custom"):
            raise InvalidInput(f"'/tools/{index}/type' must be custom")
    return tools.parse([{**item, "parameters": item.get("input_schema")} for item in items])


def _choice(choice: dict[str, Any] | None) -> Any:
    match choice:
        case None:
            return None
        case {"type": "tool", "name": str(name)}:
            return {"function": {"name": name}}
        case {"type": str(kind)} if kind in _CHOICES:
            return _CHOICES[kind]
    raise InvalidChoice


def _turns(body: Body) -> Iterator[Message]:
    if isinstance(body.system, str):
        system = body.system
    else:
        system = "\n\n".join(str(block.get("text", "")) for block in body.system)
    if system:
        yield Message("system", (system,))
    for index, item in enumerate(body.messages):
        yield from _turn(item, f"/messages/{index}")


def _turn(item: dict[str, Any], path: str) -> Iterator[Message]:
    """A message's turns: results of tools are blocks of it here, and turns of their own inside."""
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system"):
        raise InvalidInput(f"'{path}/role' must be user or assistant")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InvalidInput(f"'{path}/content' must be a string or an array of blocks")
    pieces: list[str | Image] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        match block:
            case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(given)}:
                calls.append(ToolCall(name, given, id_))
            case {"type": "tool_result", "tool_use_id": str(id_)}:
                result = _pieces(block.get("content") or "", f"{path}/content/{index}/content")
                yield Message("tool", tuple(result), tool_call_id=id_)
            case _:
                pieces += _pieces([block], f"{path}/content")
    if pieces or calls or not blocks:
        yield Message(role, tuple(pieces), tuple(calls))


def _pieces(content: Any, path: str) -> Iterator[str | Image]:
    if isinstance(content, str):
        yield content
        return
    for index, block in enumerate(content if isinstance(content, list) else [content]):
        match block:
            case {"type": "text", "text": str(text)}:
                yield text
            case {"type": "image", "source": {"type": "base64", "data": str(data)}}:
                yield images.parse_text(data)
            case {"type": "image", "source": {"type": "url", "url": str(url)}}:
                yield images.parse_text(url)
            case {"type": "thinking" | "redacted_thinking"}:
                continue
            case _:
                raise InvalidInput(f"'{path}/{index}' must be a text or an image block")


class Writer:
    """Writes the message, or the events in which it grows."""

    def __init__(self, generation: Generation, one_call: bool) -> None:
        self._id = generation.id
        self._model = generation.model
        self._one_call = one_call
        self._sift = Calls(generation.tools).feed if generation.tools else None
        self._started = False
        self._blocks = 0
        self._calls = 0
        self._in_text = False
        self._before = self._after = b""

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        content: list[dict[str, Any]] = []
        if delta.text:
            content.append({"type": "text", "text": delta.text})
        content += [self._block(call) for call in self._kept(delta.tool_calls)]
        used = _usage(delta.usage or Usage())
        return sse.encode({**self._message(used), "content": content, **_stop(delta)})

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        frames = b"" if self._started else self._start(delta.usage or Usage())
        if delta.text:
            opening = b"" if self._in_text else self._open()
            frames += opening + self._before + sse.encode(delta.text) + self._after
        for call in self._kept(delta.tool_calls):
            frames += self._close() + self._call(call)
        if delta.finish is not None:
            frames += self._end(delta)
        return frames

    def broken(self, error: ServingError) -> bytes:
        """See `dialect.Writer`."""
        return sse.named_event(_described(error, self._id))

    def _start(self, spent: Usage) -> bytes:
        self._started = True
        message = {**self._message(_usage(spent)), "stop_reason": None, "stop_sequence": None}
        return sse.named_event({"type": "message_start", "message": message})

    def _open(self) -> bytes:
        self._in_text = True
        shape = _delta(self._blocks, {"type": "text_delta", "text": _HOLE})
        self._before, self._after = sse.template(shape, _HOLE, named=True)
        return self._begun({"type": "text", "text": ""})

    def _begun(self, block: dict[str, Any]) -> bytes:
        shape = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        return sse.named_event(shape)

    def _close(self) -> bytes:
        """The end of the text block, if one is open."""
        if not self._in_text:
            return b""
        self._in_text = False
        return self._stopped()

    def _stopped(self) -> bytes:
        self._blocks += 1
        return sse.named_event({"type": "content_block_stop", "index": self._blocks - 1})

    def _call(self, call: ToolCall) -> bytes:
        block = self._block(call)
        text = {"type": "input_json_delta", "partial_json": openai.arguments(call)}
        return (
            self._begun({**block, "input": {}})
            + sse.named_event(_delta(self._blocks, text))
            + self._stopped()
        )

    def _end(self, delta: Delta) -> bytes:
        closing = self._close()
        last = {
            "type": "message_delta",
            "delta": _stop(delta),
            "usage": _usage(delta.usage or Usage()),
        }
        return closing + sse.named_event(last) + sse.named_event({"type": "message_stop"})

    def _kept(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """The calls to pass on: at most one where one was asked for."""
        return calls[: 1 - self._calls] if self._one_call else calls

    def _block(self, call: ToolCall) -> dict[str, Any]:
        id_ = f"toolu_{openai.call_id(self._id, self._calls).removeprefix('chatcmpl-tool-')}"
        self._calls += 1
        return {"type": "tool_use", "id": id_, "name": call.name, "input": call.arguments}

    def _message(self, used: dict[str, int]) -> dict[str, Any]:
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "usage": used,
        }


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _stop(delta: Delta) -> dict[str, Any]:
    if delta.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": delta.stop}
    reason = _STOP[delta.finish] if delta.finish else None
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(spent: Usage) -> dict[str, int]:
    """Anthropic counts what came from the cache apart."""
    return {
        "input_tokens": spent.prompt_tokens - spent.cached_tokens,
        "cache_read_input_tokens": spent.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": spent.completion_tokens,
    }
