"""OpenAI's older completions, `ai/v1/completions`: the model goes on with a text as it is."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from serving.core import Delta, Generation, RawPrompt, Usage
from serving.errors import InvalidInput, ServingError
from serving.protocol import native, openai, payload, response_format, sse
from serving.protocol.dialect import Ask, Dialect
from serving.protocol.openai import FINISH

_HOLE = "\0"


class Body(openai.Body, kw_only=True):
    """A completion's request. Of the forms a prompt may have, token ids are not served."""

    prompt: str | list[Any]
    echo: bool = False
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=1)] | None = None
    response_format: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises: InvalidInput: something is asked for that is not served here."""
        openai.Body.check(self)
        for name in ("echo", "suffix", "logprobs"):
            if getattr(self, name) not in (None, False, ""):
                raise InvalidInput(f"'/{name}' is not supported")

    def text(self) -> str:
        """The one prompt.

        Raises:
            InvalidInput: it is empty, or several, or tokens.
        """
        match self.prompt:
            case str(text) | [str(text)] if text:
                return text
        raise InvalidInput("'/prompt' must be one text")


def parse(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the body names.

    Raises:
        BadRequest: see `native.parse`.
    """
    body = payload.shaped(data, Body)
    model = ask.find(body.model)
    body.check()
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=RawPrompt(body.text()),
        sampling=body.sampling(),
        json=response_format.parse(body.response_format),
        stream=body.stream,
        lora=model.lora(body.lora),
    )
    return generation, Writer(generation, ask, body)


DIALECT = Dialect(parse, openai.failure)


class Writer:
    """Writes the completion or its chunks, which have the same shape."""

    def __init__(self, generation: Generation, ask: Ask, body: Body) -> None:
        self._id = generation.id
        self._head = {
            "id": f"cmpl-{generation.id}",
            "object": "text_completion",
            "created": ask.created,
            "model": generation.model,
        }
        self._usage = (body.stream_options or openai.StreamOptions()).include_usage
        self._before, self._after = sse.template(self._chunk(_HOLE), _HOLE)

    def whole(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        used = native.usage(delta.usage or Usage())
        finish = FINISH[delta.finish] if delta.finish else None
        return sse.encode({**self._chunk(delta.text, finish), "usage": used})

    def frames(self, delta: Delta) -> bytes:
        """See `dialect.Writer`."""
        frames = self._before + sse.encode(delta.text) + self._after if delta.text else b""
        if delta.finish is None:
            return frames
        last = self._chunk("", FINISH[delta.finish])
        used = native.usage(delta.usage or Usage())
        return frames + openai.ending(self._head, last, used, self._usage)

    def broken(self, error: ServingError) -> bytes:
        """See `dialect.Writer`."""
        return sse.event(openai.described(error, self._id))

    def _chunk(self, text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}
