"""The batch dialect, `ai/run/{model}?queueRequest=true`: requests that are answered later.

    submit   {"requests": [{..., "external_reference": "a"}, ...]}, or the fields of a single one
    answer   {"status": "queued", "request_id": "...", "model": "@cf/..."}
    poll     {"request_id": "..."}
    answer   {"status": "queued" or "running", "request_id": "..."}
    at last  {"responses": [{"id": 0, "result": {"response": ...}, "success": true,
                             "external_reference": "a"}, ...], "usage": {...}}

All in the envelope. What an item says when it fails is not published; here it has `errors` as the
envelope would and an empty `result`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serving.core import Generation, Usage
from serving.errors import BadRequest, InvalidInput, ServingError
from serving.protocol import envelope, native, payload
from serving.protocol.dialect import Ask, Writer

MAX_BODY_BYTES = 10_000_000
"""Published: less than 10 MB."""
MAX_ITEMS = 1000
MAX_REFERENCE = 512
"""Characters of an `external_reference`."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Poll:
    """Whoever submitted the batch of this id asks for it."""

    id: str


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a batch, to be parsed again by `parse_item` when it runs."""

    generation: Generation
    reference: str | None
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """Requests to one model, all of them valid."""

    model: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """What became of an item: `output` is the JSON of its result, or of its errors."""

    reference: str | None
    success: bool
    output: bytes = field(repr=False)
    usage: Usage


def parse(body: bytes, ask: Ask) -> Submission | Poll:
    """A body sent to the queue.

    Raises:
        BadRequest: as `native.parse` does of each request; the text tells which one it is.
    """
    fields, model = _addressed(payload.decode(body), ask)
    match fields:
        case {"request_id": str(id_)} if "\0" not in id_:
            return Poll(id_)
        case {"request_id": _}:
            raise InvalidInput("'/request_id' must be one that was given out")
        case {"requests": list(requests)}:
            if not 0 < len(requests) <= MAX_ITEMS:
                raise InvalidInput(f"'/requests' must have 1 to {MAX_ITEMS} items")
            return Submission(model, tuple(_items(requests, ask, model)))
        case {"requests": _}:
            raise InvalidInput("Type mismatch of '/requests', 'array' expected")
    return Submission(model, (_item(fields, ask, model),))


def of_binding(body: bytes) -> bytes | None:
    """What a Workers binding sends to the queue, as the address of a model takes it; else `None`.

    `{"inputs": {"requests": [...]}, "options": {"queueRequest": true}}`.
    """
    if b"queueRequest" in body:  # else it need not be read twice
        match payload.decode(body):
            case {"inputs": inputs, "options": {"queueRequest": True}}:
                return _encode(inputs)
    return None


def parse_item(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """What runs now of what was submitted. Raises what `native.parse` does."""
    return native.parse_queued(payload.decode(data), ask)


def queued(id_: str, model: str) -> bytes:
    """The answer to a submission."""
    return envelope.success({"status": "queued", "request_id": id_, "model": model})


def pending(id_: str, running: bool) -> bytes:
    """The answer to a poll before everything has ended."""
    return envelope.success({"status": "running" if running else "queued", "request_id": id_})


def ended(responses: Iterable[Response]) -> bytes:
    """The answer to a poll when everything has."""
    listed = list(responses)
    spent = Usage(
        sum(each.usage.prompt_tokens for each in listed),
        sum(each.usage.completion_tokens for each in listed),
        sum(each.usage.cached_tokens for each in listed),
    )
    found = [_response(position, each) for position, each in enumerate(listed)]
    return envelope.success({"responses": found, "usage": native.usage(spent)})


def failure(error: ServingError, request_id: str) -> bytes:
    """The `output` of an item that failed."""
    return _encode(envelope.described(error, request_id)["errors"])


def _addressed(body: Any, ask: Ask) -> tuple[Any, str]:
    """The fields, and the model of the address or, where that names none, of the body."""
    if ask.model:
        return body, ask.find().id
    match body:
        case {"model": str(model), "input": fields}:
            return fields, ask.find(model).id
    raise InvalidInput("required properties at '/' are 'model,input'")


def _items(requests: list[Any], ask: Ask, model: str) -> Iterable[Item]:
    for position, fields in enumerate(requests):
        try:
            yield _item(fields, ask, model)
        except BadRequest as error:
            error.args = (f"{error} (in '/requests/{position}')",)
            raise


def _item(fields: Any, ask: Ask, model: str) -> Item:
    reference = fields.get("external_reference") if isinstance(fields, dict) else None
    if reference is not None and not isinstance(reference, str):
        raise InvalidInput("Type mismatch of '/external_reference', 'string' expected")
    if reference is not None and "\0" in reference:
        raise InvalidInput("'/external_reference' must not have NUL characters")
    if reference is not None and len(reference) > MAX_REFERENCE:
        raise InvalidInput(f"'/external_reference' must have at most {MAX_REFERENCE} characters")
    named = Ask(ask.id, ask.models, model, ask.created)
    generation, _ = native.parse_queued(fields, named)
    return Item(generation, reference, _encode(fields))


def _response(position: int, item: Response) -> dict[str, Any]:
    output = msgspec.Raw(item.output)
    found = {"id": position, "result": output if item.success else {}, "success": item.success}
    if not item.success:
        found["errors"] = output
    if item.reference is not None:
        found["external_reference"] = item.reference
    return found
