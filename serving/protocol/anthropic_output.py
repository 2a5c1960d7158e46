"""What Anthropic's messages are made of: the content of one, whole or as it grows, and errors.

answer   {"type": "message", "content": [text or tool_use blocks], "stop_reason", "usage", ...}
stream   message_start, then per block content_block_start, _delta..., _stop, then
         message_delta with the stop reason and the usage, and message_stop
"""

from __future__ import annotations

from typing import Any

from serving import errors
from serving.core import CallPart, Delta, Finish, Generation, Usage
from serving.errors import ServingError
from serving.protocol import calls, envelope, openai, sse

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


def failure(error: ServingError, request_id: str) -> bytes:
    """The body of an error answer: the envelope and Anthropic's `error` in one."""
    return sse.encode(_described(error, request_id))


def counted(tokens: int) -> bytes:
    """The answer of `count_tokens`."""
    return sse.encode({"input_tokens": tokens})


class Writer:
    """Writes the message, or the events in which it grows."""

    def __init__(self, generation: Generation, one_call: bool) -> None:
        self._id = generation.id
        self._model = generation.model
        self._sift = calls.sift(generation, only_one=one_call, in_parts=True)
        self._started = False
        self._blocks = 0
        self._calls = 0
        self._open = ""  # the type of the block that is being written
        self._before = self._after = b""

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        content: list[dict[str, Any]] = []
        if delta.text:
            content.append({"type": "text", "text": delta.text})
        content += [
            {**self._block(call.name), "input": call.arguments} for call in delta.tool_calls
        ]
        used = _usage(delta.usage or Usage())
        return sse.encode({**self._message(used), "content": content, **_stop(delta)})

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        frames = b"" if self._started else self._start(delta.usage or Usage())
        if delta.text:
            opening = b"" if self._open == "text" else self._begin_text()
            frames += opening + self._before + sse.encode(delta.text) + self._after
        for part in calls.parts(delta):
            frames += self._call(part)
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

    def _begin_text(self) -> bytes:
        opening = self._begin({"type": "text", "text": ""})
        shape = _delta(self._blocks, {"type": "text_delta", "text": _HOLE})
        self._before, self._after = sse.template(shape, _HOLE, named=True)
        return opening

    def _begin(self, block: dict[str, Any]) -> bytes:
        """The end of the block before, if one is open, and the beginning of this one."""
        closing = self._close()
        self._open = block["type"]
        shape = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        return closing + sse.named_event(shape)

    def _close(self) -> bytes:
        """The end of the block that is open, if one is."""
        if not self._open:
            return b""
        self._open = ""
        self._blocks += 1
        return sse.named_event({"type": "content_block_stop", "index": self._blocks - 1})

    def _call(self, part: CallPart) -> bytes:
        frames = self._begin({**self._block(part.name), "input": {}}) if part.name else b""
        if part.arguments:
            text = {"type": "input_json_delta", "partial_json": part.arguments}
            frames += sse.named_event(_delta(self._blocks, text))
        return frames + (self._close() if part.ends else b"")

    def _end(self, delta: Delta) -> bytes:
        closing = self._close()
        last = {
            "type": "message_delta",
            "delta": _stop(delta),
            "usage": _usage(delta.usage or Usage()),
        }
        return closing + sse.named_event(last) + sse.named_event({"type": "message_stop"})

    def _block(self, name: str) -> dict[str, Any]:
        """The block of the next call, without what it is given."""
        id_ = f"toolu_{openai.call_id(self._id, self._calls).removeprefix('chatcmpl-tool-')}"
        self._calls += 1
        return {"type": "tool_use", "id": id_, "name": name}

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


def _described(error: ServingError, request_id: str) -> dict[str, Any]:
    body = envelope.described(error, request_id)
    status = envelope.problem(error).status
    kind = "invalid_request_error" if status < 500 else "api_error"
    if isinstance(error, errors.UnknownModel):
        kind = "not_found_error"
    told = {"type": _TYPES.get(status, kind), "message": body["errors"][0]["message"]}
    return {"type": "error", "error": told, "request_id": request_id, **body}
