"""What Redis runs for us: one script in Lua for many calls, and charges as their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1

import msgspec

from serving.admission.charges import Charge, Lease, Quota, Rate

PREFIX = "llama-vision-serving:"
Words = tuple[str | int | Sequence[tuple[str | int | float, ...]], ...]
"""A call's own arguments, as `reserving`, `settling` and `raising` make them."""
RESERVE, SETTLE, RAISE = "reserve", "settle", "raise"
encode = msgspec.json.Encoder().encode
_LATER = 3600  # seconds that quotas are kept after their end

# KEYS: those of all calls, one after the other. ARGV: JSON, for each call its name, the number of
# its keys and its words. Answers one thing a call, nothing for one that failed.
#
# reserve   the request, the lease, and for each charge kind, limit, a, b with
#             rate  a = interval, b = units taken   quota  a = seconds to its end, b = cost
#             lease  0, 0
#           The cost of a quota is text: Lua's numbers are exact up to 2^53 only.
#           Answers {index of the charge that does not fit, seconds}, or {0, now, the TATs of the
#           rates...}, or {-1} when it does not know a quota.
# settle    the request, and for each charge kind, what to add (seconds to a rate)
# raise     for each quota the least it has lost, seconds to keep it
SCRIPT = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local calls = {}

function calls.reserve(keys, request, lease, charges)
  local tats = {}
  for i, key in ipairs(keys) do
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
  for i, key in ipairs(keys) do
    local kind = charges[i][1]
    if kind == 'rate' then
      local tat = string.format('%.6f', tats[i])
      redis.call('SET', key, tat, 'EX', math.ceil(tats[i] - now) + 1)
      table.insert(answer, tat)
    elseif kind == 'quota' then
      redis.call('INCRBY', key, charges[i][4])
    else
      redis.call('ZADD', key, now + lease, request)
      redis.call('EXPIRE', key, lease)
    end
  end
  return answer
end

function calls.settle(keys, request, charges)
  for i, key in ipairs(keys) do
    local kind, add = unpack(charges[i])
    if kind == 'lease' then
      redis.call('ZREM', key, request)
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
  return true
end

calls['raise'] = function(keys, quotas)
  for i, key in ipairs(keys) do
    local used, least, seconds = redis.call('GET', key), unpack(quotas[i])
    if not used or tonumber(used) < tonumber(least) then redis.call('SET', key, least) end
    redis.call('EXPIRE', key, seconds)
  end
  return true
end

local answers, taken = {}, 0
for i, call in ipairs(cjson.decode(ARGV[1])) do
  local keys = {unpack(KEYS, taken + 1, taken + call[2])}
  taken = taken + call[2]
  local worked, answer = pcall(calls[call[1]], keys, unpack(call, 3))
  answers[i] = worked and answer
end
return answers
"""
SHA = sha1(SCRIPT.encode()).hexdigest()


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


def reserving(request: str, lease: int, charges: Iterable[Charge], now: float) -> Words:
    """The words of a call of `RESERVE`."""
    return request, lease, [_reserving(charge, now) for charge in charges]


def settling(request: str, differences: Iterable[tuple[Charge, int]]) -> Words:
    """The words of a call of `SETTLE`."""
    return request, [_settling(charge, more) for charge, more in differences]


def raising(quotas: Iterable[Quota], used: Mapping[str, int], now: float) -> Words:
    """The words of a call of `RAISE`."""
    return ([(str(used[q.key]), int(q.ends - now) + _LATER) for q in quotas],)
