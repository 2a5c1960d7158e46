"""Who may call. `Authenticator` is what the gateway asks; `Credentials` knows one token.

Answers as the API does: 9106 when nothing usable was sent, 10000 with 401 for a token that nobody
holds and with 403 for a good one on somebody else's account. In the legacy pair of headers the key
is a token, and whose mail it comes with is not looked at.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Protocol

from serving.core import Caller
from serving.errors import Forbidden, Unauthenticated, WrongToken

# RFC 6750's b64token.
_BEARER = re.compile(rb"bearer +([\w.~+/-]+=*) *", re.IGNORECASE)


class Authenticator(Protocol):
    """Knows callers by their tokens."""

    async def check(self, token: bytes, account: str) -> Caller:
        """The caller when `token` opens `account`; "" is whichever it opens.

        Raises:
            WrongToken: a token nobody holds, or no longer.
            Forbidden: a good token, but for another account or purpose.
            StoreDown: nobody can tell now.
        """
        ...


class Credentials:
    """An account's id (32 hex digits) and its token; only digests of the token are kept."""

    def __init__(self, account: str, token: str) -> None:
        self.account = account.lower()
        self._digest = sha256(token.encode()).digest()

    async def check(self, token: bytes, account: str) -> Caller:
        """See `Authenticator.check`."""
        # Digests are of one length, so comparing them tells nothing about the token's.
        given = sha256(token).digest()
        if not hmac.compare_digest(given, self._digest):
            raise WrongToken("Authentication error")
        if account not in ("", self.account):
            raise Forbidden("Authentication error")
        return Caller(self.account)


def token_id(token: bytes) -> str:
    """A name for a token, of 32 hex digits, that says nothing about it."""
    return sha256(b"id of " + token).hexdigest()[:32]


def bearer(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The token, wherever the clients of the dialects put it.

    `pairs` are ASGI's headers, names in lower case.

    Raises:
        Unauthenticated: none, or in no form that is understood.
    """
    headers = dict(pairs)
    for name in (b"authorization", b"cf-aig-authorization"):
        if authorization := headers.get(name):
            break
    if authorization:
        found = _BEARER.fullmatch(authorization)
        if found is None:
            raise Unauthenticated("Authentication failed (status: 400)")
        return found[1]
    if key := headers.get(b"x-api-key"):  # Anthropic's clients
        return key
    if b"x-auth-email" in headers and (key := headers.get(b"x-auth-key")):  # the legacy pair
        return key
    raise Unauthenticated("Missing X-Auth-Key, X-Auth-Email or Authorization headers")
