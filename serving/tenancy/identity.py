"""Who is calling, by API token: answered from memory, kept true by one query every two seconds.

`Identity` satisfies the gateway's `Authenticator`. A token is looked up once, in a thread. From
then on a thread of ours asks for the count of changes that the database keeps, which costs the same
for any number of tokens, and when it is another one for all tokens in use. So a request neither
waits for the database nor sees what was changed more than `FRESH` seconds ago. While the database
is away, known tokens stay good for `GRACE` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import inf
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update

from serving.core import Caller, Limits
from serving.errors import AccountDisabled, Forbidden, NotPermitted, StoreDown, WrongToken
from serving.tenancy import tables
from serving.tenancy.accounts import limits_in, now
from serving.tenancy.database import Database, Down
from serving.tenancy.secret import Secret

FRESH = 4.0
"""Seconds after which an answer is asked for again: with the query's time, under 5."""
GRACE = 900.0
"""Seconds that known tokens outlive the database."""
_PERIOD = 2.0
_PATIENCE = 0.5  # seconds that a request with a known token waits for the database
_UNUSED = 600.0  # seconds until a token that nobody sends is forgotten
_MOST = 10_000  # answers kept, of good and of wrong tokens each
_SEEN_PERIOD = 60.0  # seconds between two writes of when tokens were last used

_VERSION = select(tables.changes.c.version)

_log = logging.getLogger("serving.tenancy")
_WRONG = "Authentication error"


@dataclass(slots=True)
class _Known:
    """What the database said of a digest, and when (monotonic seconds)."""

    caller: Caller | None  # None: nobody holds it, or no longer
    disabled: bool
    expires_at: int | None
    asked: float
    used: float
    seen: bool = True  # used since that was last written


_NOBODY = _Known(None, False, None, 0.0, 0.0, False)


class Identity:
    """Callers by their tokens, for one process."""

    def __init__(self, database: Database, secret: Secret, grace: float = GRACE) -> None:
        self._database = database
        self._secret = secret
        self._grace = grace
        # The stored digests, by others that nobody can choose either and that take a third as long.
        self._digests: dict[bytes, bytes] = {}
        self._key = os.urandom(blake2b.MAX_KEY_SIZE)
        self._good: dict[bytes, _Known] = {}
        self._wrong: OrderedDict[bytes, _Known] = OrderedDict()
        # Answers to questions asked since `_changed` were right at `_checked` too.
        self._changed = self._checked = -inf
        self._version: int | None = None
        self._down = False
        self._written = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="identity", daemon=True)
        self._thread.start()

    async def check(self, token: bytes, account: str, scope: str = "ai") -> Caller:
        """The caller, when the token opens this account for this purpose; "" is its own account.

        Raises:
            WrongToken: nobody holds it; it is expired or revoked.
            AccountDisabled, Forbidden: a good token that does not open the account.
            StoreDown: a token not seen lately, and the database is away.
        """
        return _opened(await self._ask(token), account, scope)

    async def holder(self, token: str, account: str) -> Caller:
        """The caller now, of a token by its id; the database is asked each time.

        Raises: as `check`.
        """
        try:
            found = await asyncio.to_thread(self._select, tables.tokens.c.id == token)
        except Down as error:
            raise StoreDown(self._database.wait()) from error
        return _opened(next(iter(found.values()), _NOBODY), account, "ai")

    def close(self) -> None:
        """Stop asking."""
        self._closing.set()
        self._thread.join()

    async def _ask(self, token: bytes) -> _Known:
        digest, moment = self._digest(token), time.monotonic()
        known = self._good.get(digest) or self._wrong.get(digest)
        if known is not None:
            age = moment - self._true_at(known)
            if age < FRESH or (self._down and age < self._grace and known.caller):
                known.used, known.seen = moment, True
                return known
        return await self._look_up(digest, known)

    def _digest(self, token: bytes) -> bytes:
        quick = blake2b(token, key=self._key).digest()
        digest = self._digests.get(quick)
        if digest is None:
            if len(self._digests) >= 2 * _MOST:
                self._digests.clear()
            digest = self._digests[quick] = self._secret.digest(token)
        return digest

    def _true_at(self, known: _Known) -> float:
        """The last moment at which that is known to have been right."""
        return max(known.asked, self._checked) if known.asked >= self._changed else known.asked

    async def _look_up(self, digest: bytes, before: _Known | None) -> _Known:
        asking = asyncio.ensure_future(asyncio.to_thread(self._refresh, (digest,)))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        is_known = before is not None and before.caller is not None
        try:
            # A database that does not answer is away, for those who can do without it.
            async with asyncio.timeout(_PATIENCE if is_known else None):
                await asyncio.shield(asking)
        except Down as error:
            self._down = True
            if before is None or before.caller is None:
                raise StoreDown(self._database.wait()) from error
            if time.monotonic() - self._true_at(before) > self._grace:
                raise StoreDown(self._database.wait()) from error
            return before
        # The thread may have forgotten it in between: then somebody asks again.
        found = self._good.get(digest) or self._wrong.get(digest)
        if found is None:
            raise StoreDown(self._database.wait())
        return found

    def _run(self) -> None:
        """The thread: see to what is in use, write what was used, forget the rest."""
        while not self._closing.wait(_PERIOD):
            try:
                self._forget()
                self._check_version()
                self._write_seen()
                self._down = False
            except Down as error:
                if not self._down:
                    _log.warning("the database is away: %s", type(error).__name__)
                self._down = True
                # What comes back may be a copy that missed something, and counts it anew.
                self._version = None
            except Exception:
                _log.exception("asking for tokens failed")

    def _check_version(self) -> None:
        """Ask for all that is in use if anything has changed."""
        moment = time.monotonic()
        with self._database.begin() as connection:
            version = connection.execute(_VERSION).scalar()
        if version is None or version != self._version:
            # After the query: what was asked before may have been answered by what was so before.
            changed = time.monotonic()
            self._refresh(tuple(self._good))
            self._changed, self._version = changed, version
        self._checked = moment

    def _forget(self) -> None:
        moment = time.monotonic()
        for digest, known in list(self._good.items()):
            if moment - known.used > _UNUSED and not known.seen:
                del self._good[digest]

    def _refresh(self, digests: Sequence[bytes]) -> None:
        """Replace what is known of these."""
        for begin in range(0, len(digests), 500):
            self._replace(digests[begin : begin + 500])

    def _replace(self, digests: Sequence[bytes]) -> None:
        moment = time.monotonic()  # before the query: what changes during it is asked for again
        found = self._select(tables.tokens.c.digest.in_(digests))
        for digest in digests:
            if (row := found.get(digest)) is None:
                self._good.pop(digest, None)
                self._wrong[digest] = _Known(None, False, None, moment, moment, False)
            else:
                before = self._good.get(digest)
                used, seen = (before.used, before.seen) if before else (moment, True)
                self._wrong.pop(digest, None)
                self._good[digest] = replace(row, asked=moment, used=used, seen=seen)
        while len(self._wrong) > _MOST:
            self._wrong.popitem(last=False)

    def _select(self, which: ColumnElement[bool]) -> dict[bytes, _Known]:
        """Tokens that are not revoked, by their digests."""
        query = (
            select(tables.tokens, tables.accounts.c.pool, tables.accounts.c.disabled_at)
            .join(tables.accounts)
            .where(which, tables.tokens.c.revoked_at.is_(None))
        )
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
            subjects = {row.id for row in rows} | {row.account for row in rows}
            limits = tables.limits.select().where(tables.limits.c.subject.in_(subjects))
            by = {each.subject: limits_in(each._mapping) for each in connection.execute(limits)}
        return {bytes(row.digest): self._known(row, by) for row in rows}

    def _known(self, row: Row[Any], limits: dict[str, Limits]) -> _Known:
        caller = Caller(
            account=row.account,
            token=row.id,
            scopes=frozenset(row.scopes.split()),
            role=row.role,
            salt=self._secret.salt(row.account, row.pool),
            account_limits=limits.get(row.account, Limits()),
            token_limits=limits.get(row.id, Limits()),
        )
        return _Known(caller, row.disabled_at is not None, row.expires_at, 0.0, 0.0)

    def _write_seen(self) -> None:
        if time.monotonic() - self._written < _SEEN_PERIOD:
            return
        self._written = time.monotonic()
        used = [known for known in self._good.values() if known.seen and known.caller]
        ids = [known.caller.token for known in used if known.caller]
        if not ids:
            return
        query = update(tables.tokens).where(tables.tokens.c.id.in_(ids))
        with self._database.begin() as connection:
            connection.execute(query.values(last_used_at=now()))
        for known in used:
            known.seen = False


def _opened(known: _Known, account: str, scope: str) -> Caller:
    """Who it is, when that opens the account for this purpose."""
    caller = known.caller
    if caller is None or (known.expires_at is not None and known.expires_at <= now()):
        raise WrongToken(_WRONG)
    if account not in ("", caller.account):
        raise Forbidden(_WRONG)
    if scope not in caller.scopes:
        raise Forbidden(_WRONG) if scope == "ai" else NotPermitted
    if known.disabled:
        raise AccountDisabled
    return caller
