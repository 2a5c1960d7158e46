"""Limits shared by all replicas, in Redis 7 or Valkey: one script, all charges or none.

Redis runs a script alone, so two replicas cannot both take the last of anything. Its clock counts,
not ours. Leases are members of a sorted set with the time they lapse, so that a replica that dies
holds its callers back for `LEASE` seconds and not for ever. Quotas that Redis may have forgotten,
or counted without us, are raised to what the database knows before they are used.

What requests ask and tell while an exchange is under way goes together in the next one, as one
command: what a command costs its client is more than what the script does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError

from serving.admission import scripts
from serving.admission.charges import Charge, Quota, Rate, Refusal, settled
from serving.admission.scripts import RAISE, RESERVE, SETTLE, Words
from serving.admission.store import Differences, Used, unknown
from serving.core import Usage
from serving.errors import StoreDown

LEASE = 900
"""Seconds; requests that run longer are not counted as running."""
_TIMEOUT = 1.0  # seconds for a round trip, and to wait for a connection
_CONNECTIONS = 2  # one exchanges, one is spare while that is made anew
_REST = 1.0  # seconds for which it is not asked again after a failure
_TRIES = 3  # to reserve, while connections come and go
_MOST = 100_000  # quotas remembered as raised

_log = logging.getLogger("serving.admission")


@dataclass(slots=True)
class _Call:
    """A function of the script to call, and who waits for its answer, if anybody."""

    name: str
    keys: list[str]
    words: Words
    answer: asyncio.Future[Any] | None = None


class Shared:
    """A `Store` for all replicas. For one event loop."""

    def __init__(self, url: str, used: Used = unknown) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            decode_responses=True,
            redis_connect_func=self._connected,
            retry=Retry(NoBackoff(), 1, (Disconnected,)),  # a connection that went stale
        )
        self._redis = Redis.from_pool(pool)
        self._used = used
        self._raised: set[str] = set()  # quotas known to be no lower than the database says
        self._away_until = 0.0
        self._calls: list[_Call] = []
        self._exchange: asyncio.Future[None] | None = None

    async def reserve(self, request: str, charges: Sequence[Charge]) -> Refusal | dict[str, float]:
        """See `Store.reserve`."""
        if (rest := self._away_until - time.monotonic()) > 0:
            raise StoreDown(rest)
        now = time.time()
        answer = await self._taken(request, charges, now)
        if answer[0]:
            return Refusal(charges[answer[0] - 1], float(answer[1]))
        ahead = now - float(answer[1])
        rates = [charge.key for charge in charges if isinstance(charge, Rate) and charge.limit]
        return {key: float(t) + ahead for key, t in zip(rates, answer[2:], strict=True)}

    def settle(self, request: str, differences: Differences) -> None:
        """See `Store.settle`. What cannot be told to Redis lapses there: leases after `LEASE`."""
        keys = scripts.keys([charge for charge, _ in differences])
        self._say(_Call(SETTLE, keys, scripts.settling(request, differences)))

    async def close(self) -> None:
        """Finish settling; close the connections."""
        if self._exchange is not None:
            await self._exchange
        await self._redis.aclose()

    async def _taken(self, request: str, charges: Sequence[Charge], now: float) -> Any:
        """What `RESERVE` says by a Redis whose quotas are right."""
        quotas = {each.key: each for each in charges if isinstance(each, Quota)}
        for _ in range(_TRIES):
            await self._raise([quotas[key] for key in quotas.keys() - self._raised])
            answer = await self._take(request, charges, now)
            if answer[0] < 0:  # emptied under us
                self._raised -= quotas.keys()
            elif quotas.keys() <= self._raised:
                return answer
            elif answer[0] == 0:  # granted by one that we had not met before
                self.settle(request, settled(charges, Usage(), 0))
        raise StoreDown(_REST)

    async def _take(self, request: str, charges: Sequence[Charge], now: float) -> Any:
        words = scripts.reserving(request, LEASE, charges, now)
        answer = self._ask(_Call(RESERVE, scripts.keys(charges), words))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            # The client left, but what it asked for may be granted all the same: give it back.
            answer.add_done_callback(lambda done: self._give_back(request, charges, done))
            raise

    def _give_back(
        self, request: str, charges: Sequence[Charge], done: asyncio.Future[Any]
    ) -> None:
        if done.exception() is None and done.result()[0] == 0:
            self.settle(request, settled(charges, Usage(), 0))

    async def _raise(self, quotas: Sequence[Quota]) -> None:
        """To what the database says has been used of them."""
        if not quotas:
            return
        used, now = await self._used(quotas), time.time()
        words = scripts.raising(quotas, used, now)
        await self._ask(_Call(RAISE, scripts.keys(quotas), words))
        if len(self._raised) > _MOST:
            self._raised.clear()
        self._raised.update(quota.key for quota in quotas)

    def _ask(self, call: _Call) -> asyncio.Future[Any]:
        call.answer = asyncio.get_running_loop().create_future()
        self._say(call)
        return call.answer

    def _say(self, call: _Call) -> None:
        self._calls.append(call)
        if self._exchange is None or self._exchange.done():
            self._exchange = asyncio.ensure_future(self._talk())

    async def _talk(self) -> None:
        """Make all calls there are; what comes while that takes goes together next."""
        while self._calls:
            calls, self._calls = self._calls, []
            try:
                answers = await self._run(calls)
            except Exception as error:
                self._failed(error)
                answers = [None] * len(calls)
            for call, answer in zip(calls, answers, strict=True):
                _tell(call, answer)

    async def _run(self, calls: Sequence[_Call]) -> list[Any]:
        """Raises: whatever the client does when Redis is away."""
        keys = [key for call in calls for key in call.keys]
        words = scripts.encode([(call.name, len(call.keys), *call.words) for call in calls])
        try:
            answers = await self._redis.evalsha(scripts.SHA, len(keys), *keys, words)
        except NoScriptError:  # a new Redis, or one that was restarted
            answers = await self._redis.eval(scripts.SCRIPT, len(keys), *keys, words)
        return list(answers)

    async def _connected(self, connection: AbstractConnection) -> None:
        """A connection is made anew: it may be another Redis, or one with an older state."""
        self._raised.clear()
        await connection.on_connect()

    def _failed(self, error: Exception) -> None:
        if time.monotonic() >= self._away_until:
            _log.warning("the shared limits are away: %s", type(error).__name__)
        self._away_until = time.monotonic() + _REST


def _tell(call: _Call, answer: Any) -> None:
    """`None`: it was not made, or did not work."""
    if call.answer is None:
        if answer is None:
            _log.debug("not settled")
    elif call.answer.done():
        return
    elif answer is None:
        call.answer.set_exception(StoreDown(_REST))
    else:
        call.answer.set_result(answer)
