"""Requests that are legal JSON and that a database, or a type, might choke on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serving.catalog import Catalog
from serving.cluster.finetunes import Finetunes
from serving.cluster.tenants import Tenants
from serving.settings import Settings
from tests.tenancy import test_batch
from tests.tenancy import test_finetunes as lora
from tests.tenancy.conftest import ACCOUNT, MODEL

HOME = f"/client/v4/accounts/{ACCOUNT}/ai"
RUN = f"{HOME}/run/{MODEL}"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


async def post(client: httpx.AsyncClient, path: str, body: Any, **query: str) -> httpx.Response:
    """As JavaScript writes it: with halves of characters escaped."""
    return await client.post(path, content=json.dumps(body), params=query)


@pytest.fixture
async def client(tenants: Tenants, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of a replica with a queue and adapters."""
    model = lora.model()
    folder = settings.state_dir / "adapters"
    kept = Finetunes(tenants.tenancy.database, Catalog(model), folder)
    async with (
        test_batch.replica(tenants, model=model, adapters=kept, starts=False) as made,
        made.service.client() as http,
    ):
        yield http


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud83d", 5, [], {}, True, "x" * 100_000])
async def test_an_adapter_that_nobody_can_have(client: httpx.AsyncClient, name: Any) -> None:
    for path, body in (
        (RUN, HI),
        (f"{HOME}/v1/chat/completions", {"model": MODEL, **HI}),
        (f"{HOME}/v1/messages", {"model": MODEL, "max_tokens": 5, **HI}),
        (f"{HOME}/v1/responses", {"model": MODEL, "input": "hi"}),
    ):
        response = await post(client, path, {**body, "lora": name})
        assert response.status_code == 400, response.text
        assert response.json()["errors"][0]["code"] in (5006, 5007)


@pytest.mark.parametrize("text", ["a\0b", "\ud83d"])
async def test_texts_that_a_database_does_not_take(client: httpx.AsyncClient, text: str) -> None:
    made = {"model": MODEL, "name": "n", "description": text}
    requests = {"requests": [{"prompt": "hi", "external_reference": text}]}
    for response in (
        await post(client, f"{HOME}/finetunes", made),
        await post(client, f"{HOME}/finetunes", {**made, "name": text, "description": ""}),
        await post(client, RUN, requests, queueRequest="true"),
        await post(client, RUN, {"request_id": text}, queueRequest="true"),
        await client.get(f"{HOME}/finetunes/public", params={"orderBy": "a\0"}),
        await client.post(f"{HOME}/finetunes/a%00b/finetune-assets", files={"file": b"x"}),
    ):
        assert response.status_code < 500, response.text


async def test_a_prompt_with_a_nul_in_the_queue(client: httpx.AsyncClient) -> None:
    response = await post(client, RUN, {"prompt": "a\0b"}, queueRequest="true")
    assert response.status_code == 200
