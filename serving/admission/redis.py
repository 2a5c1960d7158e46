"""Limits shared by all replicas, in Redis 7 or Valkey: one script, one round trip, all or nothing.

Redis runs a script alone, so two replicas cannot both take the last of anything. Its clock counts,
not ours. Leases are members of a sorted set with the time they lapse, so that a replica that dies
holds its callers back for `LEASE` seconds and not for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from serving.admission.charges import Charge, Lease, Quota, Rate, Refusal
from serving.admission.store import Differences
from serving.errors import StoreDown

LEASE = 900
"""Seconds; requests that run longer are not counted as running."""
_TIMEOUT = 1.0  # seconds for a round trip, and to wait for a connection
_CONNECTIONS = 8
_REST = 1.0  # seconds for which it is not asked again after a failure
_PREFIX = "llama-vision-serving:"

_log = logging.getLogger("serving.admission")

# KEYS: one a charge. ARGV: the request, the lease, then four a charge: kind, limit, a, b with
#   rate  a = interval, b = units taken   quota  a = seconds to its end, b = cost   lease  0, 0
# Answers {index of the charge that does not fit, seconds}, or {0, now, the TATs of the rates...}.
_RESERVE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local tats = {}
for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 4
  local kind, limit = ARGV[at + 1], tonumber(ARGV[at + 2])
  local a, b = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local wait = 0
  if kind == 'rate' then
    if limit == 0 then wait = a else
      local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) + b * a
      tats[i] = tat
      wait = tat - limit * a - now
    end
  elseif kind == 'quota' then
    if tonumber(redis.call('GET', key) or '0') + b > limit then wait = a end
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) >= limit then wait = 1 end
  end
  if wait > 0 then return {i, string.format('%.6f', wait)} end
end
local answer = {0, string.format('%.6f', now)}
for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 4
  local kind = ARGV[at + 1]
  if kind == 'rate' then
    local tat = string.format('%.6f', tats[i])
    redis.call('SET', key, tat, 'EX', math.ceil(tats[i] - now) + 1)
    table.insert(answer, tat)
  elseif kind == 'quota' then
    redis.call('INCRBY', key, ARGV[at + 4])
    redis.call('EXPIRE', key, math.ceil(tonumber(ARGV[at + 3])) + 3600)
  else
    redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[1])
    redis.call('EXPIRE', key, ARGV[2])
  end
end
return answer
"""

# KEYS as above. ARGV: the request, then two a charge: kind, what to add (seconds for a rate).
_SETTLE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
for i, key in ipairs(KEYS) do
  local kind, add = ARGV[i * 2], ARGV[i * 2 + 1]
  if kind == 'lease' then
    redis.call('ZREM', key, ARGV[1])
  elseif kind == 'quota' then
    if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, add) end
  else
    local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) + tonumber(add)
    if tat > now then
      redis.call('SET', key, string.format('%.6f', tat), 'EX', math.ceil(tat - now) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
"""


class Shared:
    """A `Store` for all replicas."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            decode_responses=True,
        )
        self._redis = Redis.from_pool(pool)
        self._reserve: Callable[..., Awaitable[Any]] = self._redis.register_script(_RESERVE)
        self._settle: Callable[..., Awaitable[Any]] = self._redis.register_script(_SETTLE)
        self._away_until = 0.0
        self._unsettled: list[tuple[str, Differences]] = []
        self._settling: asyncio.Future[None] | None = None

    async def reserve(self, request: str, charges: Sequence[Charge]) -> Refusal | dict[str, float]:
        """See `Store.reserve`."""
        if time.monotonic() < self._away_until:
            raise StoreDown(_REST)
        now = time.time()
        arguments = [word for charge in charges for word in _words(charge, now)]
        try:
            answer = await self._reserve(_keys(charges), [request, LEASE, *arguments])
        except (RedisError, OSError) as error:
            self._failed(error)
            raise StoreDown(_REST) from error
        if answer[0]:
            return Refusal(charges[answer[0] - 1], float(answer[1]))
        ahead = now - float(answer[1])
        rates = [charge.key for charge in charges if isinstance(charge, Rate) and charge.limit]
        return {key: float(t) + ahead for key, t in zip(rates, answer[2:], strict=True)}

    def settle(self, request: str, differences: Differences) -> None:
        """See `Store.settle`. What cannot be told to Redis lapses there: leases after `LEASE`."""
        self._unsettled.append((request, differences))
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._tell())

    async def close(self) -> None:
        """Finish settling; close the connections."""
        if self._settling is not None:
            await self._settling
        await self._redis.aclose()

    async def _tell(self) -> None:
        """Tell Redis at once; what is settled while that takes goes together next."""
        while self._unsettled:
            batch, self._unsettled = self._unsettled, []
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for request, differences in batch:
                        keys = _keys([charge for charge, _ in differences])
                        words = [
                            w for charge, more in differences for w in _correction(charge, more)
                        ]
                        await self._settle(keys, [request, *words], client=pipeline)
                    await pipeline.execute()
            except (RedisError, OSError) as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if time.monotonic() >= self._away_until:
            _log.warning("the shared limits are away: %s", type(error).__name__)
        self._away_until = time.monotonic() + _REST


def _keys(charges: Sequence[Charge]) -> list[str]:
    return [_PREFIX + charge.key for charge in charges]


def _words(charge: Charge, now: float) -> tuple[str | int | float, ...]:
    match charge:
        case Rate(limit=0):
            return "rate", 0, charge.period, 0
        case Rate():
            return "rate", charge.limit, charge.interval, charge.taken
        case Quota():
            return "quota", charge.limit, charge.ends - now, charge.cost
        case Lease():
            return "lease", charge.limit, 0, 0


def _correction(charge: Charge, more: int) -> tuple[str, int | float]:
    match charge:
        case Rate():
            return "rate", more * charge.interval if charge.limit else 0
        case Quota():
            return "quota", more
        case Lease():
            return "lease", 0
