"""The native dialect, `ai/run`: a JSON body -> `core.Generation`; `core.Delta`s -> answers.

    answer   {"response": "...", "tool_calls": [], "usage": {...}} in the envelope
    stream   data: {"response": "Hel"}                                   per delta
             data: {"response": "", "tool_calls": [{"name", "arguments"}]}   if there are any
             data: {"response": "", "usage": {...}}
             data: [DONE]

Text frames have no `tool_calls` key: clients in the wild take its presence for a call and drop
the text. Every frame has a `response` that is a string.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

import msgspec

from serving.core import (
    Delta,
    Generation,
    Image,
    JsonFormat,
    Message,
    RawPrompt,
    Tool,
    ToolCall,
    Usage,
)
from serving.errors import InvalidInput, JsonNotMet, LoraUnsupported, MalformedBody, MissingBody
from serving.protocol import envelope, images, messages, sampling, schema, sse, tools

_decode = msgspec.json.Decoder().decode
_FLAGS = {"true": True, "false": False}


def parse(body: bytes, *, id: str, model: str, max_images: int) -> Generation:
    """The request `id` to `model`, out of the bytes of its body.

    Raises:
        MissingBody: there are no bytes.
        MalformedBody: they are not JSON.
        InvalidInput: they break the published schema.
        InvalidImage: a picture cannot be unpacked, or there are more than `max_images`.
        LoraUnsupported: an adapter is asked for.
    """
    fields = _lenient(_json(body))
    schema.validate(fields)
    if "lora" in fields:
        raise LoraUnsupported(model)
    return Generation(
        id=id,
        model=model,
        prompt=_prompt(fields, max_images),
        sampling=sampling.parse(fields),
        tools=_tools(fields),
        json=_json_format(fields.get("response_format")),
        stream=fields.get("stream", False),
    )


def answer(generation: Generation, delta: Delta) -> bytes:
    """The body of the answer whose one delta this is.

    Raises:
        JsonNotMet: JSON was asked for and the text is none.
    """
    if generation.tools:
        delta = tools.Calls(generation.tools).feed(delta)
    wants_json = generation.json is not None and not delta.tool_calls
    return envelope.success(
        {
            "response": _json_answer(delta.text) if wants_json else delta.text,
            "tool_calls": [_flat(call) for call in delta.tool_calls],
            "usage": _usage(delta.usage or Usage()),
        }
    )


class Frames:
    """Writes the event stream of one generation: feed it every delta, in order."""

    def __init__(self, generation: Generation) -> None:
        self._calls = tools.Calls(generation.tools) if generation.tools else None

    def encode(self, delta: Delta) -> bytes:
        """The frames that `delta` completes, possibly none; on the last one also `[DONE]`."""
        if self._calls is not None:
            delta = self._calls.feed(delta)
        frames = sse.text_event(delta.text) if delta.text else b""
        if delta.tool_calls:
            flat = [_flat(call) for call in delta.tool_calls]
            frames += sse.event({"response": "", "tool_calls": flat})
        if delta.finish is not None:
            usage = _usage(delta.usage or Usage())
            frames += sse.event({"response": "", "usage": usage}) + sse.DONE
        return frames


def _json(body: bytes) -> Any:
    """What JavaScript's parser reads: also behind a byte order mark, also halves of characters."""
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise MissingBody
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _mended(body)
        if mended is None:
            raise MalformedBody(f"the body is not JSON: {error}") from error
        return mended
    except RecursionError as error:
        raise MalformedBody("the body is nested too deeply") from error


def _mended(body: bytes) -> Any:
    """`body` decoded with `?` for each lone surrogate, which texts cut within an emoji end in.

    `None` if something else is wrong with it.
    """
    try:
        plain = json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False)
        return _decode(plain.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _lenient(body: Any) -> Any:
    """What clients send and the published validator refuses: nulls for absent, `"raw": "true"`."""
    if not isinstance(body, dict):
        return body
    fields = {name: value for name, value in body.items() if value is not None}
    if isinstance(turns := fields.get("messages"), list):
        fields["messages"] = [_without_nulls(turn) for turn in turns]
    for name in ("raw", "stream"):
        if isinstance(flag := fields.get(name), str):
            fields[name] = _FLAGS.get(flag.lower(), flag)
    if "image" in fields:
        fields["image"] = images.pack(fields["image"])
    return fields


def _without_nulls(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    return {name: value for name, value in turn.items() if value is not None}


def _prompt(fields: dict[str, Any], max_images: int) -> tuple[Message, ...] | RawPrompt:
    image = images.parse(fields["image"]) if "image" in fields else None
    if "prompt" in fields and fields.get("raw"):
        pictures = (image,) if image else ()
        images.check_count(len(pictures), max_images)
        return RawPrompt(fields["prompt"], pictures)
    turns = _turns(fields, image)
    images.check_count(messages.count_images(turns), max_images)
    return turns


def _turns(fields: dict[str, Any], image: Image | None) -> tuple[Message, ...]:
    """`messages`, or the one user's turn that a `prompt` is; the body's own image in place."""
    if "prompt" in fields:
        turns: tuple[Message, ...] = (Message("user", (fields["prompt"],)),)
    else:
        turns = messages.parse(fields["messages"])
    return messages.with_image(turns, image) if image else turns


def _tools(fields: dict[str, Any]) -> tuple[Tool, ...]:
    if fields.get("tool_choice") == "none":
        return ()
    return tools.parse(fields.get("tools"), fields.get("functions"))


def _json_format(wanted: Any) -> JsonFormat | None:
    """`json_schema` holds the schema itself, or OpenAI's wrapping of it: `{name, schema}`."""
    match wanted:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return JsonFormat()
        case {"type": "json_schema", "json_schema": {"schema": dict(inner), **rest}} if not (
            rest.keys() & {"type", "properties"}
        ):
            return JsonFormat(inner)
        case {"type": "json_schema", "json_schema": dict(bare)}:
            return JsonFormat(bare)
    raise InvalidInput("'/response_format' must be json_object, or json_schema with a schema")


def _json_answer(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise JsonNotMet from error


def _flat(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
