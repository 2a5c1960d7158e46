"""Scenarios, user classes and traces, driven against the mock."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtest.core import UsageError
from loadtest.outcome import conduct
from loadtest.records import Writer
from loadtest.records import read as read_records
from loadtest.scenario import build, read
from loadtest.traces import read as read_trace
from tests.loadtest.conftest import Command, ended, mocked, read_json

SCENARIO = """
target: {url: "http://127.0.0.1:%d/client/v4", api: workers-ai, account: a, model: m}
load: {rate: 60, arrivals: constant}
duration: 2s
slo: errors < 1%%
tenants:
  - {name: chat, share: 3, prompt_tokens: "uniform(4, 12)", output_tokens: 4}
  - {name: vision, images: 1, sizes: [64x48], output_tokens: "choice(2, 6)", slo: ttft p95 < 1us}
"""


async def test_tenants_share_the_load_and_have_objectives_of_their_own(
    loadtest: Command, tmp_path: Path
) -> None:
    async with mocked() as server:
        (tmp_path / "s.yaml").write_text(SCENARIO % server.port)
        done = await loadtest("run", "s.yaml", "--json", "out.json", "--calibration", "0")
    ended(done, 1)
    summary = read_json(tmp_path / "out.json")
    chat, vision = (summary["tenants"][name] for name in ("chat", "vision"))
    assert chat["requests"] + vision["requests"] == 120
    assert chat["requests"] == pytest.approx(90, abs=18)
    assert chat["output_tokens"] == 4 * chat["requests"]
    met = {(each["tenant"], each["objective"]): each["met"] for each in summary["slo"]}
    assert met == {(None, "errors < 1%"): True, ("vision", "ttft p95 < 1us"): False}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("duration: 2s", "durations: 2s"), "durations"),
        (("share: 3", "share: 0"), "tenants.0.share"),
        (("sizes: [64x48], ", ""), "images need sizes"),
        (("name: vision", "name: chat"), "names of their own"),
        (("uniform(4, 12)", "uniform(4)"), "not a distribution"),
        (("rate: 60", "concurrency: many"), "load.concurrency"),
        (("ttft p95 < 1us", "ttft p95 < 1"), "needs a unit"),
        (("ttft p95 < 1us", "latency < 1s"), "unknown quantity"),
        (("load:", "load: ["), "not YAML"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_said(change: tuple[str, str], place: str) -> None:
    with pytest.raises(UsageError, match=place.replace(".", r"\.")):
        read((SCENARIO % 1).replace(*change))


def test_tokens_of_tenants_do_not_come_out() -> None:
    text = (SCENARIO % 1).replace("name: chat", "name: chat, token: s3cret")
    scenario = read(text)
    assert "s3cret" not in scenario.model_dump_json() + repr(scenario)
    with pytest.raises(UsageError) as found:
        read(text.replace("token: s3cret", "token: [s3cret]"))
    assert "s3cret" not in str(found.value)


async def test_the_published_schema_is_json_schema(loadtest: Command) -> None:
    import jsonschema

    done = await loadtest("schema")
    jsonschema.Draft202012Validator.check_schema(json.loads(done.out))
    assert json.loads(done.out)["additionalProperties"] is False


async def test_conversations_send_what_was_said_before() -> None:
    async with mocked() as server:
        tenant = {"turns": "3", "prompt_tokens": "10", "output_tokens": "5", "think": "0.01"}
        scenario = server.scenario(load={"concurrency": 1}, requests=2, duration=20)
        scenario = scenario.model_copy(update={"tenants": (type(scenario.tenants[0])(**tenant),)})
        records = []
        await conduct(scenario, [records.append], calibration=0)
    # Each turn brings 10 words, and the 5 of the answer before.
    assert [record.prompt_tokens for record in records] == [10, 25, 40] * 2
    assert all(b.intended >= a.end + 0.0099 for a, b in pairwise(records[:3]))


async def test_prompts_of_one_run_share_only_what_was_planned() -> None:
    async with mocked() as server:
        fresh = server.scenario(load={"concurrency": 4}, requests=60, duration=20)
        summary, _ = await conduct(fresh, calibration=0)
        again, _ = await conduct(fresh, calibration=0)  # the same seed, another run
        pool = {"pool": 2, "tokens": 96, "share": 1.0}
        tenant = type(fresh.tenants[0])(prompt_tokens="32", output_tokens="2", prefixes=pool)
        shared, _ = await conduct(fresh.model_copy(update={"tenants": (tenant,)}), calibration=0)
    assert summary["cache"]["observed_hit_rate"] == again["cache"]["observed_hit_rate"] == 0
    assert shared["cache"]["planned_hit_rate"] == pytest.approx(0.75)
    assert shared["cache"]["observed_hit_rate"] == pytest.approx(0.75, abs=0.06)


async def test_planned_hits_that_do_not_come_are_suspect() -> None:
    async with mocked() as server:
        plain = server.scenario(load={"concurrency": 2}, requests=40, duration=20)
        pool = {"pool": 40, "tokens": 96, "share": 1.0}  # so many that few are met twice
        tenant = type(plain.tenants[0])(prompt_tokens="8", output_tokens="2", prefixes=pool)
        scenario = plain.model_copy(update={"tenants": (tenant,)})
        summary, _ = await conduct(scenario, calibration=0)
    assert any("cache hits were" in reason for reason in summary["reasons"])


USERS = """
from loadtest.users import LoadShape, User, between, task

class Analyst(User):
    weight = 3
    wait_time = between(0.01, 0.03)

    async def on_start(self):
        self.chart = self.picture("32x32")

    @task(3)
    async def look(self):
        reply = await self.ai.stream(self.prompt(6), images=[self.chart], max_tokens=4)
        assert reply.ok and len(reply.itl) == 3 and 0 < reply.ttft <= reply.e2e
        await self.ai.chat("And the trend?", max_tokens=3)
        self.ai.forget()

    @task
    async def total(self):
        tools = [{"name": "add", "description": "adds", "parameters": {"type": "object"}}]
        reply = await self.ai.run("One number", max_tokens=2, tools=tools)
        assert reply.text == " token token"

class Clerk(User):
    wait_time = 0.02

    @task
    async def ask(self):
        await self.ai.stream("Hello", max_tokens=2)
"""


async def test_user_classes_do_their_tasks(loadtest: Command, tmp_path: Path) -> None:
    (tmp_path / "users.py").write_text(USERS)
    async with mocked() as server:
        done = await loadtest(
            *("run", "users.py", "--url", server.target()["url"], "--api", "openai"),
            *("--concurrency", "4", "--duration", "2", "--records", "r.jsonl"),
            *("--calibration", "0"),
        )
    ended(done)
    tasks = Counter(record.task for record in read_records(tmp_path / "r.jsonl"))
    assert set(tasks) == {"Analyst.look", "Analyst.total", "Clerk.ask"}
    assert tasks["Analyst.look"] > tasks["Analyst.total"] > 0


PORTED = """
import json
from pathlib import Path

from loadtest.users import LoadTestShape, User, constant_throughput, events, task

seen = []

@events.test_start.add_listener
def begin(environment, **kwargs):
    seen.append("start")

@events.request.add_listener
def note(request_type, name, response_time, response_length, exception, **kwargs):
    seen.append([request_type, name, response_time > 0, response_length, exception])

@events.test_stop.add_listener
def end(environment, **kwargs):
    Path("seen.json").write_text(json.dumps(seen))

async def total(user):
    await user.ai.run("One number", max_tokens=2)

class Site(User):
    abstract = True
    wait_time = constant_throughput(20)

    async def on_start(self):
        self.name = "A"

    async def on_stop(self):
        seen.append("bye")

    @task
    async def never(self):
        raise AssertionError

class Reader(Site):
    tasks = {total: 3}
    never = None

    @task
    async def read(self):
        await self.ai.stream(f"Hello {self.name}", max_tokens=3)

class Stairs(LoadTestShape):
    stages = [{"duration": 1, "users": 1}, {"duration": 2, "users": 2}]

    def tick(self):
        for stage in self.stages:
            if self.get_run_time() < stage["duration"]:
                return stage["users"], 5
        return None
"""


async def test_a_file_of_locust_users_needs_few_changes(loadtest: Command, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(PORTED)
    async with mocked() as server:
        done = await loadtest(
            *("run", "locustfile.py", "--url", server.target()["url"], "--duration", "20"),
            *("--json", "out.json", "--calibration", "0"),
        )
    ended(done)
    begin, *seen = read_json(tmp_path / "seen.json")
    requests = [tuple(each) for each in seen if each != "bye"]
    assert begin == "start"
    assert len(requests) == read_json(tmp_path / "out.json")["requests"]
    assert set(requests) == {
        ("POST", "Reader.total", True, 2, None),
        ("STREAM", "Reader.read", True, 3, None),
    }
    assert Counter(requests).most_common(1)[0][0][0] == "POST"
    assert "bye" in seen


SHAPE = """

class Stairs(LoadShape):
    def tick(self):
        if self.get_run_time() > 2.5:
            return None
        return %s
"""


@pytest.mark.parametrize(
    ("says", "loop", "least"),
    [("(2 if self.get_run_time() < 1 else 6, 10)", "closed", 6), ("30.0", "open", 1)],
)
async def test_a_shape_decides_users_or_rate(
    says: str, loop: str, least: int, loadtest: Command, tmp_path: Path
) -> None:
    (tmp_path / "users.py").write_text(USERS + SHAPE % says)
    async with mocked(ttft=0.05) as server:
        done = await loadtest(
            *("run", "users.py", "--url", server.target()["url"], "--api", "openai"),
            *("--duration", "20", "--json", "out.json", "--calibration", "0"),
        )
    ended(done)
    summary = read_json(tmp_path / "out.json")
    assert 2 < summary["window_s"] < 5
    assert summary["instrument"]["most_in_flight"] >= least
    assert summary["requests"] > 40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("x = 1", "no User with a @task"),
        (USERS.replace("weight = 3", "tenant = 'z'"), "unknown tenant"),
    ],
)
async def test_a_file_of_users_that_cannot_be_used(
    text: str, said: str, loadtest: Command, tmp_path: Path
) -> None:
    (tmp_path / "u.py").write_text(text)
    done = await loadtest(
        "run", "u.py", "--url", "http://x/v1", "--api", "openai", "--duration", "1"
    )
    assert (done.status, said in done.err) == (2, True), done.err


@dataclass
class Asked:
    """One request as it came over the wire."""

    path: str
    token: str
    body: dict[str, Any]


@asynccontextmanager
async def listening(asked: list[Asked]) -> AsyncIterator[int]:
    """A server that keeps what it is asked and answers one token."""

    async def answer(request: Request) -> Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        asked.append(Asked(request.url.path, token, await request.json()))
        body = {"response": "x", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        return JSONResponse(body)

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


TENANTS = [
    {"name": "a", "token": "ta", "account": "acc1", "output_tokens": 1, "stream": False},
    {"name": "b", "token": "tb", "model": "other", "adapter": "style", "output_tokens": 2,
     "images": 2, "sizes": ["16x16"], "stream": False},
]  # fmt: skip


@pytest.mark.parametrize("api", ["workers-ai", "openai"])
async def test_each_tenant_asks_under_its_own_name(api: str) -> None:
    asked: list[Asked] = []
    async with listening(asked) as port:
        target = {"url": f"http://127.0.0.1:{port}/base", "api": api, "account": "acc0"}
        load = {"concurrency": 2}
        scenario = {"target": target, "load": load, "requests": 12, "tenants": TENANTS}
        summary, _ = await conduct(build({**scenario, "duration": 20}), calibration=0)
    assert summary["errors"] == 0
    found = {each.token: each for each in asked}
    a, b = found["ta"], found["tb"]
    assert len(found) == 2
    if api == "workers-ai":
        model = "@cf/meta/llama-3.2-11b-vision-instruct"
        assert a.path == f"/base/accounts/acc1/ai/run/{model}"
        assert b.path == "/base/accounts/acc0/ai/run/other"
        assert b.body["lora"] == "style"
    else:
        assert a.path == b.path == "/base/chat/completions"
        assert b.body["model"] == "style"  # vLLM's way of asking for an adapter
    assert (a.body["max_tokens"], b.body["max_tokens"]) == (1, 2)
    kinds = [part["type"] for part in b.body["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"]


OPTIONS = """
from loadtest.users import User, task

class Asker(User):
    @task
    async def ask(self):
        await self.ai.run(
            f"{self.shared(40, 'law')} {self.prompt(5)}",
            images=[self.picture("16x16")], adapter="style", model="other", temperature=0.5,
            tools=[{"name": "add", "description": "adds", "parameters": {"type": "object"}}],
            max_tokens=1,
        )
"""


async def test_a_user_sends_pictures_tools_adapters_and_shared_prefixes(tmp_path: Path) -> None:
    (tmp_path / "u.py").write_text(OPTIONS)
    asked: list[Asked] = []
    async with listening(asked) as port:
        target = {"url": f"http://127.0.0.1:{port}", "api": "workers-ai", "account": "a"}
        scenario = {"target": {**target, "token": "t"}, "load": {"concurrency": 3}}
        users = {"users": str(tmp_path / "u.py"), "requests": 9, "duration": 20}
        await conduct(build({**scenario, **users}), calibration=0)
    bodies = [each.body for each in asked]
    assert {each.path for each in asked} == {"/accounts/a/ai/run/other"}
    assert all((b["lora"], b["temperature"]) == ("style", 0.5) for b in bodies)
    assert all(b["tools"][0]["name"] == "add" for b in bodies)
    texts = [b["messages"][0]["content"][1]["text"].split() for b in bodies]
    assert len({tuple(words[:40]) for words in texts}) == 1
    assert len({tuple(words[40:]) for words in texts}) == len(texts) == 9


async def test_an_exception_of_a_user_ends_the_run_loudly(
    loadtest: Command, tmp_path: Path
) -> None:
    (tmp_path / "u.py").write_text(USERS.replace("reply.ok and", "reply.text == 'no' and"))
    async with mocked() as server:
        flags = ("--api", "openai", "--concurrency", "2", "--duration", "20")
        done = await loadtest("run", "u.py", "--url", server.target()["url"], *flags)
    assert (done.status, "a user failed: AssertionError" in done.err) == (3, True), done.err


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,20,4
2023-11-16 18:15:46.8805900,8,0
2023-11-16 18:15:47.0805900,12,6
"""
MOONCAKE = """{"timestamp": 400, "input_length": 530, "output_length": 6, "hash_ids": [7, 9]}
{"timestamp": 0, "input_length": 520, "output_length": 4, "hash_ids": [7, 8]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,20,4,24,Conversation log
5.4,GPT-4,12,6,18,Conversation log
"""
ACCESS = """2026-11-22 10:00:01,000 INFO serving.access {"id":"1","duration":1.0,"usage":\
{"prompt_tokens":20,"completion_tokens":4,"cached_tokens":0}}
2026-11-22 10:00:01,100 INFO serving.cluster ready
2026-11-22 10:00:01,900 INFO serving.access {"id":"2","duration":1.5,"usage":\
{"prompt_tokens":1613,"completion_tokens":6,"cached_tokens":0,"image_tokens":1601}}
"""


@pytest.mark.parametrize(
    ("kind", "text", "lengths"),
    [
        ("azure", AZURE, [20, 12]),
        ("mooncake", MOONCAKE, [520, 530]),
        ("burstgpt", BURSTGPT, [20, 12]),
        ("access-log", ACCESS, [20, 12]),
    ],
)
async def test_a_trace_is_replayed_when_and_as_long_as_recorded(
    kind: str, text: str, lengths: list[int], tmp_path: Path
) -> None:
    (tmp_path / "trace").write_text(text)
    load = {"trace": {"file": str(tmp_path / "trace"), "format": kind, "speed": 2}}
    async with mocked() as server:
        with Writer(tmp_path / "r.jsonl") as writer:
            await conduct(server.scenario(load=load), [writer], calibration=0)
    records = sorted(read_records(tmp_path / "r.jsonl"), key=lambda record: record.intended)
    assert [record.intended for record in records] == [0.0, pytest.approx(0.2, abs=1e-3)]
    assert [record.prompt_tokens for record in records] == lengths
    assert [record.output_tokens for record in records] == [4, 6]
    # Mooncake's first block of 512 is the same in both.
    assert records[1].cached_tokens == (512 if kind == "mooncake" else 0)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "TIMESTAMP,ContextTokens\nx,y\n"])
def test_what_is_not_a_trace_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(UsageError):
        read_trace(tmp_path / "t", "azure")
