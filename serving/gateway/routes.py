"""Paths and verbs -> what to do.

Model ids contain slashes and clients send them raw, or encoded as `%2F` (both official SDKs), or
with `%40` for the `@`. Servers decode the path before we see it, some only in part; so it is
decoded once more here, which changes nothing in a path that is plain.

AI Gateway's addresses lead to the same places: `/v1/{account}/{gateway}/workers-ai/...`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from serving.errors import MethodRefused, UnknownObject, UnknownPath
from serving.gateway import aig, finetunes
from serving.gateway.asgi import Scope
from serving.protocol import (
    anthropic,
    envelope,
    native,
    openai,
    openai_chat,
    openai_completions,
    openai_responses,
    pages,
)
from serving.protocol.dialect import Dialect, Failure
from serving.protocol.pages import Page

RUN = "ai/run"
MODELS = "ai/v1/models"

_ACCOUNTS = "/client/v4/accounts/"
_USER = "/client/v4/user/"
_GATEWAY = re.compile(r"/v1/(?P<account>[^/]+)/[^/]+/(?P<rest>(?:workers-ai|compat)/.*)")
_ACCOUNT_ID = re.compile("[0-9a-f]{32}", re.IGNORECASE)
_MODEL_HEADER = b"cf-consn-model-id"
_FORWARDED = b"x-forwarded"
_QUEUED = ("queueRequest", "true")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `route` has no ids in it; `account` is empty where the path has none.

    `action` is the dialect that a generation is asked for in, or a page to read, or what to do with
    adapters; `model` is what the path goes on with, a model or an adapter. With `queued`
    it is to run later, if there is a queue; `gateway` tells that it comes through AI Gateway.
    `inputs` are the fields of a request, as JSON, that came with the address.
    """

    route: str
    action: Dialect | Page | finetunes.Action
    failure: Failure
    account: str = ""
    model: str = ""
    queued: bool = False
    gateway: bool = False
    inputs: bytes = field(default=b"", repr=False)


def _asks(route: str, dialect: Dialect) -> dict[str, Target]:
    return {"POST": Target(route, dialect, dialect.failure)}


def _shows(route: str, page: Page, failure: Failure = envelope.failure) -> dict[str, Target]:
    return {"GET": Target(route, page, failure)}


def _keeps(route: str, **verbs: finetunes.Action) -> dict[str, Target]:
    return {verb: Target(route, action, envelope.failure) for verb, action in verbs.items()}


_PROXY = "ai/run/proxy"
ASSETS = "ai/finetunes/{finetune_id}/finetune-assets"
_ASSETS = re.compile("ai/finetunes/([^/]+)/finetune-assets")
# Below an account. The keys are whole paths; those that end in a slash go on with a model.
ROUTES: Mapping[str, Mapping[str, Target]] = {
    RUN: _asks(RUN, native.NAMED),
    f"{RUN}/": _asks(RUN, native.DIRECT),
    _PROXY: _asks(_PROXY, native.BOUND) | _shows(_PROXY, pages.search_bound),
    "ai/v1/chat/completions": _asks("ai/v1/chat/completions", openai_chat.DIALECT),
    "ai/v1/completions": _asks("ai/v1/completions", openai_completions.DIALECT),
    "ai/v1/responses": _asks("ai/v1/responses", openai_responses.DIALECT),
    "ai/v1/messages": _asks("ai/v1/messages", anthropic.DIALECT),
    "ai/v1/messages/count_tokens": _asks("ai/v1/messages/count_tokens", anthropic.COUNT),
    MODELS: _shows(MODELS, pages.openai_models, openai.failure),
    f"{MODELS}/": _shows(MODELS, pages.openai_model, openai.failure),
    "ai/finetunes": _keeps("ai/finetunes", GET=finetunes.LIST, POST=finetunes.CREATE),
    "ai/finetunes/public": _keeps("ai/finetunes/public", GET=finetunes.LIST_PUBLIC),
    ASSETS: _keeps(ASSETS, POST=finetunes.UPLOAD),
    "ai/models/search": _shows("ai/models/search", pages.search),
    "ai/models/schema": _shows("ai/models/schema", pages.model_schema),
    "ai/tasks/search": _shows("ai/tasks/search", pages.tasks),
    "ai/authors/search": _shows("ai/authors/search", pages.authors),
    "tokens/verify": _shows("tokens/verify", pages.token),
}
USER_ROUTES = {"tokens/verify": _shows("user/tokens/verify", pages.token)}


def match(scope: Scope) -> Target:
    """The target of an ASGI `http` scope.

    Raises:
        UnknownPath: no route looks like this.
        UnknownObject: the account id is malformed, or nothing of this name is under an account.
        MethodRefused: the path takes other verbs.
    """
    path = _path(scope)
    if path.startswith(_USER):
        if (known := USER_ROUTES.get(path.removeprefix(_USER).rstrip("/"))) is None:
            raise UnknownPath
        return _by_verb(known, scope)
    account, rest = _split(path)
    found = _found(rest)
    if not found or not _ACCOUNT_ID.fullmatch(account):
        raise UnknownObject(path)
    verbs, model = found
    if verbs is ROUTES[f"{RUN}/"] and "/" in model and not model.startswith("@"):
        raise UnknownPath  # `ai/run/dynamic/...` and the like: no author, so no model
    target = _by_verb(verbs, scope)
    if target.route == _PROXY:
        model, target = _bound(target, scope, path)
    queued = target.route == RUN and _is_queued(scope)
    gateway = path.startswith("/v1/") or any(name == aig.NAMED for name, _ in scope["headers"])
    return replace(target, account=account.lower(), model=model, queued=queued, gateway=gateway)


def _split(path: str) -> tuple[str, str]:
    """The account, and what is below it."""
    if path.startswith(_ACCOUNTS):
        account, _, rest = path.removeprefix(_ACCOUNTS).partition("/")
        return account, rest
    if (found := _GATEWAY.fullmatch(path)) is None:
        raise UnknownPath
    return found["account"], _direct(found["rest"])


def _direct(rest: str) -> str:
    """An address behind AI Gateway as it is without: `workers-ai/@cf/...` is `ai/run/@cf/...`."""
    provider, _, below = rest.partition("/")
    if provider == "compat":
        return f"ai/v1/{below}"
    if below.startswith(("run/", "v1/")):
        return f"ai/{below}"
    return f"{RUN}/{below}"


def _found(rest: str) -> tuple[Mapping[str, Target], str] | None:
    """The verbs of a path below an account, and the model or the adapter it names."""
    plain = rest.rstrip("/")
    if plain in ROUTES:
        return ROUTES[plain], ""
    if asset := _ASSETS.fullmatch(plain):
        return ROUTES[ASSETS], asset[1]
    for start in (f"{RUN}/", f"{MODELS}/"):
        if plain.startswith(start):
            return ROUTES[start], plain.removeprefix(start)
    return None


def _by_verb(verbs: Mapping[str, Target], scope: Scope) -> Target:
    try:
        return verbs[scope["method"]]
    except KeyError:
        raise MethodRefused(scope["method"], allowed=", ".join(verbs)) from None


def _bound(target: Target, scope: Scope, path: str) -> tuple[str, Target]:
    """The model that a Workers binding names in a header, and what else it says in headers.

    Raises:
        UnknownObject: a page is asked for, and not the one that there is.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    asked, _, query = headers.get(_FORWARDED, b"").partition(b"?")
    if not isinstance(target.action, Dialect):
        if asked.endswith(b"/ai-api/models/search"):
            return "", target
        raise UnknownObject(path)
    inputs = dict(parse_qsl(query.decode("latin-1"))).get("userInputs", "").encode()
    return headers.get(_MODEL_HEADER, b"").decode("latin-1"), replace(target, inputs=inputs)


def _is_queued(scope: Scope) -> bool:
    return _QUEUED in parse_qsl(scope.get("query_string", b"").decode("latin-1"))


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    if "%" in path:
        path = unquote(path)
    return path.removeprefix(scope.get("root_path", ""))
