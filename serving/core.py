"""The types every stage speaks: bytes -> Generation -> Delta... -> bytes, and one Receipt.

All frozen. Dataclasses; msgspec structs, made in a tenth of the time, for what is made of every
token, changed on a request's way, or made in accounting for it. Nothing here knows HTTP, vLLM or
Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Image:
    """A picture as the client encoded it (PNG, JPEG, WebP, GIF...); decoded by the engine."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for. `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the caller declares. `parameters` is a JSON Schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; `content` keeps the caller's order."""

    role: str
    content: tuple[str | Image, ...] = field(repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """Text that goes to the model as it is, without the chat template; images come first."""

    text: str = field(repr=False)
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `None` leaves the model's own default; the rest are Workers AI's."""

    max_tokens: int = 256
    temperature: float = 0.6
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer must be JSON; with a `schema`, JSON that meets it."""

    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that is ready: its account's id for it, its files and their digest."""

    id: str
    digest: str
    folder: Path


class Generation(msgspec.Struct, frozen=True):
    """One request to the engine. `model` is a catalogue id such as `@cf/meta/...`.

    With `must_call` the answer is one call of one of the `tools`; without `may_wait` it is refused
    rather than queued when the engine is full; in the `background` it gives way to all others.
    `lora` is the name or id of an adapter, as asked for; `adapter` is that one, once it has been
    looked up.
    """

    id: str
    model: str
    prompt: tuple[Message, ...] | RawPrompt
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    json: JsonFormat | None = None
    stream: bool = False
    must_call: bool = False
    may_wait: bool = True
    background: bool = False
    lora: str = ""
    adapter: Adapter | None = None
    salt: str = ""  # prompts are cached for requests with the same salt only
    priority: int = 0  # at the engine: lower first
    traceparent: str = ""  # W3C's, of the span that the engine's are below; sampled, or none

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of the prompt, in the caller's order."""
        if isinstance(self.prompt, RawPrompt):
            return self.prompt.images
        return tuple(part for turn in self.prompt for part in turn.content if type(part) is Image)


class Size(msgspec.Struct, frozen=True, gc=False):
    """How large a request is before it runs, as far as that is cheap to know."""

    text_tokens: int = 0
    image_tokens: int = 0
    tiles: int = 0
    pixels: int = 0

    @property
    def prompt_tokens(self) -> int:
        """As `Usage` counts them."""
        return self.text_tokens + self.image_tokens


class Finish(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request, as Workers AI counts them: those of pictures belong to the prompt.

    A picture is one token of the text (`<|image|>`) and as many `image_tokens` as the vision tower
    makes of it: 1601 a tile of the published model. `cached_tokens` are those of the prompt that
    were found computed, text and pictures; `cached_image_tokens` are those of pictures.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    cached_image_tokens: int = 0

    @property
    def new_text_tokens(self) -> int:
        """Tokens of text that had to be computed."""
        cached_text = self.cached_tokens - self.cached_image_tokens
        return self.prompt_tokens - self.image_tokens - cached_text

    @property
    def new_images(self) -> float:
        """The part of the pictures that had to be computed, 0 to 1."""
        return 1 - self.cached_image_tokens / self.image_tokens if self.image_tokens else 0.0


@dataclass(frozen=True, slots=True)
class CallPart:
    """More of a call that is being written: its name, then its arguments, which are JSON text."""

    name: str = ""
    arguments: str = field(default="", repr=False)
    ends: bool = False


class Stages(msgspec.Struct, frozen=True, gc=False):
    """A request in the engine, in seconds: `at` it was queued there, then each stage's length.

    `at` is on the machine's monotonic clock; in a receipt it runs from the request's arrival.
    """

    at: float
    queue: float
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace a request belongs to, and its spans in it: ids in hexadecimal, as W3C has them.

    `span` is the request's, `inner` the one of its generation, below it; `parent` is the caller's,
    if there is one. Only what is `sampled` is kept.
    """

    id: str
    span: str
    inner: str
    parent: str = ""
    sampled: bool = False

    @property
    def traceresponse(self) -> str:
        """For whoever asked."""
        return f"00-{self.id}-{self.span}-{self.sampled:02x}"

    @property
    def traceparent(self) -> str:
        """For whoever does the generation."""
        return f"00-{self.id}-{self.inner}-{self.sampled:02x}"


class Delta(msgspec.Struct, frozen=True):
    """What the engine produced since the last one; `usage` is all so far. The last has `finish`.

    `stop` is the one of `Sampling.stop` that ended the answer, if one did; `stages` are known with
    the last. Calls come whole or, where they are certain before they are complete, in parts; never
    the same one as both.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    stop: str | None = None
    call_parts: tuple[CallPart, ...] = ()
    stages: Stages | None = None


class Outcome(Enum):
    """How a request ended, for whoever watches: metrics, access log, usage."""

    OK = "ok"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account or a token may use; `None` is no limit. Days and months are UTC's.

    Money in picodollars (10^-12 USD), tokens of prompt and answer together. `weight` is the share
    of the engine under overload, `priority` goes before any share: lower first.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    picodollars_per_day: int | None = None
    picodollars_per_month: int | None = None
    max_context: int | None = None
    max_images: int | None = None
    weight: int | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: an account by one of its tokens (an id, not the secret)."""

    account: str
    token: str = ""
    scopes: frozenset[str] = frozenset()
    role: str = "member"
    salt: str = ""
    account_limits: Limits = Limits()
    token_limits: Limits = Limits()


class Receipt(msgspec.Struct, frozen=True):
    """The one record of a request, made when it ends, whatever happened. Times in seconds.

    `at` is when it ended (Unix time); `ttft` runs from the arrival of the request to the first
    token, `None` if there was none; `queued` is the wait for admission, `None` if nobody waited.
    `token` and `adapter` are ids, of the caller's API token and of the LoRA adapter asked for.
    `reason` is the kind of error it got, if any. `asked` is when admission began, from the arrival;
    `gaps` are the times between the pieces of a stream.
    """

    id: str
    account: str
    route: str
    model: str
    outcome: Outcome
    status: int
    code: int | None
    usage: Usage
    duration: float
    ttft: float | None
    token: str = ""
    at: float = 0.0
    finish: Finish | None = None
    images: int = 0
    stream: bool = False
    queued: float | None = None
    reason: str = ""
    adapter: str = ""
    method: str = ""
    asked: float | None = None
    stages: Stages | None = None
    gaps: tuple[float, ...] = ()
    sampling: Sampling | None = None
    trace: Trace | None = None
