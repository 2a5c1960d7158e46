"""What OpenAI's responses are made of: the output of one, whole or as it grows.

    answer   {"object": "response", "status", "output": [message or function_call...], "usage", ...}
    stream   response.created, response.in_progress, then for each output item its
             response.output_item.added ... response.output_item.done, with the deltas between,
             and last response.completed or response.incomplete

Events are numbered, and named both in an `event:` line and in their `type`.
"""

from __future__ import annotations

from typing import Any

from serving.core import CallPart, Delta, Finish, Generation, Usage
from serving.errors import ServingError
from serving.protocol import calls, native, openai, sse

_HOLE = "\0"


class Writer:
    """Writes the response, or the events in which it grows."""

    def __init__(self, generation: Generation, blank: dict[str, Any], one_call: bool) -> None:
        """`blank` is the response before it has any output."""
        self._id = generation.id
        self._response = blank
        self._sift = calls.sift(generation, only_one=one_call, in_parts=True)
        self._output: list[dict[str, Any]] = []
        self._texts: list[str] = []  # of the item that is open
        self._open: dict[str, Any] | None = None
        self._number = 0
        self._before = self._middle = self._after = b""

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        if delta.text or not delta.tool_calls:
            self._output.append(self._message(delta.text))
        for call in delta.tool_calls:
            self._output.append(self._call(call.name, calls.arguments(call)))
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
        for part in calls.parts(delta):
            frames += self._call_events(part)
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
        opening = b"" if self._open is not None else self._begin_message()
        self._texts.append(text)
        number = b"%d" % self._number
        self._number += 1
        return b"".join(
            (opening, self._before, number, self._middle, sse.encode(text), self._after)
        )

    def _begin(self, item: dict[str, Any]) -> bytes:
        """The event that opens an item."""
        self._open = item | {"status": "in_progress"}
        index = len(self._output)
        return self._event("response.output_item.added", output_index=index, item=self._open)

    def _begin_message(self) -> bytes:
        """The events that open a message."""
        item = self._message("") | {"content": []}
        place = {"item_id": item["id"], "output_index": len(self._output), "content_index": 0}
        frames = self._begin(item)
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

    def _close(self, status: str = "completed") -> bytes:
        """The events that close the open item, if one is."""
        if self._open is None:
            return b""
        text, index, before = "".join(self._texts), len(self._output), self._open
        place = {"item_id": before["id"], "output_index": index}
        if before["type"] == "message":
            item = self._message(text)
            frames = self._text_done(place, text)
        else:
            item = self._call(before["name"], text) | {"status": status}
            name = "response.function_call_arguments.done"
            frames = self._event(name, **place, arguments=text, name=item["name"])
        self._output.append(item)
        self._open, self._texts = None, []
        return frames + self._event("response.output_item.done", output_index=index, item=item)

    def _text_done(self, place: dict[str, Any], text: str) -> bytes:
        place = {**place, "content_index": 0}
        return self._event(
            "response.output_text.done", **place, text=text, logprobs=[]
        ) + self._event("response.content_part.done", **place, part=_text_part(text))

    def _call_events(self, part: CallPart) -> bytes:
        frames = b""
        if part.name:
            frames = self._close() + self._begin(self._call(part.name, ""))
        if part.arguments:
            frames += self._grown(part.arguments)
        return frames + (self._close() if part.ends else b"")

    def _grown(self, text: str) -> bytes:
        assert self._open is not None
        self._texts.append(text)
        place = {"item_id": self._open["id"], "output_index": len(self._output)}
        return self._event("response.function_call_arguments.delta", **place, delta=text)

    def _end(self, delta: Delta) -> bytes:
        opening = b"" if self._open is not None or self._output else self._begin_message()
        cut = delta.finish is Finish.LENGTH
        closing = self._close("incomplete" if cut else "completed")
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

    def _message(self, text: str) -> dict[str, Any]:
        return {
            "id": f"msg_{self._id}_{len(self._output)}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_text_part(text)],
        }

    def _call(self, name: str, arguments: str) -> dict[str, Any]:
        place = len(self._output)
        return {
            "id": f"fc_{self._id}_{place}",
            "type": "function_call",
            "call_id": openai.call_id(self._id, place),
            "name": name,
            "arguments": arguments,
            "status": "completed",
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(spent: Usage) -> dict[str, Any]:
    return {
        "input_tokens": spent.prompt_tokens,
        "input_tokens_details": native.details(spent),
        "output_tokens": spent.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }
