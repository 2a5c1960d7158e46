"""The licence gate: an account agrees once, for all its tokens and all replicas."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serving.cluster.tenants import Tenants
from serving.gateway.agreement import Agreements
from serving.settings import Settings
from serving.tenancy import accounts, tables
from serving.tenancy.agreements import Register
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN, Service, serving

HI = {"prompt": "hi"}
OTHER = "b" * 32
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


@pytest.mark.parametrize(
    ("gate", "gated"),
    [("false", ()), ("true", (ACCOUNT, OTHER)), (f"{'a' * 32},{OTHER}", (OTHER,))],
)
async def test_the_gate_is_for_none_all_or_some_accounts(
    settings: Settings, gate: str, gated: tuple[str, ...]
) -> None:
    tenants = Tenants(settings.model_copy(update={"licence_gate": gate}))
    try:
        async with serving(tenants, agreements=tenants.agreements()) as service:
            with tenants.tenancy.database.begin() as connection:
                accounts.create(connection, "test", "another", id_=OTHER)
            _, value = service.token(OTHER)
            for token, account in ((TOKEN, ACCOUNT), (value, OTHER)):
                response = await service.run(token, account, **HI)
                assert response.status_code == (403 if account in gated else 200)
    finally:
        tenants.close()


async def test_agreeing_is_each_accounts_own(tenants: Tenants) -> None:
    async with serving(tenants, agreements=gate(tenants)) as service:
        refusal(await service.run(**AGREE))
        other = service.account()
        _, value = service.token(other)
        refusal(await service.run(value, other, **HI))
        refusal(await service.run(value, other, **AGREE))
        assert (await service.run(value, other, **HI)).status_code == 200
