"""The admin API as an ASGI app. For every route: who may, then one transaction in a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.admin import calls
from serving.admin.bodies import wrong
from serving.admin.calls import Call, Handler, Text
from serving.errors import InvalidInput, NotPermitted, ServingError, StoreDown, UnknownObject
from serving.gateway.auth import bearer
from serving.protocol import envelope
from serving.tenancy.accounts import NotFound
from serving.tenancy.database import Database, Down
from serving.tenancy.identity import Identity
from serving.tenancy.secret import Secret

_MAX_BODY = 64 * 1024
_ACCOUNT = "/admin/v1/accounts/{account}"
_TOKEN = _ACCOUNT + "/tokens/{token}"

# Method, path, what it does, and whether a member may do it within the own account.
_ROUTES: tuple[tuple[str, str, Handler, bool], ...] = (
    ("GET", "/admin/v1/accounts", calls.list_accounts, False),
    ("POST", "/admin/v1/accounts", calls.create_account, False),
    ("GET", _ACCOUNT, calls.show_account, True),
    ("PATCH", _ACCOUNT, calls.switch_account, False),
    ("GET", _ACCOUNT + "/tokens", calls.list_tokens, True),
    ("POST", _ACCOUNT + "/tokens", calls.create_token, True),
    ("DELETE", _TOKEN, calls.revoke_token, True),
    ("GET", _ACCOUNT + "/limits", calls.show_limits, True),
    ("PUT", _ACCOUNT + "/limits", calls.set_limits, False),
    ("GET", _TOKEN + "/limits", calls.show_limits, True),
    ("PUT", _TOKEN + "/limits", calls.set_limits, False),
    ("GET", _ACCOUNT + "/usage", calls.show_usage, True),
    ("GET", _ACCOUNT + "/invoices/{month}", calls.show_invoice, True),
    ("GET", "/admin/v1/usage", calls.show_usage, False),
    ("GET", "/admin/v1/audit", calls.show_audit, False),
)


def app(database: Database, secret: Secret, identity: Identity) -> Starlette:
    """The app, for paths under `/admin/v1`."""
    routes = [
        Route(path, _endpoint(handler, own, database, secret, identity), methods=[method])
        for method, path, handler, own in _ROUTES
    ]
    made = Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})
    made.router.redirect_slashes = False  # to a URL that whoever stands before us has not got
    return made


def _endpoint(
    handler: Handler, own: bool, database: Database, secret: Secret, identity: Identity
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            caller = await identity.check(bearer(request.scope["headers"]), "", "admin")
            if caller.role != "admin" and not (
                own and request.path_params.get("account") == caller.account
            ):
                raise NotPermitted
            body = await _body(request)
            call = Call(caller, secret, request.path_params, dict(request.query_params), body)
            return _answered(await run_in_threadpool(_work, database, handler, call))
        except ServingError as error:
            return _failed(error)

    return endpoint


def _work(database: Database, handler: Handler, call: Call) -> object:
    """Run a handler in its transaction; what can go wrong in the words of the service."""
    try:
        with database.begin() as connection:
            return handler(connection, call)
    except NotFound as error:
        raise UnknownObject(error.what) from error
    except IntegrityError as error:
        raise InvalidInput("such an account exists already") from error
    except ValidationError as error:
        raise InvalidInput(wrong(error)) from error
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    except Down as error:
        raise StoreDown(database.wait()) from error


async def _body(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise InvalidInput(f"the body is longer than {_MAX_BODY} bytes")
    return data


def _answered(result: object) -> Response:
    if isinstance(result, Text):
        return Response(result, media_type="text/csv")
    return Response(envelope.success(result), media_type="application/json")


def _failed(error: ServingError) -> Response:
    status = envelope.problem(error).status
    headers = {name.decode(): value.decode() for name, value in envelope.headers(error)}
    return Response(envelope.refusal(error), status, headers=headers, media_type="application/json")


def _unknown(request: Request, _: Exception) -> Response:
    return _failed(UnknownObject(request.url.path))
