"""Who may call: one account with one token.

Answers as the API does: 9106 when nothing usable was sent, 10000 with 401 for a token that nobody
holds and with 403 for a good one on somebody else's account. The legacy pair of headers is read so
that its users learn that their key is not known here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256

from serving.errors import Forbidden, Unauthenticated, WrongToken

# RFC 6750's b64token.
_BEARER = re.compile(rb"bearer +([\w.~+/-]+=*) *", re.IGNORECASE)


class Credentials:
    """The account's id (32 hex digits) and its token; only digests of the token are kept."""

    def __init__(self, account: str, token: str) -> None:
        self.account = account.lower()
        self._digest = sha256(token.encode()).digest()

    def check(self, headers: Iterable[tuple[bytes, bytes]], account: str) -> None:
        """Return when `headers` (ASGI's: names in lower case) open `account`.

        An empty account stands for whichever the token opens.

        Raises:
            Unauthenticated: no credentials, or not a bearer token.
            WrongToken: not the token.
            Forbidden: the token, but another account.
        """
        # Digests are of one length, so comparing them tells nothing about the token's.
        given = sha256(_token(dict(headers))).digest()
        if not hmac.compare_digest(given, self._digest):
            raise WrongToken("Authentication error")
        if account and account != self.account:
            raise Forbidden("Authentication error")


def token_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """A name for the token in `headers`, of 32 hex digits, that says nothing about it."""
    return sha256(b"id of " + _token(dict(headers))).hexdigest()[:32]


def _token(headers: dict[bytes, bytes]) -> bytes:
    """The token, wherever the clients of the dialects put it."""
    for name in (b"authorization", b"cf-aig-authorization"):
        if authorization := headers.get(name):
            break
    if authorization:
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise Unauthenticated("Authentication failed (status: 400)")
        return bearer[1]
    if key := headers.get(b"x-api-key"):  # Anthropic's clients
        return key
    if b"x-auth-key" in headers and b"x-auth-email" in headers:
        raise WrongToken("Authentication error")
    raise Unauthenticated("Missing X-Auth-Key, X-Auth-Email or Authorization headers")
