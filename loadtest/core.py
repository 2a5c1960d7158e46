"""The types every stage speaks: Ask -> bytes -> Record. Nothing here knows HTTP or a clock.

All times of a `Record` are seconds since the run began, on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec


class LoadtestError(Exception):
    """Base of what the command reports in one line."""


class UsageError(LoadtestError):
    """The caller asked for something that cannot be."""


class RunError(LoadtestError):
    """The run could not be done at all."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. Images are encoded pictures (PNG or JPEG)."""

    role: str
    text: str = field(repr=False)
    images: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request before it has a dialect. `None` leaves the server's or the target's default."""

    turns: tuple[Turn, ...] = field(repr=False)
    max_tokens: int | None = None
    stream: bool = True
    model: str | None = None
    adapter: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    temperature: float | None = None


class Failure(StrEnum):
    """How a request can go wrong. HTTP errors are `http_<status>`, refined for 429."""

    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    TRUNCATED = "truncated"  # the connection or the stream ended before the answer did
    IN_200 = "error_in_200"  # an error in the body or the stream of a 200
    EMPTY = "empty"  # a complete answer without a single token
    PROTOCOL = "protocol"  # not HTTP, or not the dialect
    OVERFLOW = "overflow"  # never sent: the declared limit of requests in flight was reached


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One request, whatever became of it.

    `intended` is when it was due, `sent` when its first byte was handed to the kernel; `connect`
    the seconds spent on a new connection (0: one was reused). `gaps` are the microseconds between
    successive frames that carried text. Token counts are the server's usage; -1 if it sent none.
    """

    id: int
    tenant: str = "default"
    task: str = ""
    stream: bool = True
    intended: float
    sent: float
    connect: float = 0.0
    first_byte: float | None = None
    first_token: float | None = None
    end: float
    gaps: list[int] = msgspec.field(default_factory=list)
    frames: int = 0
    status: int = 0
    error: str = ""
    code: int | None = None
    prompt_tokens: int = -1
    output_tokens: int = -1
    cached_tokens: int = 0
    image_tokens: int = 0
    cached_image_tokens: int = 0

    @property
    def text_tokens(self) -> int:
        """Of the prompt, without those of pictures; -1 if the server did not say."""
        return self.prompt_tokens - self.image_tokens

    @property
    def cached_text_tokens(self) -> int:
        """Of the text, those that the server had computed before."""
        return self.cached_tokens - self.cached_image_tokens

    @property
    def tokens(self) -> int:
        """Output tokens by usage, or by frames if the server sent no usage."""
        return self.output_tokens if self.output_tokens >= 0 else self.frames

    @property
    def last_token(self) -> float | None:
        """When the last frame with text came."""
        return None if self.first_token is None else self.first_token + sum(self.gaps) / 1e6
