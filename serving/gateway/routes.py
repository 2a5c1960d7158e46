"""Paths and verbs -> what to do.

Model ids contain slashes and clients send them raw, or encoded as `%2F` (both official SDKs), or
with `%40` for the `@`. Servers decode the path before we see it, some only in part; so it is
decoded once more here, which changes nothing in a path that is plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from serving.errors import MethodRefused, UnknownObject, UnknownPath
from serving.gateway.asgi import Scope

RUN = "ai/run"

_ACCOUNTS = "/client/v4/accounts/"
_ACCOUNT_ID = re.compile("[0-9a-f]{32}", re.IGNORECASE)
_RUN = re.compile("ai/run/(.+?)/*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: `route` is one of the constants above."""

    route: str
    account: str
    model: str


def match(scope: Scope) -> Target:
    """The target of an ASGI `http` scope.

    Raises:
        UnknownPath: no route looks like this.
        UnknownObject: the account id is malformed, or nothing of this name is under an account.
        MethodRefused: the verb is not POST.
    """
    path = _path(scope)
    if not path.startswith(_ACCOUNTS):
        raise UnknownPath
    account, _, rest = path.removeprefix(_ACCOUNTS).partition("/")
    found = _RUN.fullmatch(rest)
    if not found or not _ACCOUNT_ID.fullmatch(account):
        raise UnknownObject(path)
    model = found[1]
    if "/" in model and not model.startswith("@"):
        raise UnknownPath  # `ai/run/dynamic/...` and the like: no author, so no model
    if scope["method"] != "POST":
        raise MethodRefused(scope["method"], allowed="POST")
    return Target(RUN, account.lower(), model)


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    if "%" in path:
        path = unquote(path)
    return path.removeprefix(scope.get("root_path", ""))
