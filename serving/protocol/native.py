"""The native dialect, `ai/run`: a JSON body -> `core.Generation`; `core.Delta`s -> answers.

    answer   {"response": "...", "tool_calls": [], "usage": {...}} in the envelope
    stream   data: {"response": "Hel"}                                   per delta
             data: {"response": "", "tool_calls": [{"name", "arguments"}]}   if there are any
             data: {"response": "", "usage": {...}}
             data: [DONE]

Text frames have no `tool_calls` key: clients in the wild take its presence for a call and drop
the text. Every frame has a `response` that is a string. The model is named by the address, or by
the body beside an `input`, or by a Workers binding, whose answers have no envelope.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from serving.core import Delta, Generation, Image, Message, RawPrompt, ToolCall, Usage
from serving.errors import (
    InvalidInput,
    JsonNotMet,
    MissingBody,
    ServingError,
)
from serving.protocol import (
    calls,
    envelope,
    images,
    messages,
    payload,
    response_format,
    sampling,
    schema,
    sse,
    tools,
)
from serving.protocol.dialect import Ask, Dialect

_decode = msgspec.json.Decoder().decode
_FLAGS = {"true": True, "false": False}
_BEFORE, _AFTER = sse.template({"response": "\0"}, "\0")
# What Workers AI fills frames with. Why it leaves out c, q and w is not known.
_PADDING = "abdefghijklmnoprstuvxyz1234567890" * 2
_LONGEST_PADDING = 48


def parse(body: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the address names.

    Raises:
        MissingBody: there are no bytes.
        MalformedBody: they are not JSON.
        InvalidInput: they break the published schema.
        InvalidImage: a picture cannot be unpacked, or there are more than the model takes.
        UnknownModel: the catalogue does not hold the model.
        LoraUnsupported: an adapter is asked for, and the model takes none.
    """
    return _parse_fields(payload.decode(body), ask, envelope.success)


def parse_named(body: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """`{"model": "...", "input": {...}}`. Raises what `parse` does."""
    match payload.decode(body):
        case {"model": str(model), "input": fields} as outer:
            if "options" in outer and isinstance(fields, dict):
                fields = {"options": outer["options"], **fields}
            named = Ask(ask.id, ask.models, ask.find(model).id, ask.created, ask.padded)
            return _parse_fields(fields, named, envelope.success)
    raise InvalidInput("required properties at '/' are 'model,input'")


def parse_bound(body: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """`{"inputs": {...}, "options": {...}}`, as a Workers binding sends. Raises what `parse` does.

    The model's name comes in a header. If one of the inputs is a stream of bytes, it is the body,
    and the others come with the address: here only a picture can be.
    """
    if not ask.model:
        raise MissingBody("cf-consn-model-id")
    if ask.inputs:
        if not isinstance(fields := payload.decode(ask.inputs), dict):
            raise InvalidInput("Type mismatch of '/userInputs', 'object' expected")
        return _parse_fields({**fields, "image": body}, ask, envelope.bare)
    match payload.decode(body):
        case {"inputs": fields}:
            return _parse_fields(fields, ask, envelope.bare)
    raise InvalidInput("required properties at '/' are 'inputs'")


def parse_queued(fields: Any, ask: Ask) -> tuple[Generation, Writer]:
    """One of the requests of a batch: never a stream. Raises what `parse` does."""
    generation, writer = _parse_fields(fields, ask, envelope.bare)
    return replace(generation, stream=False, background=True), writer


class Writer:
    """Writes the answer to one generation; see the module for its form."""

    def __init__(
        self, generation: Generation, ask: Ask, wrap: Callable[[Any], bytes] = envelope.success
    ) -> None:
        self._id = generation.id
        self._json = generation.json is not None and not generation.must_call
        self._wrap = wrap
        self._sift = calls.sift(generation)
        self._calls: tuple[ToolCall, ...] = ()
        # The id is as random as it takes, and keeps this a function of its arguments.
        self._padding = Random(generation.id) if ask.padded else None

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        if self._sift is not None:
            delta = self._sift(delta)
        wants_json = self._json and not delta.tool_calls
        return self._wrap(
            {
                "response": _json_answer(delta.text) if wants_json else delta.text,
                "tool_calls": [_flat(call) for call in delta.tool_calls],
                "usage": usage(delta.usage or Usage()),
            }
        )

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`. Calls wait for the end: clients expect them in one frame."""
        if self._sift is not None:
            delta = self._sift(delta)
        frames = b""
        if delta.text:
            if self._padding is None:
                frames = _BEFORE + sse.encode(delta.text) + _AFTER
            else:
                frames = _padded(delta.text, self._padding)
        if delta.tool_calls:
            self._calls += delta.tool_calls
        if delta.finish is not None:
            frames += self._end(delta.usage or Usage())
        return frames

    def broken(self, error: ServingError) -> bytes:
        """See `dialect.Writer`."""
        return sse.event(envelope.interruption(error, self._id))

    def _end(self, spent: Usage) -> bytes:
        called = b""
        if self._calls:
            flat = [_flat(call) for call in self._calls]
            called = sse.event({"response": "", "tool_calls": flat})
        return called + sse.event({"response": "", "usage": usage(spent)}) + sse.DONE


DIRECT = Dialect(parse, envelope.failure)
NAMED = Dialect(parse_named, envelope.failure)
BOUND = Dialect(parse_bound, envelope.failure)


def usage(spent: Usage) -> dict[str, Any]:
    """Tokens as Workers AI and OpenAI's chat completions count them on the wire."""
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
        "prompt_tokens_details": details(spent),
    }


def details(spent: Usage) -> dict[str, int]:
    """Of the prompt's tokens: those found computed; of pictures, if any, which is our addition."""
    found = {"cached_tokens": spent.cached_tokens}
    if spent.image_tokens:
        found["image_tokens"] = spent.image_tokens
        found["cached_image_tokens"] = spent.cached_image_tokens
    return found


def _parse_fields(body: Any, ask: Ask, wrap: Callable[[Any], bytes]) -> tuple[Generation, Writer]:
    model = ask.find()
    fields = _lenient(body)
    schema.validate(fields)
    choice = fields.get("tool_choice")
    declared = tools.parse(fields.get("tools"), fields.get("functions")) if choice != "none" else ()
    offered, must_call = tools.choose(declared, choice)
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=_prompt(fields, model.max_images),
        sampling=sampling.parse(fields),
        tools=offered,
        json=response_format.parse(fields.get("response_format")),
        stream=fields.get("stream", False),
        must_call=must_call,
        may_wait=not _rejects_if_busy(fields.get("options")),
        lora=model.lora(fields.get("lora")),
    )
    return generation, Writer(generation, ask, wrap)


def _rejects_if_busy(options: Any) -> bool:
    return isinstance(options, dict) and options.get("rejectIfBusy") is True


def _lenient(body: Any) -> Any:
    """What clients send and the published validator refuses: nulls for absent, `"raw": "true"`.

    The required one stays as it is: the validator's words for it tell null from absent.
    """
    if not isinstance(body, dict):
        return body
    fields = {name: value for name, value in body.items() if value is not None}
    if "prompt" in body and fields.keys().isdisjoint(("prompt", "messages")):
        fields["prompt"] = None
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


def _json_answer(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise JsonNotMet from error


def _padded(text: str, chance: Random) -> bytes:
    return sse.event({"response": text, "p": _PADDING[: chance.randint(1, _LONGEST_PADDING)]})


def _flat(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}
