"""Limits in memory and in Redis: the same decisions, all or nothing, and no overshoot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from serving.admission.charges import Lease, Quota, Rate, Refusal
from serving.admission.redis import Shared
from serving.admission.scripts import PREFIX
from serving.admission.store import Memory, Store
from serving.errors import StoreDown


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield Memory()
    else:
        shared = Shared(request.getfixturevalue("redis").url)
        yield shared
        await shared.close()


@pytest.fixture
def key() -> str:
    return uuid4().hex


async def settled(store: Store) -> None:
    if isinstance(store, Shared):
        assert store._exchange is not None
        await store._exchange


async def test_a_rate_allows_its_limit_at_once_and_then_one_an_interval(
    store: Store, key: str
) -> None:
    rate = Rate(key, "r", limit=10, cost=1, period=1.0)
    for _ in range(10):
        assert not isinstance(await store.reserve("x", [rate]), Refusal)
    refused = await store.reserve("x", [rate])
    assert isinstance(refused, Refusal)
    assert 0 < refused.wait <= 0.1
    await asyncio.sleep(refused.wait)
    assert not isinstance(await store.reserve("x", [rate]), Refusal)
    assert isinstance(await store.reserve("x", [rate]), Refusal)


async def test_settling_a_rate_gives_back_and_takes_more(store: Store, key: str) -> None:
    rate = Rate(key, "tokens", limit=100, cost=80, counts_tokens=True)
    await store.reserve("x", [rate])
    assert isinstance(await store.reserve("x", [rate]), Refusal)
    store.settle("x", [(rate, -80)])
    await settled(store)
    await store.reserve("x", [rate])
    store.settle("x", [(rate, +100)])
    await settled(store)
    refused = await store.reserve("x", [Rate(key, "tokens", 100, 1)])
    assert isinstance(refused, Refusal)
    assert 47 < refused.wait < 50  # 81 too many at 100 a minute


async def test_a_request_larger_than_the_rate_passes_when_it_is_alone(
    store: Store, key: str
) -> None:
    large = Rate(key, "tokens", limit=100, cost=1000, counts_tokens=True)
    assert not isinstance(await store.reserve("x", [large]), Refusal)
    assert isinstance(await store.reserve("x", [large]), Refusal)


async def test_a_quota_is_used_up_until_its_end(store: Store, key: str) -> None:
    quota = Quota(key, "tokens per day", 100, 60, time.time() + 50)
    assert not isinstance(await store.reserve("x", [quota]), Refusal)
    refused = await store.reserve("y", [quota])
    assert isinstance(refused, Refusal)
    assert 45 < refused.wait <= 50
    store.settle("x", [(quota, -30)])
    await settled(store)
    assert not isinstance(await store.reserve("y", [quota]), Refusal)


async def test_large_sums_of_money_are_exact(store: Store, key: str) -> None:
    """Beyond 2^53."""
    first = Quota(key, "dollars", 10**18, 9 * 10**15 + 1, time.time() + 50, counts_tokens=False)
    for _ in range(3):
        await store.reserve("x", [first])
    if isinstance(store, Shared):
        assert await store._redis.get(f"llama-vision-serving:{key}") == str(27 * 10**15 + 3)
    else:
        assert isinstance(store, Memory)
        assert store._used[key] == 27 * 10**15 + 3


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_a_replica_whose_clock_is_wrong_counts_as_the_others(
    redis: Any, key: str, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """Redis's clock counts; what is told of a rate is in the replica's own time."""
    shared, rate = Shared(redis.url), Rate(key, "r", limit=2, cost=1)
    await shared.reserve("right", [rate])
    wrong = SimpleNamespace(time=lambda: time.time() + skew, monotonic=time.monotonic)
    monkeypatch.setattr("serving.admission.redis.time", wrong)
    answer = await shared.reserve("wrong", [rate])
    assert isinstance(answer, dict)
    assert 59 < answer[key] - wrong.time() <= 60
    refused = await shared.reserve("wrong", [rate])
    assert isinstance(refused, Refusal)
    assert 29 < refused.wait <= 30
    await shared.close()


async def test_so_many_at_a_time(store: Store, key: str) -> None:
    lease = Lease(key, "concurrent", 2)
    assert not isinstance(await store.reserve("a", [lease]), Refusal)
    assert not isinstance(await store.reserve("b", [lease]), Refusal)
    assert isinstance(await store.reserve("c", [lease]), Refusal)
    store.settle("a", [(lease, 0)])
    await settled(store)
    assert not isinstance(await store.reserve("c", [lease]), Refusal)


async def test_all_or_nothing(store: Store, key: str) -> None:
    """What the last charge refuses, the first has not taken."""
    rate = Rate(key, "r", limit=1, cost=1)
    nothing = Quota(key + "q", "q", limit=0, cost=1, ends=time.time() + 9)
    assert isinstance(await store.reserve("x", [rate, nothing]), Refusal)
    assert not isinstance(await store.reserve("x", [rate]), Refusal)


async def test_no_overshoot_from_several_replicas(redis: Any, key: str) -> None:
    """Two clients of one Redis, at the same moments: exactly the limit passes."""
    replicas = [Shared(redis.url), Shared(redis.url)]
    quota = Quota(key, "tokens per day", 1000, 10, time.time() + 60)
    answers = await asyncio.gather(*(replicas[i % 2].reserve(f"r{i}", [quota]) for i in range(150)))
    assert sum(not isinstance(answer, Refusal) for answer in answers) == 100
    for replica in replicas:
        await replica.close()


class Books:
    """A database that knows what was used of each quota."""

    def __init__(self, used: int = 0) -> None:
        self.used, self.asked = used, 0

    async def __call__(self, quotas: Sequence[Quota]) -> Mapping[str, int]:
        self.asked += 1
        return dict.fromkeys((quota.key for quota in quotas), self.used)


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_quotas_begin_with_what_the_database_knows(redis: Any, key: str, kind: str) -> None:
    """Asked for once, and each quota by itself."""
    books = Books(90)
    store = Shared(redis.url, books) if kind == "redis" else Memory(books)
    quota = Quota(key, "tokens per day", 100, 5, time.time() + 60)
    answers = [await store.reserve(f"r{index}", [quota]) for index in range(4)]
    assert [isinstance(answer, Refusal) for answer in answers] == [False, False, True, True]
    assert books.asked == 1
    if isinstance(store, Shared):
        await store.close()


@pytest.mark.parametrize("how", ["emptied", "older", "restarted"])
async def test_what_redis_forgot_the_database_knows(redis: Any, key: str, how: str) -> None:
    """Emptied under us, back from an old snapshot, or back with nothing."""
    books = Books()
    shared = Shared(redis.url, books)
    quota = Quota(key, "tokens per day", 100, 60, time.time() + 60)
    assert not isinstance(await shared.reserve("a", [quota]), Refusal)
    books.used = 60
    if how == "emptied":
        await shared._redis.flushall()
    elif how == "older":
        await shared._redis.set(f"{PREFIX}{key}", 3)
        await shared._redis.client_kill_filter(skipme=False)
    else:
        redis.stop()
        redis.start()
    async with asyncio.timeout(10):
        while True:
            try:
                answer = await shared.reserve("b", [quota])
                break
            except StoreDown:
                await asyncio.sleep(0.1)
    assert isinstance(answer, Refusal)
    await shared.close()


async def test_what_is_granted_to_somebody_who_left_is_given_back(redis: Any, key: str) -> None:
    """A client that leaves while Redis is being asked holds no place."""
    shared = Shared(redis.url)
    charges = [Lease(key, "concurrent", 1), Quota(key + "q", "q", 100, 90, time.time() + 60)]
    await shared.reserve("first", [])
    asked = asyncio.create_task(shared.reserve("gone", charges))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    async with asyncio.timeout(5):
        while isinstance(await shared.reserve("next", charges), Refusal):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await shared.close()


async def test_what_fails_fails_alone(redis: Any, key: str) -> None:
    """Requests that are made together do not share each other's trouble."""
    async with Redis.from_url(redis.url) as client:
        await client.set(f"{PREFIX}{key}", "no set of leases")
    shared = Shared(redis.url)
    leases = [Lease(each, "concurrent", 1) for each in (key + "first", key, key + "last")]
    found = await asyncio.gather(
        *(shared.reserve("x", [lease]) for lease in leases), return_exceptions=True
    )
    assert [type(each) for each in found] == [dict, StoreDown, dict]
    assert isinstance(await shared.reserve("y", leases[2:]), Refusal)
    await shared.close()


async def test_redis_going_away_and_coming_back(redis: Any, key: str) -> None:
    shared = Shared(redis.url)
    rate = Rate(key, "r", limit=10, cost=1)
    await shared.reserve("x", [rate])
    redis.stop()
    try:
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(StoreDown):
                await shared.reserve("x", [rate])
            assert time.monotonic() - began < 2
        shared.settle("x", [(rate, -1)])
        await settled(shared)
    finally:
        redis.start()
    async with asyncio.timeout(5):
        while True:
            try:
                await shared.reserve("x", [rate])
                break
            except StoreDown:
                await asyncio.sleep(0.1)
    await shared.close()
