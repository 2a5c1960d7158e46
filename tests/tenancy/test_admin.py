"""The admin API: what it does, who may, and what it leaves in the audit."""

from typing import Any

import httpx
import pytest
from starlette.routing import Route

from serving.tenancy import tables
from tests.tenancy.conftest import ACCOUNT, Service

ACCOUNTS = "/admin/v1/accounts"


def operator(service: Service, account: str = ACCOUNT, role: str = "admin") -> httpx.AsyncClient:
    _, value = service.token(account, role=role, scopes=["ai", "admin"])
    return service.client(value)


def result(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["result"]


def said(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


async def test_a_tenant_from_beginning_to_end(service: Service) -> None:
    async with operator(service) as client:
        account = result(await client.post(ACCOUNTS, json={"name": "team"}))["id"]
        url = f"{ACCOUNTS}/{account}"
        token = result(await client.post(f"{url}/tokens", json={"name": "app"}))
        assert (await service.run(token["value"], account)).status_code == 200
        (listed,) = result(await client.get(f"{url}/tokens"))
        assert "value" not in listed
        limits = {"requests_per_minute": 10, "usd_per_day": "2.50"}
        result(await client.put(f"{url}/limits", json=limits))
        assert result(await client.get(f"{url}/limits"))["requests_per_minute"] == 10
        result(await client.delete(f"{url}/tokens/{token['id']}"))
        result(await client.patch(url, json={"disabled": True}))
        assert result(await client.get(url))["disabled_at"] is not None
        actions = [row["action"] for row in result(await client.get("/admin/v1/audit"))]
        assert actions[:5] == [
            "account.disable",
            "token.revoke",
            "limits.set",
            "token.create",
            "account.create",
        ]


async def test_the_audit_says_who(service: Service) -> None:
    token, value = service.token(ACCOUNT, role="admin", scopes=["admin"])
    async with service.client(value) as client:
        result(await client.post(ACCOUNTS, json={"name": "team"}))
        row = result(await client.get("/admin/v1/audit", params={"limit": 1}))[0]
    assert (row["actor"], row["detail"]["name"]) == (token.id, "team")


async def test_a_member_administers_the_own_account_only(service: Service) -> None:
    """And cannot make an admin of themselves, nor more room."""
    mine, theirs = service.account(), service.account()
    async with operator(service, mine, "member") as client:
        own = f"{ACCOUNTS}/{mine}"
        assert result(await client.post(f"{own}/tokens", json={"name": "app"}))
        assert said(await client.post(f"{own}/tokens", json={"name": "x", "role": "admin"})) == (
            403,
            9109,
        )
        assert said(await client.put(f"{own}/limits", json={})) == (403, 9109)
        assert said(await client.patch(own, json={"disabled": False})) == (403, 9109)
        for url in (ACCOUNTS, f"{ACCOUNTS}/{theirs}", "/admin/v1/usage", "/admin/v1/audit"):
            assert said(await client.get(url)) == (403, 9109)


# What a request to a route needs besides its path.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "accounts"): {"name": "x"},
    ("PATCH", "{account}"): {"disabled": True},
    ("POST", "tokens"): {"name": "x"},
    ("PUT", "limits"): {},
}


def everything(service: Service) -> list[tuple[str, str, Any]]:
    """Every route of the app with its methods and bodies, as the app lists them."""
    routes = [route for route in service.tenants.admin.routes if isinstance(route, Route)]
    return [
        (method, route.path, BODIES.get((method, route.path.rsplit("/", 1)[-1])))
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    ]


def kept(service: Service) -> list[Any]:
    """Accounts, tokens and limits, but for when tokens were used."""
    with service.tenants.tenancy.database.begin() as connection:
        found = [
            [row._mapping for row in connection.execute(table.select())]
            for table in (tables.accounts, tables.tokens, tables.limits)
        ]
    return [[{**row, "last_used_at": None} for row in rows] for rows in found]


@pytest.mark.parametrize("role", ["member", "admin"])
async def test_nobody_finds_what_is_anothers(service: Service, role: str) -> None:
    """Every route there is with every other tenant's ids: 403 or 404, and nothing changes."""
    mine, theirs = service.account(), service.account()
    token, _ = service.token(theirs)
    async with operator(service, mine, role) as client:
        before, asked = kept(service), 0
        for method, path, body in everything(service):
            # An admin may do all with an account, but only with the tokens that are in it.
            accounts_of = {"member": (theirs, mine), "admin": (mine,)}[role]
            for account in accounts_of if "{token}" in path else accounts_of[:1]:
                if role == "admin" and "{token}" not in path:
                    continue
                url = path.format(account=account, token=token.id, month="2026-11")
                response = await client.request(method, url, json=body)
                assert response.status_code in (403, 404), (method, url, response.text)
                asked += 1
    assert asked >= {"member": 15, "admin": 3}[role]
    assert kept(service) == before


async def test_bad_input_is_told(service: Service) -> None:
    async with operator(service) as client:
        for body in ({}, {"name": ""}, {"name": "x", "id": "short"}, {"name": "x", "colour": 1}):
            assert said(await client.post(ACCOUNTS, json=body)) == (400, 5006)
        again = {"name": "again", "id": ACCOUNT}
        assert said(await client.post(ACCOUNTS, json=again)) == (400, 5006)
        assert said(await client.put(f"{ACCOUNTS}/{ACCOUNT}/limits", json={"weight": 0})) == (
            400,
            5006,
        )
        for name in ("a\0b", "a\nb", "x" * 201):
            assert said(await client.post(ACCOUNTS, json={"name": name})) == (400, 5006)
        limits = f"{ACCOUNTS}/{ACCOUNT}/limits"
        assert said(await client.put(limits, json={"tokens_per_day": 10**30})) == (400, 5006)
        over = {"name": "app", "expires_at": "2020-01-01T00:00:00Z"}
        assert said(await client.post(f"{ACCOUNTS}/{ACCOUNT}/tokens", json=over)) == (400, 5006)
        for many in ("-1", "0", "many", "1" + "0" * 30):
            assert said(await client.get("/admin/v1/audit", params={"limit": many})) == (400, 5006)
        for name in ("usage", "invoices/2026-11"):
            assert said(await client.get(f"{ACCOUNTS}/{'f' * 32}/{name}")) == (404, 7003)
        assert said(await client.get("/admin/v1/nothing")) == (404, 7003)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("from=yesterday", "'/from'"),
        ("period=week", "'hour' or 'day'"),
        ("by=colour", "group by account, token"),
        ("format=xml", "'json' or 'csv'"),
        ("form=csv", "'/form'"),
        ("from=2026-12-01&to=2026-11-01", "ends before it begins"),
    ],
)
async def test_a_question_about_usage_that_means_nothing_is_told_why(
    service: Service, query: str, words: str
) -> None:
    async with operator(service) as client:
        response = await client.get(f"{ACCOUNTS}/{ACCOUNT}/usage?{query}")
    assert said(response) == (400, 5006)
    assert words in response.json()["errors"][0]["message"]


async def test_errors_say_what_is_wrong_and_nothing_of_inference(service: Service) -> None:
    nobody = "f" * 32
    past = {"name": "app", "expires_at": "2020-01-01T00:00:00Z"}
    asked: list[tuple[str, str, Any, int, str]] = [
        ("POST", ACCOUNTS, {}, 400, "'/name' Field required"),
        ("POST", f"{ACCOUNTS}/{ACCOUNT}/tokens", past, 400, "'/expires_at' is over already"),
        ("GET", f"{ACCOUNTS}/{nobody}", None, 404, f"Could not route to account {nobody}, "),
        ("GET", f"{ACCOUNTS}/", None, 404, f"Could not route to {ACCOUNTS}/, "),
    ]
    async with operator(service) as client:
        for method, url, body, status, words in asked:
            response = await client.request(method, url, json=body)
            assert response.status_code == status, response.text
            assert response.json()["errors"][0]["message"].startswith(words)
            assert response.json()["result"] is None


async def test_a_table_without_rows_has_its_head(service: Service) -> None:
    query = "from=2020-01-01T00:00:00+01:00&to=2020-01-02&period=day&by=account,model&format=csv"
    async with operator(service) as client:
        empty = (await client.get(f"{ACCOUNTS}/{ACCOUNT}/usage?{query}")).text
        await service.run()
        service.tenants._ledger._ship()
        query = query.replace("2020", "2026", 1).replace("2020", "2036")
        full = (await client.get(f"{ACCOUNTS}/{ACCOUNT}/usage?{query}")).text
    assert empty.startswith("period,account,model,requests,")
    assert len(empty.splitlines()) == 1
    assert full.startswith(empty)
    assert len(full.splitlines()) == 2


@pytest.mark.parametrize("name", ["usage", "invoices/2026-11"])
async def test_what_was_used_is_shown(service: Service, name: str) -> None:
    await service.run()
    service.tenants._ledger._ship()
    async with operator(service) as client:
        found = result(await client.get(f"{ACCOUNTS}/{ACCOUNT}/{name}"))
        if name == "usage":
            assert found[0]["completion_tokens"] == 2
            csv = await client.get(f"{ACCOUNTS}/{ACCOUNT}/usage", params={"format": "csv"})
            assert csv.text.startswith("requests,")
        else:
            assert found["month"] == "2026-11"
            lines = await client.get(f"{ACCOUNTS}/{ACCOUNT}/{name}", params={"format": "csv"})
            assert lines.text.startswith("model,requests,")
            assert len(lines.text.splitlines()) == 2
