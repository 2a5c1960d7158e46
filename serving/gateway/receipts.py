"""The one record of a request: gathered while it runs, made when it ends, shown to observers.

Observers are plain functions. They may not await: when a client leaves, the task that would is
already cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, time

import msgspec

from serving.core import Delta, Finish, Outcome, Receipt, Usage
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

_access = logging.getLogger("serving.access")
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
    ttft: float | None = None
    answering: bool = False  # the response has begun: its status is out
    headers: Headers = field(default_factory=list)  # of the answer, whatever it will be
    progress: Callable[[Usage], None] | None = None  # keeps the usage safe from a crash
    failure: Failure = envelope.failure  # how the caller's dialect says what went wrong
    price: Price = FREE
    _arrived: float = field(default_factory=perf_counter)

    @property
    def neurons(self) -> float:
        """What has been used so far, in Workers AI's unit."""
        return self.price.neurons(self.usage) / 1e6

    def first_token(self) -> None:
        """The engine produced something."""
        if self.ttft is None:
            self.ttft = perf_counter() - self._arrived

    def note(self, delta: Delta) -> None:
        """The engine handed this over; it is not yet on its way to the client."""
        self.first_token()
        self.finish = delta.finish
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
            ttft=self.ttft,
            token=self.token,
            at=time(),
            finish=self.finish,
            images=self.images,
            stream=self.stream,
            queued=self.queued,
            reason=self.reason,
            adapter=self.adapter,
        )


def log_access(receipt: Receipt) -> None:
    """An observer: one line of JSON per request to the logger `serving.access`.

    It holds what the receipt holds: no prompt, no picture, no token.
    """
    if _access.isEnabledFor(logging.INFO):
        _access.info("%s", msgspec.json.encode(receipt).decode())
