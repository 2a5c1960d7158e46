"""Reading an answer as it comes: which bytes carried text, when they came, what went wrong.

Both dialects are read alike: a frame or a body may have the keys of either (Workers AI itself
mixes them), and what matters is whether it carries text, usage or an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from loadtest.core import Failure


class _Details(msgspec.Struct):
    """Those of pictures are said by our own service only."""

    cached_tokens: int | None = 0
    image_tokens: int | None = 0
    cached_image_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = -1
    completion_tokens: int = -1
    prompt_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    """A message or a delta. Reasoning counts as text: it is tokens that the caller waits for."""

    content: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None


class _Frame(msgspec.Struct):
    response: Any = None
    tool_calls: Any = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    errors: list[Any] | None = None
    error: Any = None
    truth: Any = None  # of the mock server


class _Body(_Frame):
    result: _Frame | None = None
    success: bool | None = None


_decode_frame: Callable[[bytes], _Frame] = msgspec.json.Decoder(_Frame).decode
_decode_body: Callable[[bytes], _Body] = msgspec.json.Decoder(_Body).decode


class Reading:
    """One answer. Feed it what was read from the socket, with the time of the read."""

    __slots__ = (
        "_rest",
        "_stream",
        "cached_image_tokens",
        "cached_tokens",
        "closing",
        "code",
        "done",
        "error",
        "first_byte",
        "first_token",
        "frames",
        "gaps",
        "image_tokens",
        "last_token",
        "output_tokens",
        "pieces",
        "prompt_tokens",
        "retry_after",
        "status",
        "truth",
    )

    def __init__(self) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.closing = False
        self.error = ""
        self.code: int | None = None
        self.first_byte: float | None = None
        self.first_token: float | None = None
        self.last_token = 0.0
        self.gaps: list[int] = []
        self.frames = 0
        self.pieces: list[Any] = []
        self.prompt_tokens = self.output_tokens = -1
        self.cached_tokens = self.image_tokens = self.cached_image_tokens = 0
        self.done = False
        self.truth: Any = None
        self._rest = b""
        self._stream = False

    def head(self, status: int, content_type: bytes, retry_after: str | None) -> None:
        """The status line and the headers that matter have come."""
        self.status = status
        self.retry_after = retry_after
        self._stream = status == 200 and content_type.startswith(b"text/event-stream")

    def body(self, data: bytes, now: float) -> None:
        """Some of the body has come, read at `now`."""
        if not self._stream:
            self._rest += data
            return
        if self._rest or not data.endswith(b"\n\n"):
            data = (self._rest + data).replace(b"\r\n", b"\n")
            data, _, self._rest = data.rpartition(b"\n\n")
        for event in data.split(b"\n\n"):
            if event:
                self._event(event, now)

    def end(self, now: float) -> None:
        """The answer is complete, as HTTP has it."""
        if self._stream:
            if not (self.done or self.error):
                self.fail(Failure.TRUNCATED)
        else:
            self._whole(now)
        if self.status == 200 and not self.frames and not self.error:
            self.error = Failure.EMPTY

    def fail(self, failure: str) -> None:
        """The first failure stays."""
        self.error = self.error or failure

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    def _event(self, event: bytes, now: float) -> None:
        data = event[6:] if event.startswith(b"data: ") else _data(event)
        if not data:
            return
        if data == b"[DONE]":
            self.done = True
            return
        try:
            frame = _decode_frame(data)
        except msgspec.MsgspecError:
            self.fail(Failure.PROTOCOL)
            return
        self._frame(frame, now)

    def _frame(self, frame: _Frame, now: float) -> None:
        piece = frame.response or frame.tool_calls or (frame.choices and _piece(frame.choices[0]))
        if piece:
            self._token(piece, now)
        if frame.usage is not None:
            self._usage(frame.usage)
        if frame.errors or frame.error:
            self.fail(Failure.IN_200)
            self.code = _code(frame)
        if frame.truth is not None:
            self.truth = frame.truth

    def _token(self, piece: Any, now: float) -> None:
        if self.first_token is None:
            self.first_token = now
        else:
            self.gaps.append(round((now - self.last_token) * 1e6))
        self.last_token = now
        self.frames += 1
        self.pieces.append(piece)

    def _usage(self, usage: _Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.output_tokens = usage.completion_tokens
        details = usage.prompt_tokens_details or _Details()
        self.cached_tokens = details.cached_tokens or 0
        self.image_tokens = details.image_tokens or 0
        self.cached_image_tokens = details.cached_image_tokens or 0

    def _whole(self, now: float) -> None:
        """Read a body that came in one piece. Errors need not be JSON: proxies send HTML."""
        try:
            body = _decode_body(self._rest)
        except msgspec.MsgspecError:
            body = None
        if self.status != 200:
            self.fail(_http_error(self.status, self.retry_after))
            self.code = _code(body) if body else None
        elif body is None:
            self.fail(Failure.PROTOCOL)
        else:
            self._frame(body, now)
            if body.result is not None:
                self._frame(body.result, now)
            if body.success is False:
                self.fail(Failure.IN_200)


def _piece(choice: _Choice) -> Any:
    found = choice.delta or choice.message
    if found is None:
        return choice.text
    return found.content or found.reasoning_content or found.tool_calls


def _data(event: bytes) -> bytes:
    """The data of an event that has other lines too; comments have none."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def _http_error(status: int, retry_after: str | None) -> str:
    if status == 429 and retry_after is None:
        return "http_429_without_retry_after"
    return f"http_{status}"


def _code(frame: _Frame) -> int | None:
    """Cloudflare's number of an error, or OpenAI's if it is a number."""
    for error in [*(frame.errors or []), frame.error]:
        if isinstance(error, dict) and isinstance(error.get("code"), int):
            return int(error["code"])
    return None
