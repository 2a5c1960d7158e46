"""Admission over HTTP: which code, which headers, whose turn."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import pytest

from serving.admission.fair import Waiting
from serving.admission.gate import Gate, Policy
from serving.admission.redis import Shared
from serving.admission.store import Memory
from serving.admission.turns import Turns
from serving.cluster.tenants import Tenants
from serving.core import Limits
from serving.engine.fake import FakeEngine
from serving.errors import AccountDisabled, Overloaded, WrongToken
from serving.settings import Settings
from serving.tenancy import accounts, tables
from tests.tenancy.conftest import ACCOUNT, TOKEN, Service, bearer, path, serving


@pytest.fixture
def tenants(tmp_path: Path) -> Any:
    opened = Tenants(Settings(state_dir=tmp_path / "state", account_id=ACCOUNT, api_token=TOKEN))
    yield opened
    opened.close()


@pytest.fixture
async def service(tenants: Tenants, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    policy = Policy(**{"slots": 4, "queue_tokens": 1000, "patience": 1.0} | _asked(request))
    gate = Gate(policy, Memory(tenants.used), FakeEngine.size, tenants.price)
    async with serving(tenants, admission=gate) as made:
        yield made


def _asked(request: pytest.FixtureRequest) -> dict[str, Any]:
    return getattr(request, "param", {})


def limit(
    service: Service, account: str = ACCOUNT, token: str | None = None, **limits: int
) -> None:
    with service.tenants.tenancy.database.begin() as connection:
        accounts.set_limits(connection, "test", account, token, Limits(**limits))


def said(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


async def test_requests_per_minute(service: Service) -> None:
    limit(service, requests_per_minute=3)
    answers = [await service.run() for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert said(answers[3]) == (429, 3021)
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["2", "1", "0", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
    assert len(service.engine.started) == 3
    service.tenants._ledger._ship()
    with service.tenants.tenancy.database.begin() as connection:
        rows = connection.execute(tables.usage.select().order_by(tables.usage.c.at)).all()
    assert [row.outcome for row in rows] == ["ok"] * 3 + ["rejected"] * 2


async def test_a_token_has_limits_of_its_own(service: Service) -> None:
    token, value = service.token(ACCOUNT)
    limit(service, token=token.id, requests_per_minute=1)
    assert (await service.run(value)).status_code == 200
    assert said(await service.run(value)) == (429, 3021)
    assert (await service.run()).status_code == 200


async def test_a_rate_that_was_overrun_is_not_whole_before_it_is_worth_coming_back(
    service: Service,
) -> None:
    """Four tokens of three a minute: the next request fits in 80 seconds."""
    limit(service, tokens_per_minute=3)
    assert (await service.run(max_tokens=2)).status_code == 200
    refused = await service.run(max_tokens=2)
    assert said(refused) == (429, 3021)
    assert 60 < int(refused.headers["retry-after"]) <= 80
    assert 60 < float(refused.headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= 80


async def test_tokens_per_minute_are_settled_by_what_was_used(service: Service) -> None:
    """The first reserves all there is and uses 4; then 32 of output are expected, and 4 used."""
    limit(service, tokens_per_minute=40)
    codes = [(await service.run(max_tokens=90)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


async def test_tokens_of_a_day(service: Service) -> None:
    limit(service, tokens_per_day=10)
    assert (await service.run(max_tokens=4)).status_code == 200
    assert (await service.run(max_tokens=4)).status_code == 200
    refused = await service.run(max_tokens=4)
    assert said(refused) == (429, 3036)
    assert 0 < int(refused.headers["retry-after"]) <= 86400


async def test_dollars_of_a_month(service: Service) -> None:
    """Two requests of 4 tokens at 240000 picodollars fit, a third does not."""
    limit(service, picodollars_per_month=2 * 4 * 240_000)
    codes = [(await service.run(max_tokens=2)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("requests_per_minute", 3021),
        ("tokens_per_minute", 3021),
        ("concurrent_requests", 3021),
        ("tokens_per_day", 3036),
        ("tokens_per_month", 3036),
        ("picodollars_per_day", 3036),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
async def test_a_limit_of_nothing_lets_nothing_through(
    tenants: Tenants, redis: Any, name: str, code: int, shared: bool
) -> None:
    store = Shared(redis.url, tenants.used) if shared else Memory(tenants.used)
    gate = Gate(Policy(4), store, FakeEngine.size, tenants.price)
    async with serving(tenants, admission=gate) as service:
        account = service.account()
        _, value = service.token(account)
        limit(service, account, **{name: 0})
        refused = await service.run(value, account)
        assert said(refused) == (429, code)
        assert int(refused.headers["retry-after"]) >= 1
        assert service.engine.started == []


async def test_asking_for_more_tokens_than_there_can_be_calls_for_no_more_replicas(
    tenants: Tenants,
) -> None:
    """Before an account has usual answers, a careless `max_tokens` is not work to scale for."""
    gate = Gate(Policy(4, context=100), Memory(tenants.used), FakeEngine.size, tenants.price)
    async with serving(tenants, admission=gate) as service:
        service.engine.faults.first_token_delay = 0.5
        answered = asyncio.create_task(service.run(max_tokens=2**40))
        while not gate.demand.arrived.output:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert gate.demand.arrived.output <= 100
        assert (await answered).status_code == 200


@pytest.mark.parametrize("service", [{"context": 100}], indirect=True)
async def test_asking_for_more_tokens_than_there_can_be_reserves_no_more(service: Service) -> None:
    """A careless `max_tokens` is not a reason to refuse what fits the quota."""
    limit(service, tokens_per_day=120, tokens_per_minute=10**9)
    assert (await service.run(max_tokens=2**40)).status_code == 200
    assert (await service.run(max_tokens=2**40)).status_code == 200


async def until_refused(service: Service, token: str, account: str) -> None:
    """The replica has heard of it."""
    with suppress(AccountDisabled, WrongToken):
        while await service.tenants.identity.check(token.encode(), account):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("service", [{"slots": 1, "patience": 60.0}], indirect=True)
async def test_whoever_was_disabled_while_waiting_gets_no_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor whose token was revoked; the turn goes on to others."""
    monkeypatch.setattr("serving.gateway.tenant.PATIENCE", 0.2)
    off, gone, good = [service.account() for _ in range(3)]
    keys = {account: service.token(account) for account in (off, gone, good)}
    for account in (off, gone):  # known to the replica
        assert (await service.run(keys[account][1], account)).status_code == 200
    service.engine.faults.hang_after = 0
    first = asyncio.create_task(service.run(keys[good][1], good))
    while len(service.engine.started) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    service.engine.faults.hang_after = None
    asked = [asyncio.create_task(service.run(keys[a][1], a)) for a in (off, gone, good)]
    await asyncio.sleep(0.2)
    with service.tenants.tenancy.database.begin() as connection:
        accounts.switch(connection, "test", off, on=False)
        accounts.revoke(connection, "test", gone, keys[gone][0].id)
    for account in (off, gone):
        await until_refused(service, keys[account][1], account)
    first.cancel()
    answers = [await each for each in asked]
    assert said(answers[0]) == (403, 3023)
    assert said(answers[1]) == (401, 10000)
    assert answers[2].status_code == 200
    assert len(service.engine.started) == 4


async def test_a_restart_forgets_no_quota(service: Service) -> None:
    limit(service, tokens_per_day=10)
    assert (await service.run(max_tokens=4)).status_code == 200
    service.tenants._ledger._ship()
    again = Gate(Policy(4), Memory(service.tenants.used), FakeEngine.size, service.tenants.price)
    async with serving(service.tenants, admission=again) as restarted:
        assert (await restarted.run(max_tokens=4)).status_code == 200
        assert said(await restarted.run(max_tokens=4)) == (429, 3036)


async def test_so_many_at_a_time(service: Service) -> None:
    limit(service, concurrent_requests=1)
    service.engine.faults.first_token_delay = 0.3
    first, second = await asyncio.gather(service.run(), service.run())
    assert sorted((first.status_code, second.status_code)) == [200, 429]
    assert (await service.run()).status_code == 200


async def test_context_and_images(service: Service) -> None:
    limit(service, max_context=50, max_images=0)
    assert said(await service.run(max_tokens=49)) == (413, 5021)
    assert said(await service.run(max_tokens=5, image="iVBORw0KGgo=")) == (400, 8006)
    assert (await service.run(max_tokens=48)).status_code == 200


@pytest.mark.parametrize("service", [{"slots": 2}], indirect=True)
async def test_the_engine_never_has_more_than_its_slots(service: Service) -> None:
    service.engine.faults.first_token_delay = 0.05
    running = []

    async def watch() -> None:
        while True:
            done = len(service.engine.finished)
            running.append(len(service.engine.started) - done)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(service.run(max_tokens=2) for _ in range(12)))
    watching.cancel()
    assert [answer.status_code for answer in answers] == [200] * 12
    assert max(running) == 2


@pytest.mark.parametrize("service", [{"slots": 1, "patience": 0.2}], indirect=True)
async def test_whoever_waits_too_long_is_told_to_come_back(service: Service) -> None:
    service.engine.faults.first_token_delay = 0.6
    first, second = await asyncio.gather(service.run(), service.run())
    refused = first if first.status_code == 429 else second
    assert said(refused) == (429, 3040)
    assert int(refused.headers["retry-after"]) >= 1
    assert (await service.run()).status_code == 200


@pytest.mark.parametrize("service", [{"slots": 1, "patience": 9.0}], indirect=True)
async def test_whoever_leaves_the_queue_makes_room(service: Service) -> None:
    service.engine.faults.hang_after = 0
    first = asyncio.create_task(service.run())
    while not service.engine.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    service.engine.faults.hang_after = None
    with pytest.raises(httpx.ReadTimeout):
        async with service.client() as client:
            await client.post(path(), json={"prompt": "gone"}, timeout=0.3)
    first.cancel()
    assert (await service.run()).status_code == 200
    assert len(service.engine.started) == 2


@pytest.mark.parametrize(
    "service", [{"slots": 1, "patience": 9.0, "queue_tokens": 60}], indirect=True
)
async def test_a_full_queue_drops_the_loud_and_not_the_quiet(service: Service) -> None:
    service.engine.faults.first_token_delay = 0.1
    quiet = service.account()
    _, value = service.token(quiet)
    loud = [asyncio.create_task(service.run(max_tokens=8)) for _ in range(12)]
    await asyncio.sleep(0.15)
    assert (await service.run(value, quiet, max_tokens=8)).status_code == 200
    codes = Counter([(await task).status_code for task in loud])
    assert codes[429] >= 5
    assert codes[200] >= 5


@pytest.mark.parametrize(
    "service", [{"slots": 2, "patience": 30.0, "queue_tokens": 10**6}], indirect=True
)
async def test_a_burst_delays_nobody_else(service: Service) -> None:
    """The other tenant's request is next, not the two hundredth."""
    service.engine.faults.first_token_delay = 0.5
    quiet = service.account()
    _, value = service.token(quiet)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{service.port}",
        headers=bearer(TOKEN),
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        body = {"prompt": "one", "max_tokens": 2}
        burst = [asyncio.create_task(client.post(path(), json=body)) for _ in range(200)]
        while len(service.engine.started) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        before = len(service.engine.started)
        assert (await service.run(value, quiet, max_tokens=2)).status_code == 200
        assert len(service.engine.started) - before < 20
        for task in burst:
            task.cancel()
        await asyncio.gather(*burst, return_exceptions=True)


async def test_some_places_are_kept_for_who_has_less_than_a_share() -> None:
    """Not for the tenant that fills the engine, nor for more than the share of another."""
    turns = Turns(slots=3, tokens=10**6, pixels=1, patience=9, kept=1)
    loud = [Waiting("loud", 1) for _ in range(6)]
    taking = [asyncio.create_task(turns.take(item)) for item in loud]
    await asyncio.sleep(0)
    assert turns.waiting == 3
    async with asyncio.timeout(1):
        await turns.take(Waiting("quiet", 1))
    second = asyncio.create_task(turns.take(Waiting("quiet", 1)))
    await asyncio.sleep(0)
    assert turns.waiting == 4
    turns.give(loud[0], 1)
    await asyncio.wait_for(second, 1)
    assert not taking[3].done()
    for task in taking:
        task.cancel()


async def test_kept_places_cost_nobody_else_any() -> None:
    """Who is alone has all the engine was meant to run, and who has a share no more."""
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9, kept=2)
    for _ in range(4):
        await turns.take(Waiting("alone", 1), may_wait=False)
    with pytest.raises(Overloaded):
        await turns.take(Waiting("alone", 1), may_wait=False)
    for _ in range(2):
        await turns.take(Waiting("other", 1), may_wait=False)
    assert turns.load.running == 6


async def test_who_sends_its_share_at_random_moments_waits_for_no_flood() -> None:
    """In virtual time: requests take a second or so, and 9 of 10 of a half is 14.4 a second."""
    turns = Turns(slots=32, tokens=10**9, pixels=1, patience=99, kept=8)
    generator, now, order = random.Random(1), 0.0, itertools.count()
    coming = list(itertools.accumulate(generator.expovariate(14.4) for _ in range(2000)))
    ends: list[tuple[float, int, Waiting]] = []
    waited: dict[str, list[float]] = {"quiet": [], "loud": []}

    async def run(flow: str) -> None:
        item, came = Waiting(flow, 100), now
        await turns.take(item)
        waited[flow].append(now - came)
        heapq.heappush(ends, (now + generator.uniform(0.5, 1.5), next(order), item))

    tasks = [asyncio.create_task(run("loud")) for _ in range(320)]
    await asyncio.sleep(0)
    while coming:
        if ends[0][0] < coming[0]:
            now, _, item = heapq.heappop(ends)
            turns.give(item, item.cost)
            who = item.flow
        else:
            now, who = coming.pop(0), "new"
        if who != "quiet":  # the loud one sends its next at once
            tasks.append(asyncio.create_task(run("loud" if who == "loud" else "quiet")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert [round(each, 1) for each in quantiles(waited["quiet"], n=10)][-1] == 0
    assert quantiles(waited["quiet"], n=100)[-1] < 0.3
    assert len(waited["loud"]) / now > 32 - 14.4  # which has all that is left


async def test_at_the_engine_no_burst_comes_before_what_another_sends_next(
    service: Service,
) -> None:
    """Nor a low priority before a high one: the engine is told who stands where."""
    service.engine.faults.first_token_delay = 0.2
    people = [service.account() for _ in range(3)]
    loud, quiet, low = people
    limit(service, low, priority=5)
    keys = {account: service.token(account)[1] for account in people}
    order = [loud, loud, quiet, low]
    asked = [
        asyncio.create_task(service.run(keys[account], account, prompt=f"of {account}"))
        for account in order
    ]
    assert {(await each).status_code for each in asked} == {200}
    stood: dict[str, list[int]] = {account: [] for account in people}
    for generation in service.engine.generations:
        assert isinstance(generation.prompt, tuple)
        said_by = str(generation.prompt[-1].content[0]).removeprefix("of ")
        stood[said_by].append(generation.priority)
    first, second = sorted(stood[loud])
    assert stood[quiet] == [first]
    assert first < second < stood[low][0] < 2**63


async def test_at_the_engine_nobody_overtakes_an_earlier_request_of_its_own_tenant() -> None:
    """Not when others of the tenant's have ended between the two either."""
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9)
    items = [Waiting("a", 10) for _ in range(4)]
    for item in items[:3]:
        await turns.take(item)
    for item in items[:2]:
        turns.give(item, 10)
    await turns.take(items[3])
    assert turns.standing(items[2]) < turns.standing(items[3])


async def test_at_the_engine_a_tenant_that_was_away_has_no_turns_saved_up() -> None:
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9)
    for _ in range(20):
        item = Waiting("busy", 10)
        await turns.take(item)
        turns.give(item, 10)
    both = [Waiting("busy", 10), Waiting("back", 10), Waiting("back", 10), Waiting("busy", 10)]
    for item in both:
        await turns.take(item)
    first, back, second, last = map(turns.standing, both)
    assert first == back < second == last


async def test_at_the_engine_who_is_owed_service_comes_before_who_is_not() -> None:
    """However many it has there: at nine tenths of its share it has about as many."""
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9, kept=6)
    loud = [Waiting("loud", 100) for _ in range(9)]
    taking = [asyncio.create_task(turns.take(item)) for item in loud]
    await asyncio.sleep(0)
    small = [Waiting("quiet", 10) for _ in range(6)]
    for item in small:
        await asyncio.wait_for(turns.take(item), 1)
    assert turns.standing(small[-1]) < turns.standing(loud[0])
    turns.give(small[0], 10_000)  # which was more than anybody had
    assert turns.standing(loud[0]) < turns.standing(small[-1])
    for task in taking:
        task.cancel()


async def test_who_is_owed_service_has_a_kept_place_before_who_has_fewer() -> None:
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9, kept=2)
    loud, quiet = ([Waiting(name, 100) for _ in range(9)] for name in ("loud", "quiet"))
    taking = {item: asyncio.create_task(turns.take(item)) for item in loud}
    await asyncio.sleep(0)
    taking |= {item: asyncio.create_task(turns.take(item)) for item in quiet}
    await asyncio.sleep(0)
    for item in loud[:3]:
        turns.give(item, 1000)
        await asyncio.sleep(0)
    running = Counter(item.flow for item, task in taking.items() if task.done())
    assert running == {"loud": 4, "quiet": 5}  # of the former three are done
    for task in taking.values():
        task.cancel()


async def test_those_who_end_together_were_as_fast_as_they_were_together() -> None:
    """An engine's step ends many at once: no time between them is not speed."""
    turns = Turns(slots=4, tokens=10**6, pixels=1, patience=9)
    running = [Waiting("a", 100) for _ in range(4)]
    for item in running:
        await turns.take(item)
    waiting = [asyncio.create_task(turns.take(Waiting("a", 2000))) for _ in range(8)]
    began = time.monotonic()
    await asyncio.sleep(0.2)
    took = time.monotonic() - began
    for item in running:
        turns.give(item, 100)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await turns.take(Waiting("a", 1), may_wait=False)
    # 8000 still wait, and 400 took so long.
    assert caught.value.retry_after == pytest.approx(8000 * took / 400, rel=0.5)
    for task in waiting:
        task.cancel()


async def test_the_queue_is_bounded_in_pixels_too() -> None:
    """Whoever fills most of it with pictures makes room for who sends few."""
    turns = Turns(slots=1, tokens=10**6, pixels=100, patience=9)
    await turns.take(Waiting("first", 1))
    large = [asyncio.create_task(turns.take(Waiting("large", 1, pixels=40))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await turns.take(Waiting("large", 1, pixels=40))
    small = asyncio.create_task(turns.take(Waiting("small", 1, pixels=30)))
    with pytest.raises(Overloaded):
        await large[1]
    assert turns.load.pixels == 70
    for task in (large[0], small):
        task.cancel()


async def test_many_who_leave_at_once_take_no_turn_with_them() -> None:
    """Those with a turn, those waiting, and those whose turn comes while they leave."""
    turns, generator = Turns(slots=4, tokens=10**6, pixels=1, patience=9), random.Random(3)

    async def use() -> None:
        item = Waiting("a", 1)
        await turns.take(item)
        try:
            await asyncio.sleep(generator.random() / 100)
        finally:
            turns.give(item, 1)

    for _ in range(30):
        tasks = [asyncio.create_task(use()) for _ in range(40)]
        await asyncio.sleep(generator.random() / 100)
        for task in generator.sample(tasks, 30):
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in found} <= {type(None), asyncio.CancelledError}
        assert (turns.waiting, turns._running, turns._turns) == (0, {}, {})


async def test_two_replicas_share_the_limits_of_an_account(
    tenants: Tenants, redis: Any, tmp_path: Path
) -> None:
    """Each with its own gate, on one Redis: requests, places and tokens are counted together."""
    settings = tenants._settings.model_copy(update={"state_dir": tmp_path / "second"})
    shared = {"database_url": f"sqlite:///{tmp_path}/state/tenancy.db"}
    secret = {"tenancy_secret": (tmp_path / "state/secret").read_text().strip()}
    both = [tenants, Tenants(Settings(**settings.model_dump() | shared | secret))]
    async with AsyncExitStack() as stack:
        services = []
        for each in both:
            gate = Gate(Policy(4), Shared(redis.url, each.used), FakeEngine.size, each.price)
            services.append(await stack.enter_async_context(serving(each, admission=gate)))
        one = services[0]
        people = [one.account() for _ in range(3)]
        keys = [one.token(account)[1] for account in people]
        limit(one, people[0], requests_per_minute=5)
        limit(one, people[1], concurrent_requests=1)
        limit(one, people[2], tokens_per_day=26)

        async def run(who: int, count: int) -> list[int]:
            """Alternately through the two, all at once."""
            asked = (services[i % 2].run(keys[who], people[who]) for i in range(count))
            return sorted([answer.status_code for answer in await asyncio.gather(*asked)])

        assert await run(0, 9) == [200] * 5 + [429] * 4
        for service in services:
            service.engine.faults.first_token_delay = 0.5
        assert await run(1, 4) == [200] + [429] * 3
        for service in services:
            service.engine.faults.first_token_delay = 0.0
        # Four tokens each, prompt and answer: six fit, however many may be estimated at once.
        codes = [code for _ in range(4) for code in await run(2, 2)]
        codes += [(await one.run(keys[2], people[2], max_tokens=2)).status_code for _ in range(8)]
        assert codes.count(200) == 6
    both[1].close()


async def test_a_quota_survives_an_emptied_redis(tenants: Tenants, redis: Any) -> None:
    """What was used is in the database: nobody gets the day twice."""
    gate = Gate(Policy(4), Shared(redis.url, tenants.used), FakeEngine.size, tenants.price)
    async with serving(tenants, admission=gate) as service:
        limit(service, tokens_per_day=10)
        codes = [(await service.run(max_tokens=4)).status_code for _ in range(2)]
        assert codes == [200, 200]
        tenants._ledger._ship()
        redis.stop()
        redis.start()
        await asyncio.sleep(1.1)  # for which it is left alone, if its absence was noticed
        assert said(await service.run(max_tokens=4)) == (429, 3036)


@pytest.mark.parametrize("opens", [True, False])
async def test_without_redis_limits_fail_as_set(tenants: Tenants, redis: Any, opens: bool) -> None:
    gate = Gate(Policy(4, fails_open=opens), Shared(redis.url), FakeEngine.size, tenants.price)
    async with serving(tenants, admission=gate) as service:
        limit(service, requests_per_minute=2)
        assert (await service.run()).status_code == 200
        redis.stop()
        try:
            answers = [await service.run() for _ in range(3)]
        finally:
            redis.start()
        codes = [answer.status_code for answer in answers]
        assert codes == ([200, 200, 429] if opens else [503, 503, 503])
        if not opens:
            assert said(answers[0]) == (503, 3050)
            assert int(answers[0].headers["retry-after"]) >= 1


async def test_retry_after_is_computed_from_the_speed() -> None:
    turns = Turns(slots=1, tokens=10**6, pixels=1, patience=9)
    for _ in range(30):
        item = Waiting("a", 100)
        await turns.take(item)
        await asyncio.sleep(0.01)
        turns.give(item, 100)  # some 10 000 a second
    await turns.take(Waiting("a", 100))
    waiting = [asyncio.create_task(turns.take(Waiting("a", 40_000))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await turns.take(Waiting("a", 1), may_wait=False)
    assert 5 < caught.value.retry_after < 14
    for task in waiting:
        task.cancel()
