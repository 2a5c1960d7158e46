"""What OpenAI's responses are made of: the output of one, whole or as it grows.

    answer   {"object": "response", "status", "output": [message or function_call...], "usage", ...}
    stream   response.created, response.in_progress, then for each output item its
             response.output_item.added ... response.output_item.done, with the deltas between,
             and last response.completed or response.incomplete

Events are numbered, and named both in an `event:` line and in their `type`.
"""

from __future__ import annotations

from typing import Any

from serving.core import Delta, Finish, Generation, ToolCall, Usage
from serving.errors import ServingError
from serving.protocol import openai, sse
from serving.protocol.calls import Calls

_HOLE = "\0"


class Writer:
    """Writes the response, or the events in which it grows."""

    def __init__(self, generation: Generation, blank: dict[str, Any], one_call: bool) -> None:
        """`blank` is the response before it has any output."""
        self._id = generation.id
        self._response = blank
        self._one_call = one_call
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
