"""From a question to a `Record`: the one place where requests are sent and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.client import Endpoint, Exchange, Message, Pool, Transport, clock
from loadtest.core import Ask, Failure, Record, UsageError
from loadtest.dialects import Dialect, dialect
from loadtest.reading import Reading
from loadtest.scenario import Target, Tenant

Observer = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """A tenant on the wire: how its requests look and who pays for them."""

    name: str
    dialect: Dialect
    headers: dict[str, str] = field(repr=False)
    adapter: str | None = None

    @classmethod
    def of(cls, tenant: Tenant, target: Target) -> Identity:
        """The target's settings, where the tenant has none of its own.

        Raises:
            UsageError: there is no such API, or the token cannot be sent.
        """
        token = (tenant.token or target.token).get_secret_value()
        if not token.isprintable() or not token.isascii():
            raise UsageError(f"the token of {tenant.name} cannot stand in a header")
        spoken = dialect(target.api, tenant.model or target.model, tenant.account or target.account)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return cls(tenant.name, spoken, headers, tenant.adapter)

    def message(self, ask: Ask) -> Message:
        """`ask` as a POST."""
        return Message(self.dialect.path(ask), self.headers, self.dialect.body(ask))


@dataclass(slots=True)
class Wire:
    """Sends messages and makes the record of each; `began` is the zero of all its times.

    Ids go up by `stride` from `first`, so that those of workers differ.
    """

    transport: Transport
    observers: list[Observer]
    timeout: float
    limit: int
    first: int = 0
    stride: int = 1
    began: float = 0.0
    inflight: int = 0
    most: int = 0
    started: int = 0
    on_exchange: Callable[[Exchange], None] | None = None

    async def send(
        self,
        message: Message,
        identity: str,
        *,
        intended: float,
        stream: bool = True,
        task: str = "",
    ) -> tuple[Record, Reading]:
        """Send, wait for the end, and tell the observers. `intended` is a time of `clock`."""
        number = self.first + self.started * self.stride
        self.started += 1
        if self.inflight >= self.limit:
            exchange = _overflown()
        else:
            exchange = await self._exchange(message)
        record = self._record(exchange, number, identity, intended, stream, task)
        for observer in self.observers:
            observer(record)
        return record, exchange.reading

    async def _exchange(self, message: Message) -> Exchange:
        self.inflight += 1
        self.most = max(self.most, self.inflight)
        try:
            exchange = await self.transport.send(message, self.timeout)
        finally:
            self.inflight -= 1
        if self.on_exchange is not None:
            self.on_exchange(exchange)
        return exchange

    def _record(
        self, exchange: Exchange, number: int, tenant: str, intended: float, stream: bool, task: str
    ) -> Record:
        reading, zero = exchange.reading, self.began
        return Record(
            id=number,
            tenant=tenant,
            task=task,
            stream=stream,
            intended=intended - zero,
            sent=exchange.sent - zero,
            connect=exchange.connect,
            first_byte=_since(zero, reading.first_byte),
            first_token=_since(zero, reading.first_token),
            end=exchange.end - zero,
            gaps=reading.gaps,
            frames=reading.frames,
            status=reading.status,
            error=str(reading.error),
            code=reading.code,
            prompt_tokens=reading.prompt_tokens,
            output_tokens=reading.output_tokens,
            cached_tokens=reading.cached_tokens,
            image_tokens=reading.image_tokens,
            cached_image_tokens=reading.cached_image_tokens,
        )


def transport(target: Target) -> Transport:
    """The transport that a target asks for."""
    endpoint = Endpoint.parse(target.url, target.insecure)
    if target.transport == "raw":
        return Pool(endpoint)
    from loadtest.client_httpx import HttpxTransport  # httpx is slow to import

    return HttpxTransport(endpoint)


def _since(zero: float, moment: float | None) -> float | None:
    return None if moment is None else moment - zero


def _overflown() -> Exchange:
    reading, now = Reading(), clock()
    reading.fail(Failure.OVERFLOW)
    return Exchange(reading, now, end=now)
