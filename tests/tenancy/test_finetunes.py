"""LoRA adapters of accounts: made, listed, uploaded and asked for, by Cloudflare's own client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from cloudflare import APIStatusError, AsyncCloudflare

from serving.adapters import targets
from serving.catalog import DEFAULT, Catalog, Model
from serving.cluster.finetunes import Finetunes
from serving.cluster.tenants import Tenants
from serving.settings import Settings
from serving.tenancy import finetunes
from tests.contract import javascript
from tests.contract.test_node import ASK
from tests.tenancy.adapters import PREFIX, arrays, config, file
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN, Service, serving
from tests.tenancy.test_metering import stored

CHECKPOINT = next(iter(Catalog.read(DEFAULT).models.values())).checkpoint
TARGETS = targets.read(CHECKPOINT)
# For what does not depend on the database.
on_sqlite = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
HI = [{"role": "user", "content": "hi"}]
WEIGHTS = file(arrays(TARGETS, ["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"]))


def model(**engine: Any) -> Model:
    engine = {"enable_lora": True, "max_lora_rank": 8} | engine
    return Model(id=MODEL, checkpoint=CHECKPOINT, context_window=2048, max_images=2, engine=engine)


@pytest.fixture
async def service(tenants: Tenants, settings: Settings) -> AsyncIterator[Service]:
    folder = settings.state_dir / "adapters"
    kept = Finetunes(tenants.tenancy.database, Catalog(model()), folder)
    async with serving(tenants, model=model(), adapters=kept) as made:
        yield made


def client(service: Service, token: str = TOKEN) -> AsyncCloudflare:
    url = f"http://127.0.0.1:{service.port}/client/v4"
    return AsyncCloudflare(api_token=token, base_url=url, max_retries=0)


async def upload(
    service: Service, key: str, name: str, data: bytes, account: str = ACCOUNT, token: str = TOKEN
) -> Any:
    async with client(service, token) as cloudflare:
        return await cloudflare.ai.finetunes.assets.create(
            key, account_id=account, file=data, file_name=name
        )


async def make(service: Service, name: str = "mine", account: str = ACCOUNT, **rest: Any) -> Any:
    token = rest.pop("token", TOKEN)
    async with client(service, token) as cloudflare:
        return await cloudflare.ai.finetunes.create(
            account_id=account, model=MODEL, name=name, **rest
        )


async def complete(service: Service, key: str, **rest: Any) -> None:
    await upload(service, key, "adapter_config.json", config(), **rest)
    await upload(service, key, "adapter_model.safetensors", WEIGHTS, **rest)


def code(error: pytest.ExceptionInfo[APIStatusError]) -> tuple[int, int]:
    return error.value.status_code, error.value.response.json()["errors"][0]["code"]


def words(error: pytest.ExceptionInfo[APIStatusError]) -> str:
    said: str = error.value.response.json()["errors"][0]["message"]
    return said


async def test_an_adapter_is_made_uploaded_listed_and_used_by_name_and_id(
    service: Service, settings: Settings
) -> None:
    made = await make(service, description="for labels")
    assert (made.name, made.model, made.public) == ("mine", MODEL, False)
    assert (await upload(service, "mine", "adapter_config.json", config(base_model="x"))).success
    await upload(service, made.id, "adapter_model.safetensors", WEIGHTS)
    async with client(service) as cloudflare:
        listed: Any = await cloudflare.ai.finetunes.list(account_id=ACCOUNT)
        assert [(one.id, one.description) for one in listed] == [(made.id, "for labels")]
        assert [one async for one in cloudflare.ai.finetunes.public.list(account_id=ACCOUNT)] == []
    for key in ("mine", made.id, made.id.upper()):
        response = await service.run(lora=key)
        assert response.status_code == 200
        adapter = service.engine.generations[-1].adapter
        assert adapter is not None
        assert adapter.id == made.id
        assert (adapter.folder / "adapter_model.safetensors").read_bytes() == WEIGHTS
        written = json.loads((adapter.folder / "adapter_config.json").read_text())
        assert written["target_modules"] == ["down_proj", "q_proj"]
        assert "base_model" not in written
        assert stored(service)[response.headers["cf-ai-req-id"]].adapter == made.id
    kept = settings.state_dir / "adapters" / "files" / made.id
    assert list(kept.iterdir()) == []


@on_sqlite
@pytest.mark.parametrize(
    ("route", "body", "says"),
    [
        ("chat/completions", {"messages": HI}, "model_not_found"),
        ("completions", {"prompt": "hi"}, "model_not_found"),
        ("responses", {"input": "hi"}, "model_not_found"),
        ("messages", {"messages": HI}, None),
    ],
)
async def test_the_other_dialects_take_adapters_too(
    service: Service, route: str, body: dict[str, Any], says: str | None
) -> None:
    made = await make(service)
    await complete(service, made.id)
    async with service.client() as http:
        url = f"/client/v4/accounts/{ACCOUNT}/ai/v1/{route}"
        response = await http.post(url, json={"model": MODEL, "lora": "mine", **body})
        assert response.status_code == 200
        assert service.engine.generations[-1].adapter.id == made.id
        response = await http.post(url, json={"model": MODEL, "lora": "theirs", **body})
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5007)
        assert response.json()["error"].get("code") == says
    assert len(service.engine.generations) == 1


@on_sqlite
async def test_cloudflares_client_for_node_makes_and_uses_an_adapter(service: Service) -> None:
    for mark in javascript.INSTALLED:
        if mark.args[0]:
            pytest.skip(mark.kwargs["reason"])
    files = {"adapter_config.json": config(), "adapter_model.safetensors": WEIGHTS}
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    found = await asyncio.to_thread(
        javascript.run,
        "cloudflare",
        ("finetunes",),
        ASK,
        MODEL=MODEL,
        HOST=f"http://127.0.0.1:{service.port}",
        ACCOUNT=ACCOUNT,
        TOKEN=TOKEN,
        FILES=json.dumps(encoded),
    )
    seen = found["finetunes"]
    made = seen["made"]
    assert (made["name"], made["model"], made["description"]) == ("labels", MODEL, "d")
    assert [each["id"] for each in seen["listed"]] == [made["id"]]
    assert seen["public"] == []
    assert seen["text"] == "Say hello."
    assert service.engine.generations[-1].adapter.id == made["id"]
    assert (seen["unfinished"]["status"], seen["unknown"]["status"]) == (400, 400)
    assert "3039" in seen["unfinished"]["message"]
    assert "5007" in seen["unknown"]["message"]


async def test_nobody_else_sees_or_uses_an_adapter(service: Service) -> None:
    made = await make(service)
    await complete(service, made.id)
    other = service.account()
    _, token = service.token(other)
    async with client(service, token) as cloudflare:
        assert await cloudflare.ai.finetunes.list(account_id=other) == []
    for key in ("mine", made.id):
        response = await service.run(token, other, lora=key)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5007)
        with pytest.raises(APIStatusError) as error:
            await upload(service, key, "adapter_config.json", config(), other, token)
        assert code(error) == (400, 5007)
    assert service.engine.generations == []
    same = await make(service, account=other, token=token)  # a name is one's own
    assert same.id != made.id


async def test_only_operators_make_public_adapters_and_everybody_uses_them(
    service: Service,
) -> None:
    other = service.account()
    _, token = service.token(other)
    with pytest.raises(APIStatusError) as error:
        await make(service, account=other, token=token, public=True)
    assert code(error) == (403, 9109)
    _, operator = service.token(ACCOUNT, role="admin")
    made = await make(service, "for all", token=operator, public=True)
    await complete(service, made.id)
    async with client(service, token) as cloudflare:
        pages = cloudflare.ai.finetunes.public.list(account_id=other, limit=5, order_by="name")
        assert [one.name async for one in pages] == ["for all"]
    assert (await service.run(token, other, lora="for all")).status_code == 200
    with pytest.raises(APIStatusError) as error:
        await upload(service, made.id, "adapter_config.json", config(), other, token)
    assert code(error) == (400, 5007)


async def test_an_unknown_or_unfinished_adapter_is_refused_by_the_codes(service: Service) -> None:
    response = await service.run(lora="nothing")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5007)
    assert "No such finetune nothing" in response.text
    made = await make(service)
    for upload_one in (None, "adapter_model.safetensors"):
        if upload_one:
            await upload(service, made.id, upload_one, WEIGHTS)
        response = await service.run(lora="mine")
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 3039)
    assert service.engine.generations == []


@on_sqlite
async def test_a_model_without_adapters_refuses_them(tenants: Tenants, settings: Settings) -> None:
    plain = model(enable_lora=False)
    kept = Finetunes(tenants.tenancy.database, Catalog(plain), settings.state_dir / "adapters")
    async with serving(tenants, model=plain, adapters=kept) as made:
        response = await made.run(lora="mine")
        assert (response.status_code, response.json()["errors"][0]["code"]) == (405, 5005)
        with pytest.raises(APIStatusError) as error:
            await make(made)
        assert code(error) == (405, 5005)


@on_sqlite
@pytest.mark.parametrize("taken", [True, False])
async def test_the_catalogue_says_whether_a_model_takes_adapters(
    tenants: Tenants, taken: bool
) -> None:
    async with serving(tenants, model=model(enable_lora=taken)) as made, made.client() as http:
        url = f"/client/v4/accounts/{ACCOUNT}/ai/models/search"
        (entry,) = (await http.get(url)).json()["result"]
    said = {each["property_id"]: each["value"] for each in entry["properties"]}
    assert said.get("lora") == ("true" if taken else None)


@on_sqlite
async def test_names_and_numbers_of_adapters_are_limited(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "a/b", "../x", "x" * 101, "123e4567-e89b-12d3-a456-426614174000", "\n"):
        with pytest.raises(APIStatusError) as error:
            await make(service, name)
        assert code(error) == (400, 5006)
    monkeypatch.setattr(finetunes, "MOST", 2)
    for name, reason in (("n0", ""), ("n0", "of the name"), ("n1", ""), ("n2", "the most")):
        if not reason:
            await make(service, name)
            continue
        with pytest.raises(APIStatusError) as error:
            await make(service, name)
        assert code(error) == (400, 5006)
        assert reason in words(error)


REFUSED_SETTINGS = {
    "not JSON": b"\x80\x04pickle",
    "not an object": b"[1]",
    "nested deeply": b"[" * 60_000,
    "another method": config(peft_type="IA3"),
    "a rank too high": config(r=16),
    "no rank": config(r=0),
    "a rank of another type": config(r="4"),
    "an endless scale": config(lora_alpha=1e300),
    "DoRA": config(use_dora=True),
    "whole modules": config(modules_to_save=["lm_head"]),
    "ranks by pattern": config(rank_pattern={"(a+)+$": 2}),
    "a bias": config(bias="all"),
    "another base": config(init_lora_weights="pissa"),
    "another model": config(model_type="gemma"),
}


@on_sqlite
async def test_settings_that_cannot_be_served_are_refused(service: Service) -> None:
    await make(service)
    for case, data in REFUSED_SETTINGS.items():
        with pytest.raises(APIStatusError) as error:
            await upload(service, "mine", "adapter_config.json", data)
        assert code(error) == (400, 5006), case
        assert "adapter_config.json: " in words(error), case
    await complete(service, "mine")  # a good one may follow
    assert (await service.run(lora="mine")).status_code == 200


Q = "layers.0.self_attn.q_proj"
GOOD = arrays(TARGETS, [Q])


def only(half: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in GOOD.items() if f"lora_{half}" in name}


def renamed(module: str) -> dict[str, np.ndarray]:
    return {name.replace(f"language_model.{Q}", module): each for name, each in GOOD.items()}


REFUSED_WEIGHTS = {
    "a pickle": (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
    "nothing": (b"", "not a safetensors file"),
    "a header longer than the file": ((2**40).to_bytes(8, "little") + b"{}", "too long"),
    "a header that is no object": ((2).to_bytes(8, "little") + b"[]", "cannot be read"),
    "no tensors": (file({}), "there are no tensors"),
    "cut short": (file(GOOD)[:-1], "do not fill the file"),
    "something behind": (file(GOOD) + b"x", "do not fill the file"),
    "an overlap": (
        file(
            GOOD,
            **{n: {"dtype": "F32", "shape": [4, 256], "data_offsets": [0, 4096]} for n in GOOD},
        ),
        "does not fit its shape",
    ),
    "endless shapes": (
        file({}, x={"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}),
        "does not fit its shape",
    ),
    "negative shapes": (
        file({}, x={"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}),
        "two dimensions",
    ),
    "integers": (
        file({}, x={"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}),
        "must be one of F32",
    ),
    "half of a pair": (file(only("A")), "lacks its lora_A or lora_B"),
    "another rank": (file(arrays(TARGETS, [Q], rank=2)), "has rank 2"),
    "another shape": (
        file(GOOD | {f"{PREFIX}{Q}.lora_B.weight": np.zeros((8, 4), np.float32)}),
        "must have shapes",
    ),
    "cross-attention": (
        file(renamed("language_model.layers.1.cross_attn.q_proj")),
        "cross-attention takes no adapters",
    ),
    "the vision tower": (
        file(renamed("vision_model.transformer.layers.0.mlp.fc1")),
        "vision tower takes no adapters",
    ),
    "a layer that is not there": (
        file(renamed("language_model.layers.99.self_attn.q_proj")),
        "no such module",
    ),
}


@on_sqlite
async def test_weights_that_cannot_be_served_are_refused(
    service: Service, settings: Settings
) -> None:
    made = await make(service)
    await upload(service, "mine", "adapter_config.json", config())
    for case, (data, reason) in REFUSED_WEIGHTS.items():
        with pytest.raises(APIStatusError) as error:
            await upload(service, "mine", "adapter_model.safetensors", data)
        assert code(error) == (400, 5006), case
        assert reason in words(error), case
    kept = settings.state_dir / "adapters" / "files" / made.id
    assert len(list(kept.iterdir())) == 1  # the settings only
    assert (await service.run(lora="mine")).json()["errors"][0]["code"] == 3039


@on_sqlite
async def test_the_second_file_must_fit_the_first_whichever_that_is(service: Service) -> None:
    await make(service)
    await upload(service, "mine", "adapter_model.safetensors", WEIGHTS)
    with pytest.raises(APIStatusError) as error:
        await upload(service, "mine", "adapter_config.json", config(r=8))
    assert "has rank 4, adapter_config.json says 8" in words(error)
    await upload(service, "mine", "adapter_config.json", config())
    with pytest.raises(APIStatusError) as error:
        await upload(service, "mine", "adapter_config.json", config())
    assert "complete" in words(error)


@on_sqlite
async def test_uploads_are_limited_in_name_and_size(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(service)
    for name in ("../adapter_config.json", "adapter_model.bin", "/etc/passwd", ""):
        with pytest.raises(APIStatusError) as error:
            await upload(service, "mine", name, b"x")
        assert code(error) == (400, 5006)
    with pytest.raises(APIStatusError) as error:
        await upload(service, "mine", "adapter_config.json", b" " * 70_000)
    assert code(error) == (413, 3006)
    monkeypatch.setattr("serving.gateway.finetunes._MAX_UPLOAD", 100_000)
    with pytest.raises(APIStatusError) as error:
        await upload(service, "mine", "adapter_model.safetensors", bytes(200_000))
    assert code(error) == (413, 3006)
    path = f"/client/v4/accounts/{ACCOUNT}/ai/finetunes/mine/finetune-assets"
    async with service.client() as http:
        for body, kind in ((b"", "text/plain"), (b"x", "multipart/form-data"), (b"{}", "a/b")):
            response = await http.post(path, content=body, headers={"content-type": kind})
            assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5006)
