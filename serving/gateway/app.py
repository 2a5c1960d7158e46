"""The ASGI application: `Gateway(engine, catalog, authenticator)` is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from uuid import uuid4

from serving.catalog import Catalog
from serving.core import Receipt
from serving.engine import Engine
from serving.errors import ServingError
from serving.gateway import body, routes, stream
from serving.gateway.asgi import App, Receive, Scope, Send
from serving.gateway.auth import Authenticator, bearer
from serving.gateway.errors import declared
from serving.gateway.receipts import Draft, Observer
from serving.gateway.tenant import Admission, Begin, Tenant, Unlimited
from serving.gateway.watch import ClientLeft, noticing
from serving.protocol import envelope, native

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
    ) -> None:
        """`observers` get each receipt, in order; `receipts.log_access` is one.

        `begin` hears of requests as they go to the engine; `admin` serves what is under `ADMIN`.
        """
        self._engine = engine
        self._catalog = catalog
        self._authenticator = authenticator
        self._admission = admission or Unlimited()
        self._begin = begin
        self._admin = admin
        self._max_body_bytes = max_body_bytes
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" if scope["path"] == HEALTH:
                await self._health(send)
            case "http" if self._admin and scope["path"].startswith(ADMIN):
                await self._admin(scope, receive, send)
            case "http":
                await self._metered(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)
            case other:
                raise NotImplementedError(other)  # ASGI's way of declining a protocol

    async def _metered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and whatever happens leave a receipt."""
        draft = Draft(str(uuid4()))
        try:
            await self._answer(scope, receive, noticing(send), draft)
        except ClientLeft:
            draft.cancelled()
        except asyncio.CancelledError:
            # Ray Serve cancels the task when the client leaves; others when they stop.
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
            answer = envelope.failure(failure, draft.id)
            await stream.send_json(send, draft, answer, envelope.headers(failure))

    async def _run(self, scope: Scope, receive: Receive, send: Send, draft: Draft) -> None:
        """The cheap checks before the body is read, the body before the engine is asked."""
        target = routes.match(scope)
        draft.route, draft.account = target.route, target.account
        caller = await self._authenticator.check(bearer(scope["headers"]), target.account)
        draft.account, draft.token = caller.account, caller.token
        model = self._catalog.find(target.model)
        draft.model = model.id
        data = await body.read(scope, receive, self._max_body_bytes)
        generation = native.parse(data, id=draft.id, model=model.id, max_images=model.max_images)
        answer = stream.answer_stream if generation.stream else stream.answer_plain
        engine = Tenant(self._engine, self._admission, self._begin, caller, draft)
        await answer(engine, generation, receive, send, draft)

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


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop: who made the engine closes it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
