"""Requests that are queued and answered later, over sockets, on each database."""

from __future__ import annotations

import asyncio
import base64
import logging
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudflare
import httpx
import pytest

from serving.admission.gate import Gate, Policy
from serving.admission.store import Memory
from serving.batch import steps
from serving.batch.desk import Desk
from serving.batch.steps import ROUTE, Bounds
from serving.batch.worker import Worker
from serving.catalog import Catalog, Model
from serving.cluster.finetunes import Finetunes
from serving.cluster.tenants import Tenancy, Tenants
from serving.core import Limits, Receipt
from serving.engine.fake import FakeEngine
from serving.errors import EngineFailed, InvalidInput, Overloaded, QuotaSpent
from serving.settings import Settings
from serving.tenancy import accounts, tables
from serving.tenancy.batches import Demand
from tests.servers import free_port
from tests.tenancy import test_finetunes as lora
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN, Service, bearer, path, serving
from tests.tenancy.test_metering import _start

QUEUE = {"queueRequest": "true"}


@dataclass
class Replica:
    """A gateway with a queue and the worker that runs it."""

    service: Service
    worker: Worker
    receipts: list[Receipt] = field(default_factory=list)

    async def post(
        self, body: Any, token: str = TOKEN, account: str = ACCOUNT, **query: str
    ) -> httpx.Response:
        async with self.service.client(token) as client:
            return await client.post(path(account), json=body, params=query or QUEUE)

    async def submit(self, *requests: dict[str, Any], **who: str) -> str:
        """The id of a new batch."""
        answer = (await self.post({"requests": requests}, **who)).json()["result"]
        assert (answer["status"], answer["model"]) == ("queued", MODEL)
        return str(answer["request_id"])

    async def poll(self, id_: str, **who: str) -> dict[str, Any]:
        response = await self.post({"request_id": id_}, **who)
        assert response.status_code == 200, response.text
        return dict(response.json()["result"])

    async def result(self, id_: str, **who: str) -> dict[str, Any]:
        """The answer to the poll that finds the batch ended."""
        async with asyncio.timeout(20):
            while "responses" not in (found := await self.poll(id_, **who)):
                assert found["status"] in ("queued", "running")
                assert found["request_id"] == id_
                await asyncio.sleep(0.05)
        return found

    def rows(self, table: Any = tables.items) -> list[Any]:
        with self.service.tenants.tenancy.database.begin() as connection:
            return list(connection.execute(table.select()))


@asynccontextmanager
async def replica(
    tenants: Tenants,
    admission: Gate | None = None,
    *,
    starts: bool = True,
    model: Model | None = None,
    adapters: Finetunes | None = None,
    **bounds: Any,
) -> AsyncIterator[Replica]:
    engine, receipts, bound = FakeEngine(), list[Receipt](), Bounds(**bounds)
    database = tenants.tenancy.database
    model = model or Model(id=MODEL, checkpoint=Path(), context_window=2048, max_images=2)
    worker = Worker(
        database,
        tenants.identity,
        engine,
        Catalog(model),
        tenants.prices,
        bound,
        admission=admission,
        adapters=adapters,
        observers=[receipts.append],
    )
    desk = Desk(database, bound, worker.wake)
    options = {"queue": desk, "admission": admission, "adapters": adapters}
    async with serving(tenants, engine, model, **options) as service:
        if starts:
            worker.start()
        try:
            yield Replica(service, worker, receipts)
        finally:
            worker.close()


@pytest.fixture
def embedded(sqlite: Settings) -> Iterator[Tenants]:
    """For what does not depend on the kind of database."""
    opened = Tenants(sqlite)
    yield opened
    opened.close()


def gate(slots: int) -> Gate:
    return Gate(Policy(slots), Memory(), FakeEngine.size, lambda *_: 0)


async def test_a_batch_is_queued_and_answered_in_order(tenants: Tenants) -> None:
    async with replica(tenants) as made:
        requests = [{"prompt": f"one two {n}", "external_reference": f"ref-{n}"} for n in range(20)]
        found = await made.result(await made.submit(*requests))
        assert [each["id"] for each in found["responses"]] == list(range(20))
        for n, each in enumerate(found["responses"]):
            assert each["success"] is True
            assert each["external_reference"] == f"ref-{n}"
            assert each["result"]["response"] == f"one two {n}"
            assert each["result"]["usage"]["completion_tokens"] == 3
        assert found["usage"]["total_tokens"] == 20 * 6


async def test_one_request_without_a_list_is_a_batch_of_one(tenants: Tenants) -> None:
    """And it is not streamed, whatever it says."""
    async with replica(tenants) as made:
        answer = (await made.post({"prompt": "alone", "stream": True})).json()
        assert answer["success"] is True
        found = await made.result(answer["result"]["request_id"])
        (only,) = found["responses"]
        assert only["result"]["response"] == "alone"
        assert "external_reference" not in only


async def test_the_model_may_be_named_in_the_body(tenants: Tenants) -> None:
    async with replica(tenants) as made, made.service.client() as client:
        address = f"/client/v4/accounts/{ACCOUNT}/ai/run"
        body = {"model": MODEL, "input": {"requests": [{"prompt": "named"}]}}
        answer = (await client.post(address, json=body, params=QUEUE)).json()["result"]
        found = await made.result(answer["request_id"])
        assert found["responses"][0]["result"]["response"] == "named"


async def test_a_workers_binding_queues_and_polls(tenants: Tenants) -> None:
    """Its answers have no envelope, and the option is in the body."""
    bound = {"cf-consn-model-id": MODEL, "x-forwarded": "https://workers-binding.ai/run?version=3"}
    url = f"/client/v4/accounts/{ACCOUNT}/ai/run/proxy"
    async with replica(tenants) as made, made.service.client() as client:

        async def ask(inputs: Any, **headers: str) -> httpx.Response:
            body = {"inputs": inputs, "options": {"queueRequest": True}}
            return await client.post(url, json=body, headers=headers or bound)

        queued = (await ask({"requests": [{"prompt": "bound"}]})).json()
        assert (queued["status"], queued["model"]) == ("queued", MODEL)
        ended = await made.result(queued["request_id"])
        assert ended["responses"][0]["result"]["response"] == "bound"
        assert (await ask({"request_id": queued["request_id"]})).json() == ended
        assert (await ask({"requests": []})).json()["errors"][0]["code"] == 5006
        nameless = await ask({"prompt": "x"}, **{"x-forwarded": bound["x-forwarded"]})
        assert nameless.json()["errors"][0]["code"] == 3003
        at_once = {"inputs": {"prompt": "now"}, "options": {}}
        assert (await client.post(url, json=at_once, headers=bound)).json()["response"] == "now"


async def test_the_status_says_queued_then_running(tenants: Tenants) -> None:
    async with replica(tenants, starts=False) as made:
        id_ = await made.submit({"prompt": "a"})
        assert await made.poll(id_) == {"status": "queued", "request_id": id_}
        made.service.engine.faults.hang_after = 0
        made.worker.start()
        async with asyncio.timeout(5):
            while (await made.poll(id_))["status"] != "running":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_without_the_parameter_it_runs_at_once(embedded: Tenants) -> None:
    async with replica(embedded) as made:
        response = await made.post({"prompt": "now"}, queueRequest="false")
        assert response.json()["result"]["response"] == "now"


async def test_some_fail_and_the_others_do_not(tenants: Tenants) -> None:
    cut = {"prompt": "a b c", "max_tokens": 1, "response_format": {"type": "json_object"}}
    async with replica(tenants) as made:
        found = await made.result(await made.submit({"prompt": "good"}, cut, {"prompt": "fine"}))
        good, bad, fine = found["responses"]
        assert [each["success"] for each in (good, bad, fine)] == [True, False, True]
        assert bad["result"] == {}
        assert [error["code"] for error in bad["errors"]] == [5024]
        # What the failed one used is counted, as for a direct request.
        usage = {row.receipt: row for row in made.rows(tables.usage) if row.route == ROUTE}
        assert Counter(row.outcome for row in usage.values()) == {"ok": 2, "failed": 1}
        assert sum(row.completion_tokens for row in usage.values()) == 3
        assert found["usage"]["completion_tokens"] == 3


async def test_each_request_may_have_an_adapter(tenants: Tenants, settings: Settings) -> None:
    model, database = lora.model(), tenants.tenancy.database
    kept = Finetunes(database, Catalog(model), settings.state_dir / "adapters")
    async with replica(tenants, model=model, adapters=kept) as made:
        mine = await lora.make(made.service)
        await lora.complete(made.service, mine.id)
        await lora.make(made.service, "unfinished")
        found = await made.result(
            await made.submit(
                {"prompt": "adapted", "lora": "mine"},
                {"prompt": "plain"},
                {"prompt": "nobody", "lora": "theirs"},
                {"prompt": "half", "lora": "unfinished"},
            )
        )
        good, bad = found["responses"][:2], found["responses"][2:]
        assert [each["result"]["response"] for each in good] == ["adapted", "plain"]
        assert [each["errors"][0]["code"] for each in bad] == [5007, 3039]
        ran = {g.prompt[0].content[0]: g.adapter for g in made.service.engine.generations}
        assert ran.keys() == {"adapted", "plain"}
        assert ran["plain"] is None
        assert ran["adapted"].id == mine.id
        rows = [row for row in made.rows(tables.usage) if row.route == ROUTE]
        assert Counter(row.adapter for row in rows) == {mine.id: 1, "": 3}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": "a", "temperature": 9},
        {"prompt": "a", "messages": []},
        {},
        {"prompt": "a", "image": "data:image/png;base64,!"},
        {"prompt": "a", "lora": "mine"},
    ],
)
async def test_a_submission_is_refused_as_the_direct_call_is(
    embedded: Tenants, wrong: dict[str, Any]
) -> None:
    async with replica(embedded) as made:
        direct = await made.post(wrong, queueRequest="no")
        queued = await made.post({"requests": [{"prompt": "good"}, wrong]})
        assert queued.status_code == direct.status_code >= 400
        (one,), (other,) = direct.json()["errors"], queued.json()["errors"]
        assert other["code"] == one["code"]
        text = one["message"].rsplit(" (", 1)[0]
        assert other["message"].startswith(text)
        assert "/requests/1" in other["message"]
        assert made.rows() == []


async def test_bounds_have_clear_errors(tenants: Tenants) -> None:
    async with replica(tenants, starts=False, items=3, bytes=200) as made:
        for body, status, code in (
            ({"requests": []}, 400, 5006),
            ({"requests": [{"prompt": "a"}] * 1001}, 400, 5006),
            ({"requests": "a"}, 400, 5006),
            ({"request_id": 7}, 400, 5006),
            ({"requests": [{"prompt": "a", "external_reference": 7}]}, 400, 5006),
            ({"requests": [{"prompt": "a"}] * 4}, 429, 3021),
            ({"requests": [{"prompt": "a" * 200}]}, 429, 3021),
            ({"requests": [{"prompt": "a" * 10_000_000}]}, 413, 3006),
        ):
            response = await made.post(body)
            found = (response.status_code, response.json()["errors"][0]["code"])
            assert found == (status, code), response.text
        await made.submit({"prompt": "a"}, {"prompt": "b"})
        refused = await made.post({"requests": [{"prompt": "a"}, {"prompt": "b"}]})
        assert "limit of 3 queued requests" in refused.json()["errors"][0]["message"]
        assert int(refused.headers["retry-after"]) > 0
        other = made.service.account()  # whose queue is its own
        _, value = made.service.token(other)
        await made.submit({"prompt": "a"}, {"prompt": "b"}, token=value, account=other)


async def test_a_full_queue_says_when_there_is_room_at_the_pace_of_late(tenants: Tenants) -> None:
    async with replica(tenants, items=20) as made:

        async def told(count: int) -> int:
            refused = await made.post({"requests": [{"prompt": "x"}] * count})
            assert (refused.status_code, refused.json()["errors"][0]["code"]) == (429, 3021)
            return int(refused.headers["retry-after"])

        assert await told(30) == 60  # nobody knows yet
        await made.result(await made.submit(*[{"prompt": "x"}] * 15))
        assert await told(30) == 200  # 10 too many, 15 in five minutes
        assert await told(23) == 60
        assert await told(21) == 20


async def test_many_at_once_do_not_exceed_the_bound(tenants: Tenants) -> None:
    async with replica(tenants, starts=False, items=10) as made:
        bodies = [{"requests": [{"prompt": "a"}] * 3} for _ in range(8)]
        answers = await asyncio.gather(*(made.post(body) for body in bodies))
        assert sorted(each.status_code for each in answers) == [200] * 3 + [429] * 5
        assert len(made.rows()) == 9


async def test_another_account_finds_nothing(tenants: Tenants) -> None:
    async with replica(tenants) as made:
        id_ = await made.submit({"prompt": "secret"})
        await made.result(id_)
        other = made.service.account()
        _, value = made.service.token(other)
        foreign = await made.post({"request_id": id_}, value, other)
        unknown = await made.post({"request_id": "no-such-id"}, value, other)
        assert (foreign.status_code, foreign.json()["errors"][0]["code"]) == (404, 7003)
        text = foreign.text.replace(id_, "no-such-id")
        assert text == unknown.text
        refused = await made.post({"request_id": id_}, value, ACCOUNT)
        assert refused.status_code == 403


async def test_prompts_are_deleted_when_an_item_has_ended(
    tenants: Tenants, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """And are in no log on the way, nor is the answer."""
    caplog.set_level(logging.DEBUG)
    picture = base64.b64encode(b"canary-picture").decode()
    async with replica(tenants) as made:
        made.service.engine.faults.refuse = ValueError("canary in an exception")
        id_ = await made.submit({"prompt": "canary one", "image": picture})
        await asyncio.sleep(0.3)
        assert b"canary" in next(iter(made.rows())).input
        made.service.engine.faults.refuse = None
        await made.result(id_)
        (row,) = made.rows()
        assert row.input is None
        assert row.attempts == 2
        ours = [each.getMessage() for each in caplog.records if each.name.startswith("serving")]
        assert ours  # the exception is reported, without its words
        assert not [each for each in ours if "canary" in each]
        kept = str(made.rows(tables.usage)) + str(made.receipts)
        assert "canary" not in kept


async def test_results_are_kept_for_a_while(tenants: Tenants) -> None:
    async with replica(tenants, keep=1.0) as made:
        id_ = await made.submit({"prompt": "a"})
        await made.result(id_)
        made.worker._clean()
        assert len(made.rows()) == 1
        await asyncio.sleep(1.1)
        made.worker._clean()
        assert made.rows() == made.rows(tables.batches) == []
        assert (await made.post({"request_id": id_})).status_code == 404


async def test_what_nobody_runs_is_not_kept_for_ever(tenants: Tenants) -> None:
    async with replica(tenants, starts=False, keep=0.2) as made:
        await made.submit({"prompt": "a"})
        await asyncio.sleep(0.5)
        made.worker._clean()
        assert made.rows() == made.rows(tables.batches) == []


async def test_a_busy_engine_makes_items_wait_and_not_fail(embedded: Tenants) -> None:
    async with replica(embedded) as made:
        made.service.engine.faults.overloaded = True
        id_ = await made.submit({"prompt": "patient"})
        await asyncio.sleep(0.3)
        made.service.engine.faults.overloaded = False
        found = await made.result(id_)
        assert found["responses"][0]["result"]["response"] == "patient"
        assert [row.attempts for row in made.rows()] == [1]


async def test_an_item_that_breaks_the_engine_fails_after_three_attempts(embedded: Tenants) -> None:
    """And is counted once."""
    async with replica(embedded) as made:
        made.service.engine.faults.fail_after = 1
        id_ = await made.submit({"prompt": "breaks it"})
        (only,) = (await made.result(id_))["responses"]
        assert only["errors"][0]["code"] == 3043
        assert len(made.service.engine.started) == 3
        (row,) = [row for row in made.rows(tables.usage) if row.route == ROUTE]
        assert (row.outcome, row.code) == ("failed", 3043)


async def test_the_limits_of_the_account_hold_when_an_item_runs(tenants: Tenants) -> None:
    """A token that is revoked in between opens nothing any more."""
    async with replica(tenants, gate(8), starts=False) as made:
        mine = made.service.account()
        token, value = made.service.token(mine)
        with tenants.tenancy.database.begin() as connection:
            limits = Limits(max_context=100, weight=3)
            accounts.set_limits(connection, "test", mine, None, limits)
        who = {"token": value, "account": mine}
        large = await made.submit({"prompt": "a", "max_tokens": 200}, {"prompt": "a"}, **who)
        revoked = await made.submit({"prompt": "a", "max_tokens": 9}, account=mine, token=value)
        with tenants.tenancy.database.begin() as connection:
            _, kept = accounts.issue(connection, "test", mine, "t", tenants.tenancy.secret)
            accounts.revoke(connection, "test", mine, token.id)
        made.worker.start()
        found = [await made.result(each, token=kept, account=mine) for each in (large, revoked)]
        codes = [each["errors"][0]["code"] for one in found for each in one["responses"]]
        assert codes == [10000] * 3
        fresh = await made.submit({"prompt": "a", "max_tokens": 200}, token=kept, account=mine)
        (only,) = (await made.result(fresh, token=kept, account=mine))["responses"]
        assert only["errors"][0]["code"] == 5021


async def test_requests_that_somebody_waits_for_overtake(embedded: Tenants) -> None:
    """With one place at the engine and a full queue, a direct request is next, always."""
    async with replica(embedded, gate(1), concurrency=4) as made:
        made.service.engine.faults.token_delay = 0.02
        id_ = await made.submit(*({"prompt": f"slow {n} a b c d e f"} for n in range(12)))
        while not made.service.engine.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # now three more wait at the gate
        before = len(made.service.engine.started)
        direct = await asyncio.gather(*(made.service.run(prompt="direct") for _ in range(5)))
        assert {each.status_code for each in direct} == {200}
        # They waited for what was running, and for nothing else.
        order = [each.background for each in made.service.engine.generations[before:]]
        assert order[:5] == [False] * 5
        found = await made.result(id_)
        assert all(each["success"] for each in found["responses"])


async def test_a_small_batch_does_not_wait_for_a_large_one(tenants: Tenants) -> None:
    async with replica(tenants, concurrency=2, starts=False) as made:
        made.service.engine.faults.token_delay = 0.02
        large = await made.submit(*({"prompt": "a b c d e"} for _ in range(60)))
        other = made.service.account()
        _, value = made.service.token(other)
        small = await made.submit({"prompt": "a b c"}, token=value, account=other)
        made.worker.start()
        await made.result(small, token=value, account=other)
        assert (await made.poll(large))["status"] == "running"


async def test_what_a_stopped_replica_ran_is_free_at_once(tenants: Tenants) -> None:
    async with replica(tenants) as made:
        made.service.engine.faults.hang_after = 0
        id_ = await made.submit({"prompt": "a"}, {"prompt": "b"})
        while len(made.service.engine.started) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        made.worker.close()
        await asyncio.sleep(0.05)
        assert len(made.service.engine.aborted) == 2
        assert {(row.claim, row.attempts) for row in made.rows()} == {(None, 0)}
        async with replica(tenants) as next_:
            found = await next_.result(id_)
            assert [each["success"] for each in found["responses"]] == [True, True]


async def test_who_lost_its_lease_changes_nothing(tenants: Tenants) -> None:
    """Two replicas run the same item; one result is kept and one usage counted."""
    # With room for one, the slow one cannot claim the item again itself.
    hurried = replica(tenants, lease=0.3, concurrency=1)
    async with hurried as slow, replica(tenants, starts=False) as other:
        slow.service.engine.faults.first_token_delay = 1.5
        slow.worker._renew = lambda claims: None  # type: ignore[method-assign] # it is stuck
        id_ = await slow.submit({"prompt": "twice"})
        while not slow.service.engine.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        other.worker.start()
        found = await other.result(id_)
        assert found["responses"][0]["success"] is True
        while not slow.service.engine.finished:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert len([row for row in other.rows(tables.usage) if row.route == ROUTE]) == 1
        assert (len(slow.receipts), len(other.receipts)) == (0, 1)


async def test_killed_midway_another_replica_goes_on(settings: Settings, tmp_path: Path) -> None:
    """Two processes share the queue, one is killed: every item has one result and one row."""
    logs, ports = [tmp_path / "first", tmp_path / "second"], [free_port(), free_port()]
    victims = [_start(port, settings, log) for port, log in zip(ports, logs, strict=True)]
    words = " ".join(f"w{n}" for n in range(250))  # half a second each
    body = {"requests": [{"prompt": words, "external_reference": str(n)} for n in range(40)]}
    address = f"http://127.0.0.1:{ports[1]}{path()}"
    try:
        async with httpx.AsyncClient(headers=bearer(TOKEN), params=QUEUE, timeout=30) as client:
            answer = (await client.post(address, json=body)).json()["result"]
            while not _begun(logs[0]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            victims[0].kill()
            victims[0].wait()
            poll = {"request_id": answer["request_id"]}
            async with asyncio.timeout(40):
                while True:
                    found = (await client.post(address, json=poll)).json()["result"]
                    if "responses" in found:
                        break
                    await asyncio.sleep(0.1)
    finally:
        for victim in victims:
            victim.send_signal(signal.SIGINT)
            victim.wait()
    assert all(each["success"] for each in found["responses"])
    assert [each["external_reference"] for each in found["responses"]] == [*map(str, range(40))]
    database = Tenancy.open(settings).database
    with database.begin() as connection:
        rows = [r for r in connection.execute(tables.usage.select()) if r.route == ROUTE]
        items = list(connection.execute(tables.items.select()))
    database.close()
    assert {row.receipt for row in rows} == {item.id for item in items}
    assert len(rows) == 40
    assert {row.completion_tokens for row in rows} == {250}
    assert found["usage"]["completion_tokens"] == 40 * 250
    first, second = map(_begun, logs)
    assert first & second  # begun by the one that died, done by the other
    assert {item.id for item in items} == first | second


def _begun(log: Path) -> set[str]:
    return {line.split()[0] for line in log.read_text().splitlines()} if log.exists() else set()


async def test_the_cloudflare_client_polls(embedded: Tenants) -> None:
    """The package, unmodified; it blocks, so it has a thread."""
    async with replica(embedded) as made:
        found: dict[str, Any] = {}

        def work() -> None:
            base = f"http://127.0.0.1:{made.service.port}/client/v4"
            client = cloudflare.Cloudflare(base_url=base, api_token=TOKEN, max_retries=0)

            def run(body: dict[str, Any]) -> Any:
                return client.ai.run(
                    MODEL,
                    account_id=ACCOUNT,
                    prompt=None,  # type: ignore[arg-type]
                    extra_query=QUEUE,
                    extra_body=body,
                )

            requests = [{"prompt": "hello there", "external_reference": "r"}]
            queued = run({"requests": requests})
            assert queued["status"] == "queued"
            while "responses" not in found:
                found.update(run({"request_id": queued["request_id"]}))
            try:
                run({"request_id": "nothing"})
            except cloudflare.NotFoundError as error:
                found["missing"] = error.errors[0].code

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join, 20)
        (only,) = found["responses"]
        assert (only["result"]["response"], only["external_reference"]) == ("hello there", "r")
        assert found["missing"] == 7003


def test_room_goes_to_whoever_has_the_least_running() -> None:
    demands = {"a": Demand(50, 6), "b": Demand(1, 0), "c": Demand(9, 2)}
    assert steps.share(demands, 5) == {"b": 1, "c": 4}
    assert steps.share(demands, 0) == {}
    assert steps.share({"b": Demand(2, 0)}, 8) == {"b": 2}


def test_what_is_tried_again() -> None:
    busy, broken = Overloaded("busy", 5.0), EngineFailed("it broke")
    assert steps.retry(busy, 99, 10, 3600) == steps.Again(5.0, tried=False)
    assert steps.retry(busy, 1, 3599, 3600) is None
    assert steps.retry(QuotaSpent("tokens per month", 1e6), 1, 0, 3600) is None
    assert steps.retry(broken, 1, 0, 3600) == steps.Again(2.0, tried=True)
    assert steps.retry(broken, 3, 0, 3600) is None
    assert steps.retry(InvalidInput("no"), 1, 0, 3600) is None
