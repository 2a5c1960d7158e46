"""An adapter from upload to answer: Cloudflare's client, the gateway, a database, a real engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cloudflare import APIStatusError, AsyncCloudflare

from serving.adapters import targets
from serving.catalog import Catalog, Model
from serving.cluster.finetunes import Finetunes
from serving.cluster.tenants import Tenants
from serving.core import Receipt
from serving.engine.vllm import VllmEngine
from serving.gateway.app import Gateway
from serving.settings import Settings
from tests.tenancy.adapters import arrays, config, file
from tests.tenancy.conftest import ACCOUNT, TOKEN

ASKED: dict[str, Any] = {"prompt": "What is the capital of France?", "max_tokens": 24}
ENGINE = {
    "enable_lora": True,
    "max_loras": 1,
    "max_lora_rank": 8,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 1 << 26,
}


def small() -> Model:
    """The repository's checkpoint, with room for one adapter at a time."""
    model = next(iter(Catalog.read().models.values()))
    return model.model_copy(update={"engine": {**model.engine, **ENGINE}})


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[tuple[AsyncCloudflare, list[Receipt], Path]]:
    """A replica without Ray; its client, its receipts, its folder of adapters."""
    settings = Settings(state_dir=tmp_path / "state", account_id=ACCOUNT, api_token=TOKEN)
    model, tenants, receipts = small(), Tenants(settings), []
    engine = VllmEngine(model)
    kept = Finetunes(tenants.tenancy.database, Catalog(model), tmp_path / "adapters")
    gateway = Gateway(
        engine, Catalog(model), tenants.identity, observers=[receipts.append], adapters=kept
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(gateway, log_level="error", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/client/v4"
    try:
        async with AsyncCloudflare(api_token=TOKEN, base_url=url, max_retries=0) as client:
            yield client, receipts, tmp_path / "adapters"
    finally:
        server.should_exit = server.force_exit = True
        await task
        engine.close()
        tenants.close()


async def test_adapters_change_the_answers_of_those_who_ask_for_them(tmp_path: Path) -> None:
    """One that is almost zero, one that is loud, and none; at the same time, with one slot."""
    model = small()
    places = targets.read(model.checkpoint)
    everywhere = list(places)
    async with running(tmp_path) as (client, receipts, folder):

        async def ask(**fields: Any) -> str:
            answer: Any = await client.ai.run(
                model.id, account_id=ACCOUNT, **ASKED, extra_body={"temperature": 0, **fields}
            )
            return str(answer["response"])

        plain = await ask()
        ids = {}
        for name, loud in (("silent", 0.0), ("loud", 0.2), ("broken", 0.1)):
            made = await client.ai.finetunes.create(account_id=ACCOUNT, model=model.id, name=name)
            ids[name] = made.id
            data = file(arrays(places, everywhere, loud=loud))
            for file_name, content in (
                ("adapter_config.json", config()),
                ("adapter_model.safetensors", data),
            ):
                await client.ai.finetunes.assets.create(
                    made.id, account_id=ACCOUNT, file=content, file_name=file_name
                )
        changed = await ask(lora="loud")
        assert changed != plain
        assert await ask(lora="silent") == plain
        many = await asyncio.gather(
            *(ask(lora=name) for name in ("loud", "silent", "", "loud", "silent", ""))
        )
        assert many == [changed, plain, plain] * 2
        assert [receipt.adapter for receipt in receipts if receipt.route == "ai/run"][:3] == [
            "",
            ids["loud"],
            ids["silent"],
        ]
        # A folder that is lost fails the one request that needs it, and nothing else.
        (lost,) = [
            path for path in folder.glob("adapters/*/*.safetensors") if path.read_bytes() == data
        ]
        lost.unlink()
        with pytest.raises(APIStatusError) as error:
            await ask(lora="broken")
        assert error.value.status_code == 500
        assert await ask() == plain
