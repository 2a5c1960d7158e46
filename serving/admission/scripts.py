"""What Redis runs for us: scripts in Lua, and charges as their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from serving.admission.charges import Charge, Lease, Quota, Rate

PREFIX = "llama-vision-serving:"
_encode = msgspec.json.Encoder().encode
_LATER = 3600  # seconds that quotas are kept after their end

# KEYS: one a charge. ARGV: the request, the lease, and JSON: for each charge kind, limit, a, b with
#   rate  a = interval, b = units taken   quota  a = seconds to its end, b = cost   lease  0, 0
# The cost of a quota is text: Lua's numbers are exact up to 2^53 only.
# Answers {index of the charge that does not fit, seconds}, or {0, now, the TATs of the rates...},
# or {-1} when it does not know a quota.
RESERVE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local tats, charges = {}, cjson.decode(ARGV[3])
for i, key in ipairs(KEYS) do
  local kind, limit, a, b = unpack(charges[i])
  local wait = 0
  if kind == 'rate' then
    if limit == 0 then wait = a else
      local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) + b * a
      tats[i] = tat
      wait = tat - limit * a - now
    end
  elseif kind == 'quota' then
    local used = redis.call('GET', key)
    if not used then return {-1} end
    if tonumber(used) + tonumber(b) > limit then wait = a end
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) >= limit then wait = 1 end
  end
  if wait > 0 then return {i, string.format('%.6f', wait)} end
end
local answer = {0, string.format('%.6f', now)}
for i, key in ipairs(KEYS) do
  local kind = charges[i][1]
  if kind == 'rate' then
    local tat = string.format('%.6f', tats[i])
    redis.call('SET', key, tat, 'EX', math.ceil(tats[i] - now) + 1)
    table.insert(answer, tat)
  elseif kind == 'quota' then
    redis.call('INCRBY', key, charges[i][4])
  else
    redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[1])
    redis.call('EXPIRE', key, ARGV[2])
  end
end
return answer
"""

# KEYS as above. ARGV: the request, and JSON: for each charge kind, what to add (seconds to a rate).
SETTLE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local charges = cjson.decode(ARGV[2])
for i, key in ipairs(KEYS) do
  local kind, add = unpack(charges[i])
  if kind == 'lease' then
    redis.call('ZREM', key, ARGV[1])
  elseif kind == 'quota' then
    if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, add) end
  else
    local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) + add
    if tat > now then
      redis.call('SET', key, string.format('%.6f', tat), 'EX', math.ceil(tat - now) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
"""

# KEYS: quotas. ARGV: two a quota: the least it has lost, seconds to keep it.
RAISE = """
for i, key in ipairs(KEYS) do
  local used, least = redis.call('GET', key), ARGV[i * 2 - 1]
  if not used or tonumber(used) < tonumber(least) then redis.call('SET', key, least) end
  redis.call('EXPIRE', key, ARGV[i * 2])
end
"""


def keys(charges: Sequence[Charge]) -> list[str]:
    """The keys of any of them."""
    return [PREFIX + charge.key for charge in charges]


def _reserving(charge: Charge, now: float) -> tuple[str | int | float, ...]:
    match charge:
        case Rate(limit=0):
            return "rate", 0, charge.period, 0
        case Rate():
            return "rate", charge.limit, charge.interval, charge.taken
        case Quota():
            return "quota", charge.limit, charge.ends - now, str(charge.cost)
        case Lease():
            return "lease", charge.limit, 0, 0


def _settling(charge: Charge, more: int) -> tuple[str, str | int | float]:
    match charge:
        case Rate():
            return "rate", more * charge.interval if charge.limit else 0
        case Quota():
            return "quota", str(more)
        case Lease():
            return "lease", 0


def reserving(charges: Iterable[Charge], now: float) -> bytes:
    """The last argument of `RESERVE`."""
    return _encode([_reserving(charge, now) for charge in charges])


def settling(differences: Iterable[tuple[Charge, int]]) -> bytes:
    """The last argument of `SETTLE`."""
    return _encode([_settling(charge, more) for charge, more in differences])


def raising(quotas: Iterable[Quota], used: Mapping[str, int], now: float) -> list[int]:
    """The arguments of `RAISE`."""
    return [word for q in quotas for word in (used[q.key], int(q.ends - now) + _LATER)]
