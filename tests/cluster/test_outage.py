"""What HAProxy, configured as Ray Serve configures it, says when no replica answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anthropic
import cloudflare
import openai
import pytest
from ray.serve._private import haproxy
from ray.serve._private.haproxy import (
    BackendConfig,
    HAProxyApi,
    HAProxyConfig,
    ServerConfig,
)

from serving.cluster import outage
from tests.cluster import test_affinity
from tests.cluster.test_affinity import ONE, Proxy, Replica, patched, running

__all__ = ["patched"]  # the fixture


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running(tmp_path, 2) as made:
        yield made


@pytest.fixture
async def address(proxy: Proxy) -> str:
    """Of a proxy whose replicas are all gone."""
    for each in proxy.replicas.values():
        each.server.close()
    return str(proxy.client.base_url)


async def test_callers_are_told_to_come_back_when_there_is_no_replica(
    proxy: Proxy, address: str
) -> None:
    answers = [await proxy.client.post(ONE, json={"prompt": "hi"}) for _ in range(2)]
    for each in answers:
        assert (each.status_code, each.headers["retry-after"]) in [(503, "1"), (503, "2")]
        assert each.headers["content-type"] == "application/json"
        body = each.json()
        assert (body["success"], body["result"], body["messages"]) == (False, {}, [])
        assert body["errors"][0]["code"] == 3050
        assert body["errors"][0]["message"].startswith(
            "AiError: AiError: Service temporarily unavailable, please try again. ("
        )
    assert answers[0].content != answers[1].content, "the id is the same"


async def test_they_are_told_to_wait_as_long_as_there_has_been_no_replica(
    proxy: Proxy, address: str
) -> None:
    began = time.monotonic()
    await asyncio.sleep(5)
    answer = await proxy.client.post(ONE, json={"prompt": "hi"})
    lasted = time.monotonic() - began
    # HAProxy, which counts whole seconds, notices the outage within its interval of checks.
    assert lasted - 4 <= int(answer.headers["retry-after"]) <= lasted + 1
    assert int(answer.headers["retry-after"]) > 1


async def test_another_replica_may_answer_at_once(proxy: Proxy) -> None:
    """However long they have been up."""
    await asyncio.sleep(3)
    for each in proxy.replicas.values():
        each.server.close()
    answer = await proxy.client.post(ONE, json={"prompt": "hi"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_it_is_an_error_of_each_dialect(address: str) -> None:
    """To their own clients, which try again by themselves as often as they are told to."""
    options = {"api_key": "k", "base_url": address, "max_retries": 0}
    messages = [{"role": "user", "content": "hi"}]
    async with openai.AsyncOpenAI(**options) as client:
        with pytest.raises(openai.InternalServerError) as by_openai:
            await client.chat.completions.create(model="m", messages=messages)
    assert (by_openai.value.code, by_openai.value.type) == ("3050", "api_error")
    async with anthropic.AsyncAnthropic(**options) as client:
        with pytest.raises(anthropic.InternalServerError, match="try again"):
            await client.messages.create(model="m", messages=messages, max_tokens=1)
    options["api_token"] = options.pop("api_key")
    async with cloudflare.AsyncCloudflare(**options) as client:
        with pytest.raises(cloudflare.InternalServerError) as by_cloudflare:
            await client.ai.run("@cf/m", account_id="0" * 32, prompt="hi")
    assert by_cloudflare.value.errors[0].code == 3050


async def test_what_a_replica_ended_on_is_not_given_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answer = [], Replica.answer

    async def end(
        each: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            begun.append(each.name)
            return writer.close()
        reader.feed_data(head)  # HAProxy asks whether it lives
        return await answer(each, reader, writer)

    monkeypatch.setattr(Replica, "answer", end)
    async with running(tmp_path, 2) as made:
        told = await made.client.post(ONE, json={"prompt": "hi"})
    assert (told.status_code, told.headers["retry-after"]) == (502, "1")
    assert told.json()["errors"][0]["code"] == 3050
    assert len(begun) == 1


async def test_an_answer_that_does_not_begin_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = partial(HAProxyConfig, timeout_server_s=1)
    monkeypatch.setattr(test_affinity, "HAProxyConfig", impatient)
    async with running(tmp_path, 2) as made:
        answer = await made.client.post(f"{ONE}/slow", json={"prompt": "hi"})
    assert answer.status_code == 504
    assert answer.json()["errors"] == [{"code": 2014, "message": "Provider request timeout"}]


def test_replicas_stay_known_while_serve_names_none(tmp_path: Path) -> None:
    """As it does for seconds when it builds an application anew."""
    files = {name: str(tmp_path / name) for name in ("socket_path", "server_state_file")}
    api = HAProxyApi(HAProxyConfig(**files, metrics_enabled=False), None, str(tmp_path / "cfg"))
    server = ServerConfig("SERVER", "127.0.0.1", 30000)

    def written(*backends: BackendConfig) -> str:
        api.set_backend_configs({each.name: each for each in backends})
        api._generate_config_file_internal()
        return (tmp_path / "cfg").read_text()

    def app(*servers: ServerConfig) -> BackendConfig:
        return BackendConfig("app", "/", servers=list(servers))

    assert "server SERVER" in written(app(server))
    assert "server SERVER" in written(app())
    other = written(app(ServerConfig("OTHER", "127.0.0.1", 30001)))
    assert "server OTHER" in other
    assert "server SERVER" not in other
    assert "server OTHER" not in written(), "the application is gone"


def test_another_template_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", "defaults\n")
    with pytest.raises(RuntimeError, match="template has changed"):
        outage.apply()
