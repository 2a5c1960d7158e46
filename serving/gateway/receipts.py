"""The one record of a request: gathered while it runs, made when it ends, shown to observers.

Observers are plain functions. They may not await: when a client leaves, the task that would is
already cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter, time

import msgspec

from serving.core import Delta, Finish, Outcome, Receipt, Sampling, Stages, Trace, Usage
from serving.errors import (
    BadRequest,
    Forbidden,
    NotAgreed,
    QuotaSpent,
    RateLimited,
    ServingError,
    TimedOut,
    Unauthenticated,
    Unroutable,
)
from serving.gateway.asgi import Headers
from serving.protocol import envelope
from serving.protocol.dialect import Failure
from serving.tenancy.prices import FREE, Price

Observer = Callable[[Receipt], None]

CLIENT_LEFT = 499  # nginx's status for a request whose client left before the answer began

# What the access log leaves out: what is long, or may hold the caller's own words.
_UNSAID = ("gaps", "sampling", "trace")

_SAID = tuple(name for name in Receipt.__struct_fields__ if name not in _UNSAID)

_access = logging.getLogger("serving.access")
_encode = msgspec.json.Encoder().encode
_CALLERS_FAULT = (
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotAgreed,
    Unroutable,
    RateLimited,
    QuotaSpent,
    TimedOut,
)


@dataclass(slots=True)
class Draft:
    """What is known of a request so far. Made when it arrives; a success unless told otherwise."""

    id: str
    account: str = ""
    token: str = ""
    images: int = 0
    stream: bool = False
    queued: float | None = None
    reason: str = ""
    adapter: str = ""
    finish: Finish | None = None
    route: str = ""
    model: str = ""
    outcome: Outcome = Outcome.OK
    status: int = 200
    code: int | None = None
    usage: Usage = field(default_factory=Usage)
    method: str = ""
    stages: Stages | None = None
    sampling: Sampling | None = None
    trace: Trace | None = None
    answering: bool = False  # the response has begun: its status is out
    headers: Headers = field(default_factory=list)  # of the answer, whatever it will be
    progress: Callable[[Usage], None] | None = None  # keeps the usage safe from a crash
    failure: Failure = envelope.failure  # how the caller's dialect says what went wrong
    price: Price = FREE
    _arrived: float = field(default_factory=perf_counter)
    _asked: float | None = None
    _noted: list[float] = field(default_factory=list)  # when each delta came

    @property
    def neurons(self) -> float:
        """What has been used so far, in Workers AI's unit."""
        return self.price.neurons(self.usage) / 1e6

    def traced(self, trace: Trace) -> None:
        """The request belongs to a trace; the answer says so."""
        self.trace = trace
        self.headers.append((b"traceresponse", trace.traceresponse.encode()))

    def admitting(self) -> None:
        """Admission begins."""
        self._asked = perf_counter()

    def admitted(self) -> None:
        """Admission is over, well or not."""
        assert self._asked is not None
        self.queued = perf_counter() - self._asked

    def note(self, delta: Delta) -> None:
        """The engine handed this over; it is not yet on its way to the client."""
        self._noted.append(perf_counter())
        self.finish = delta.finish
        if delta.stages is not None:
            # perf_counter is the monotonic clock.
            at = delta.stages.at - self._arrived
            self.stages = msgspec.structs.replace(delta.stages, at=at)
        if delta.usage is not None:
            self.used(delta.usage)

    def used(self, usage: Usage) -> None:
        """All that the request has used so far."""
        self.usage = usage
        if self.progress is not None:
            self.progress(usage)

    def failed(self, error: ServingError) -> None:
        """The request ends with this error; the status stays what was sent, if one was."""
        found = envelope.problem(error)
        self.code, self.reason = found.code, type(error).__name__
        self.outcome = Outcome.REJECTED if isinstance(error, _CALLERS_FAULT) else Outcome.FAILED
        if not self.answering:
            self.status = found.status

    def cancelled(self) -> None:
        """The client left, or the server stops."""
        self.outcome, self.code = Outcome.CANCELLED, envelope.ABORTED
        if not self.answering:
            self.status = CLIENT_LEFT

    def receipt(self) -> Receipt:
        """The record, as of now."""
        ttft = self._noted[0] - self._arrived if self._noted else None
        asked = self._asked - self._arrived if self._asked is not None else None
        return Receipt(
            id=self.id,
            account=self.account,
            route=self.route,
            model=self.model,
            outcome=self.outcome,
            status=self.status,
            code=self.code,
            usage=self.usage,
            duration=perf_counter() - self._arrived,
            ttft=ttft,
            token=self.token,
            at=time(),
            finish=self.finish,
            images=self.images,
            stream=self.stream,
            queued=self.queued,
            reason=self.reason,
            adapter=self.adapter,
            method=self.method,
            asked=asked,
            stages=self.stages,
            gaps=tuple(after - before for before, after in pairwise(self._noted)),
            sampling=self.sampling,
            trace=self.trace,
        )


def log_access(receipt: Receipt) -> None:
    """An observer: one line of JSON per request to the logger `serving.access`.

    It holds what the receipt holds: no prompt, no picture, no token. `trace` is the trace's id.
    """
    if _access.isEnabledFor(logging.INFO):
        line = {name: getattr(receipt, name) for name in _SAID}
        line["trace"] = receipt.trace.id if receipt.trace else None
        # Not by `info`: that walks the stack and asks the factories of Ray and vLLM for a record.
        said = _encode(line).decode()
        _access.handle(logging.LogRecord(_access.name, logging.INFO, "", 0, said, None, None))
