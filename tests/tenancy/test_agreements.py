"""The licence gate: an account agrees once, for all its tokens and all replicas."""

from __future__ import annotations

from typing import Any

import httpx

from serving.cluster.tenants import Tenants
from serving.gateway.agreement import Agreements
from serving.tenancy import tables
from serving.tenancy.agreements import Register
from tests.tenancy.conftest import ACCOUNT, MODEL, Service, serving

HI = {"prompt": "hi"}
AGREE = {"prompt": " Agree "}


def gate(tenants: Tenants) -> Agreements:
    return Agreements(Register(tenants.tenancy.database))


def refusal(response: httpx.Response) -> str:
    """The text, of an error that is the gate's."""
    (error,) = response.json()["errors"]
    assert (response.status_code, error["code"]) == (403, 5016)
    return str(error["message"])


async def chat(service: Service) -> httpx.Response:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    async with service.client() as client:
        address = f"/client/v4/accounts/{ACCOUNT}/ai/v1/chat/completions"
        return await client.post(address, json=body)


async def test_an_account_agrees_once_to_the_licence(tenants: Tenants) -> None:
    async with serving(tenants, agreements=gate(tenants)) as service:
        text = refusal(await service.run(**HI))
        assert text.startswith("AiError: Model Agreement: Prior to using this model, you must s")
        refusal(await chat(service))
        text = refusal(await service.run(**AGREE))
        assert text.startswith("AiError: Model Agreement: Thank you for agreeing to this model")
        assert service.engine.started == []
        assert (await service.run(**HI)).status_code == 200
        assert (await service.run(**AGREE)).json()["result"]["response"] == " Agree"
        assert (await chat(service)).status_code == 200
    with tenants.tenancy.database.begin() as connection:
        (row,) = connection.execute(tables.agreements.select())
    assert (row.account, row.model) == (ACCOUNT, MODEL)
    assert row.token
    async with serving(tenants, agreements=gate(tenants)) as another:
        assert (await another.run(**HI)).status_code == 200


async def test_agreeing_is_each_accounts_own(tenants: Tenants) -> None:
    async with serving(tenants, agreements=gate(tenants)) as service:
        refusal(await service.run(**AGREE))
        other = service.account()
        _, value = service.token(other)
        refusal(await service.run(value, other, **HI))
        refusal(await service.run(value, other, **AGREE))
        assert (await service.run(value, other, **HI)).status_code == 200
