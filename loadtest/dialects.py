"""The two ways of asking: Workers AI's native route and OpenAI's chat completions. Pure.

URLs are bases as the SDKs of each dialect take them: `.../client/v4` and `.../v1`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from loadtest.core import Ask, Turn, UsageError

_encode = msgspec.json.Encoder().encode


class Dialect(Protocol):
    """How an `Ask` becomes a request."""

    def path(self, ask: Ask) -> str:
        """Below the base URL."""

    def body(self, ask: Ask) -> bytes:
        """JSON."""


@dataclass(frozen=True, slots=True)
class WorkersAI:
    """`POST accounts/{account}/ai/run/{model}`."""

    account: str
    model: str

    def path(self, ask: Ask) -> str:
        """See `Dialect`."""
        model = quote(ask.model or self.model, safe="@/")
        return f"/accounts/{quote(self.account)}/ai/run/{model}"

    def body(self, ask: Ask) -> bytes:
        """See `Dialect`."""
        return _encode(_common(ask) | ({"lora": ask.adapter} if ask.adapter else {}))


@dataclass(frozen=True, slots=True)
class OpenAI:
    """`POST chat/completions`. An adapter is asked for as the model, as vLLM has it."""

    model: str

    def path(self, ask: Ask) -> str:
        """See `Dialect`."""
        return "/chat/completions"

    def body(self, ask: Ask) -> bytes:
        """See `Dialect`."""
        body = {"model": ask.adapter or ask.model or self.model, **_common(ask)}
        if ask.stream:
            body["stream_options"] = {"include_usage": True}
        return _encode(body)


def dialect(api: str, model: str, account: str | None) -> Dialect:
    """The dialect called `api`.

    Raises:
        UsageError: there is none of that name, or the account is missing.
    """
    if api == "openai":
        return OpenAI(model)
    if api != "workers-ai":
        raise UsageError(f"no such API: {api!r}; there are workers-ai and openai")
    if not account:
        raise UsageError("the workers-ai API needs an account")
    return WorkersAI(account, model)


def _common(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(turn) for turn in ask.turns]}
    if ask.stream:
        body["stream"] = True
    if ask.max_tokens is not None:
        body["max_tokens"] = ask.max_tokens
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    if ask.tools:
        body["tools"] = list(ask.tools)
    return body


def _message(turn: Turn) -> dict[str, Any]:
    if not turn.images:
        return {"role": turn.role, "content": turn.text}
    pictures = [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in turn.images]
    return {"role": turn.role, "content": [*pictures, {"type": "text", "text": turn.text}]}


def data_url(image: bytes) -> str:
    """A PNG or JPEG as a `data:` URL."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
