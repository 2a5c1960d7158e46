"""The ASGI application: `Gateway(engine, catalog, authenticator)` is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from time import time
from types import MappingProxyType
from urllib.parse import parse_qsl

from uuid_utils import uuid7

from serving.catalog import Catalog
from serving.core import Caller, Receipt, Trace
from serving.engine import Engine
from serving.errors import BodyTooLarge, MissingBody, ServingError, UnknownPath
from serving.gateway import aig, body, finetunes, openapi, routes, stream
from serving.gateway.agreement import Agreements
from serving.gateway.asgi import App, Headers, Receive, Scope, Send
from serving.gateway.auth import Authenticator, bearer, token_id
from serving.gateway.errors import declared
from serving.gateway.queue import Queue
from serving.gateway.receipts import Draft, Observer
from serving.gateway.routes import Target
from serving.gateway.tenant import Admission, Begin, Tenant, Unlimited
from serving.gateway.watch import ClientLeft, noticing
from serving.protocol import batch, envelope, native
from serving.protocol.dialect import Ask, Dialect
from serving.protocol.pages import Visit
from serving.tenancy.prices import FREE, Prices

HEALTH = "/-/healthz"
ADMIN = "/admin/"

_log = logging.getLogger("serving.gateway")


class Gateway:
    """Serves the requests of accounts to one engine. Every request ends in one `Receipt`."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        authenticator: Authenticator,
        *,
        admission: Admission | None = None,
        begin: Begin | None = None,
        admin: App | None = None,
        max_body_bytes: int = body.MAX_BODY_BYTES,
        observers: Iterable[Observer] = (),
        padded: bool = False,
        agreements: Agreements | None = None,
        queue: Queue | None = None,
        prices: Prices = MappingProxyType({}),
        adapters: finetunes.Finetunes | None = None,
        tracing: Callable[[Headers], Trace] | None = None,
    ) -> None:
        """`observers` get each receipt, in order; `receipts.log_access` is one.

        `begin` hears of requests as they go to the engine; `admin` serves what is under `ADMIN`.
        With `padded`, native streams hide the length of their tokens; with `agreements`, accounts
        must agree to a model's licence first; with `adapters`, they may bring LoRA adapters;
        without a `queue` all requests run at once. Answers say what they cost by `prices`; with
        `tracing` of a request's headers, which trace they belong to.
        """
        self._engine = engine
        self._catalog = catalog
        self._authenticator = authenticator
        self._admission = admission or Unlimited()
        self._begin = begin
        self._admin = admin
        self._max_body_bytes = max_body_bytes
        self._observers = tuple(observers)
        self._padded = padded
        self._agreements = agreements
        self._queue = queue
        self._prices = prices
        self._adapters = adapters
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" if scope["path"] == HEALTH:
                await self._health(send)
            case "http" if scope["path"] == openapi.PATH:
                await stream.send_json(send, Draft(str(uuid7())), openapi.document())
            case "http" if self._admin and scope["path"].startswith(ADMIN):
                await self._admin(scope, receive, send)
            case "http":
                await self._metered(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})  # before it is open: 403
            case other:
                raise NotImplementedError(other)  # ASGI's way of declining a protocol

    async def _metered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and whatever happens leave a receipt."""
        # Version 7 is in order of time: the database's index of receipts grows at its end.
        draft = Draft(str(uuid7()), method=scope["method"])
        if self._tracing is not None:
            draft.traced(self._tracing(scope["headers"]))
        try:
            await self._answer(scope, receive, noticing(scope, send), draft)
        except ClientLeft:
            draft.cancelled()
        except asyncio.CancelledError:
            # Servers cancel the task when they stop, and some when the client leaves.
            draft.cancelled()
            raise
        finally:
            self._observe(draft.receipt())

    async def _answer(self, scope: Scope, receive: Receive, send: Send, draft: Draft) -> None:
        """Run the request, or say why not."""
        try:
            await self._run(scope, receive, send, draft)
        except ClientLeft:
            raise
        except Exception as error:
            failure = declared(error, draft.id)
            draft.failed(failure)
            if draft.answering:
                raise  # too late to say anything: let the server cut the connection
            answer = draft.failure(failure, draft.id)
            await stream.send_json(send, draft, answer, envelope.headers(failure))

    async def _run(self, scope: Scope, receive: Receive, send: Send, draft: Draft) -> None:
        """The cheap checks before the body is read, the body before the engine is asked."""
        target = routes.match(scope)
        draft.route, draft.account, draft.failure = target.route, target.account, target.failure
        if target.gateway:
            draft.headers += aig.answered(draft.id)
        token = bearer(scope["headers"])
        caller = await self._authenticator.check(token, target.account)
        draft.account, draft.token = caller.account, caller.token
        if target.queued and self._queue is not None:
            data = await body.read(scope, receive, min(self._max_body_bytes, batch.MAX_BODY_BYTES))
            ask = self._ask(target, draft)
            await stream.send_json(send, draft, await self._queue.answer(data, ask, caller))
        elif isinstance(target.action, Dialect):
            await self._generate(target, target.action, caller, scope, receive, send, draft)
        elif isinstance(target.action, finetunes.Action):
            errand = self._errand(target, caller, scope, receive)
            await stream.send_json(send, draft, await target.action.run(errand))
        else:
            await stream.send_json(send, draft, target.action(self._visit(target, scope, token)))

    async def _generate(
        self,
        target: Target,
        dialect: Dialect,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
        draft: Draft,
    ) -> None:
        if target.model:
            draft.model = self._catalog.find(target.model).id
        data = await body.read(scope, receive, self._max_body_bytes)
        ask = self._ask(target, draft)
        if dialect is native.BOUND and (answer := await self._later(data, ask, caller)):
            await stream.send_json(send, draft, answer)
            return
        generation, writer = dialect.parse(data, ask)
        model = self._catalog.find(generation.model)
        draft.model, draft.price = model.id, self._prices.get(model.id, FREE)
        draft.stream = generation.stream
        if self._agreements is not None:
            await self._agreements.check(caller, model, generation)
        if dialect.counted is not None:
            counted = dialect.counted(await self._engine.count(generation))
            await stream.send_json(send, draft, counted)
            return
        generation = await finetunes.adapted(self._adapters, caller, generation)
        draft.adapter = generation.adapter.id if generation.adapter else ""
        run = stream.answer_stream if generation.stream else stream.answer_plain

        def still() -> Awaitable[Caller]:
            return self._authenticator.check(bearer(scope["headers"]), target.account)

        engine: Engine = Tenant(self._engine, self._admission, self._begin, caller, draft, still)
        if target.gateway:
            engine = aig.hurried(engine, scope["headers"])
        await run(engine, generation, writer, receive, send, draft)

    def _ask(self, target: Target, draft: Draft) -> Ask:
        """What its body is read with."""
        created = int(time())
        return Ask(draft.id, self._catalog, target.model, created, self._padded, target.inputs)

    async def _later(self, data: bytes, ask: Ask, caller: Caller) -> bytes:
        """The answer to a Workers binding that hands in or polls a batch, if it does."""
        if self._queue is None or ask.inputs or (inputs := batch.of_binding(data)) is None:
            return b""
        if len(data) > batch.MAX_BODY_BYTES:
            raise BodyTooLarge(batch.MAX_BODY_BYTES)
        if not ask.model:
            raise MissingBody("cf-consn-model-id")
        return envelope.unwrapped(await self._queue.answer(inputs, ask, caller))

    def _visit(self, target: Target, scope: Scope, token: bytes) -> Visit:
        """What a page needs to know."""
        return Visit(self._catalog, _query(scope), target.model, token_id(token))

    def _errand(
        self, target: Target, caller: Caller, scope: Scope, receive: Receive
    ) -> finetunes.Errand:
        """Raises: UnknownPath: nobody keeps adapters here."""
        if self._adapters is None:
            raise UnknownPath
        return finetunes.Errand(self._adapters, caller, target.model, _query(scope), scope, receive)

    def _observe(self, receipt: Receipt) -> None:
        for observer in self._observers:
            try:
                observer(receipt)
            except Exception:
                _log.exception("an observer failed on request %s", receipt.id)

    async def _health(self, send: Send) -> None:
        """200 while the engine works, else 503, for probes. No credentials, no receipt."""
        try:
            await self._engine.check_health()
            status, text = 200, b"ok"
        except ServingError:
            status, text = 503, b"engine failed"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop: who made the engine closes it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
