"""Addresses besides `ai/run/{model}`, headers, and what streams carry besides tokens."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from serving.core import Image, Message, Outcome
from serving.engine.fake import FakeEngine
from serving.gateway import pulse
from serving.tenancy import prices
from tests.contract.requests import PNG
from tests.gateway.conftest import ACCOUNT, MODEL, PATH, TOKEN, Service, listening
from tests.gateway.test_errors import error_of

HOME = f"/client/v4/accounts/{ACCOUNT}"
RUN, PROXY, CHAT = f"{HOME}/ai/run", f"{HOME}/ai/run/proxy", f"{HOME}/ai/v1/chat/completions"
AIG = f"/v1/{ACCOUNT}/my-gateway"
HELLO = {"messages": [{"role": "user", "content": "Say hello."}]}
BOUND = {"cf-consn-model-id": MODEL, "x-forwarded": "https://workers-binding.ai/run?version=3"}


async def get(service: Service, path: str, **options: Any) -> Any:
    async with service.client() as client:
        return await client.get(path, **options)


async def test_the_body_may_name_the_model(service: Service) -> None:
    response = await service.post({"model": MODEL, "input": HELLO}, RUN)
    assert response.json()["result"]["response"] == "Say hello."
    assert service.receipts[0].model == MODEL
    assert error_of(await service.post({"model": "@cf/x", "input": HELLO}, RUN))[:2] == (400, 5007)
    assert error_of(await service.post({"input": HELLO}, RUN))[:2] == (400, 5006)


async def test_a_workers_binding_gets_its_result_bare(service: Service) -> None:
    response = await service.post({"inputs": HELLO, "options": {}}, PROXY, headers=BOUND)
    assert response.json()["response"] == "Say hello."
    assert response.headers["content-type"] == "application/json"
    streamed = await service.post(
        {"inputs": {**HELLO, "stream": True}, "options": {}}, PROXY, headers=BOUND
    )
    assert streamed.text.startswith('data: {"response":"Say"}\n\n')
    assert {receipt.route for receipt in service.receipts} == {"ai/run/proxy"}


async def test_a_workers_binding_that_says_too_little(service: Service) -> None:
    assert error_of(await service.post({"inputs": HELLO}, PROXY))[:2] == (400, 3003)
    assert error_of(await service.post(HELLO, PROXY, headers=BOUND))[:2] == (400, 5006)
    unknown = {**BOUND, "cf-consn-model-id": "@cf/x"}
    assert error_of(await service.post({"inputs": HELLO}, PROXY, headers=unknown))[1] == 5007


@pytest.mark.parametrize("stream", [False, True])
async def test_a_workers_binding_sends_a_stream_of_bytes_as_the_body(
    service: Service, stream: bool
) -> None:
    """Here that can only be the picture; the other inputs are in the address it was sent to."""
    inputs = quote(json.dumps({"prompt": "What colour?", "stream": stream}))
    forwarded = f"https://workers-binding.ai/run?version=3&userInputs={inputs}"
    headers = {**BOUND, "x-forwarded": forwarded, "content-type": "application/octet-stream"}
    async with service.client() as client:
        response = await client.post(PROXY, content=PNG, headers=headers)
        assert response.status_code == 200
        seen = Message("user", (Image(PNG), "What colour?"))
        assert service.engine.generations[0].prompt == (seen,)
        assert "colour?" in response.text
        assert stream == response.text.startswith("data: ")
        empty = await client.post(PROXY, content=b"", headers=headers)
        assert error_of(empty)[:2] == (400, 8006)
        for bad in ("[]", "{", '{"prompt": 1}'):
            headers["x-forwarded"] = f"https://workers-binding.ai/run?userInputs={quote(bad)}"
            found = await client.post(PROXY, content=PNG, headers=headers)
            assert error_of(found)[:2] == (400, 5006)


async def test_a_workers_binding_lists_the_models(service: Service) -> None:
    forwarded = {"x-forwarded": "https://workers-binding.ai/ai-api/models/search?page=1"}
    response = await get(service, PROXY, headers=forwarded)
    assert [model["name"] for model in response.json()["result"]] == [MODEL]
    assert error_of(await get(service, PROXY))[:2] == (404, 7003)


@pytest.mark.parametrize("below", [f"workers-ai/{MODEL}", f"workers-ai/run/{MODEL}"])
async def test_ai_gateways_addresses_answer_in_the_envelope(service: Service, below: str) -> None:
    response = await service.post(HELLO, f"{AIG}/{below}")
    assert response.json()["result"]["response"] == "Say hello."
    assert service.receipts[0].route == "ai/run"
    assert service.receipts[0].account == ACCOUNT


@pytest.mark.parametrize(
    ("below", "model"),
    [
        ("workers-ai/v1/chat/completions", MODEL),
        ("compat/chat/completions", f"workers-ai/{MODEL}"),
    ],
)
async def test_ai_gateways_addresses_speak_openais_dialect(
    service: Service, below: str, model: str
) -> None:
    response = await service.post({"model": model, **HELLO}, f"{AIG}/{below}")
    assert response.json()["choices"][0]["message"]["content"] == "Say hello."
    assert service.receipts[0].model == MODEL


async def test_ai_gateways_own_header_has_the_token(service: Service) -> None:
    async with service.client() as client:
        del client.headers["authorization"]
        headers = {"cf-aig-authorization": f"Bearer {TOKEN}"}
        response = await client.post(f"{AIG}/workers-ai/{MODEL}", json=HELLO, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"{AIG}/openai/chat/completions", 400, 7000),
        (f"/v1/me/gw/workers-ai/{MODEL}", 404, 7003),
        (f"{HOME}/ai/v1/embeddings", 404, 7003),
        ("/client/v4/user/tokens", 400, 7000),
    ],
)
async def test_addresses_that_lead_nowhere(
    service: Service, path: str, status: int, code: int
) -> None:
    assert error_of(await service.post(HELLO, path))[:2] == (status, code)


async def test_verbs_that_a_page_does_not_take(service: Service) -> None:
    response = await service.post({}, f"{HOME}/ai/models/search")
    assert error_of(response)[:2] == (405, 7001)
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "found", "total"),
    [
        ("", 1, 1),
        ("?page=1&per_page=1", 1, 1),
        ("?page=2", 0, 1),
        ("?search=VISION", 1, 1),
        ("?search=whisper", 0, 0),
        ("?task=Text%20Generation&author=meta", 1, 1),
        ("?task=Speech", 0, 0),
        ("?author=openai", 0, 0),
    ],
)
async def test_the_catalogue_is_searched_page_by_page(
    service: Service, query: str, found: int, total: int
) -> None:
    body = (await get(service, f"{HOME}/ai/models/search{query}")).json()
    assert (len(body["result"]), body["result_info"]["total_count"]) == (found, total)


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "per_page=-1", f"page={'9' * 5000}", "page="]
)
async def test_pages_that_cannot_be(service: Service, query: str) -> None:
    assert error_of(await get(service, f"{HOME}/ai/models/search?{query}"))[:2] == (400, 5006)


async def test_the_catalogue_as_openrouter_reads_it(service: Service) -> None:
    body = (await get(service, f"{HOME}/ai/models/search?format=openrouter")).json()
    assert [model["name"] for model in body["data"]] == [MODEL]


async def test_pages_need_the_token_of_their_account(service: Service) -> None:
    other = HOME.replace(ACCOUNT, "f" * 32)
    assert error_of(await get(service, f"{other}/ai/models/search"))[:2] == (403, 10000)
    wrong = {"authorization": "Bearer wrong"}
    page = "/client/v4/user/tokens/verify"
    assert error_of(await get(service, page, headers=wrong))[:2] == (401, 10000)
    assert (await get(service, page)).json()["messages"][0]["code"] == 10000


async def test_an_answer_says_what_it_cost_in_neurons() -> None:
    words = " ".join(["word"] * 500)
    options = {"prices": prices.read("default")}
    async with listening(Service(FakeEngine(), options)) as service:
        response = await service.post({"prompt": words, "max_tokens": 500})
        # 500 tokens in at 4410 and 500 out at 61493 per million
        assert response.headers["cf-ai-neurons"] == "32.95"
        assert response.headers["api-version"]
        assert "cf-ai-neurons" not in (await service.post({})).headers


async def test_errors_in_openais_dialect_carry_both_shapes(service: Service) -> None:
    response = await service.post({"model": MODEL, **HELLO, "n": 2}, CHAT)
    assert error_of(response)[:2] == (400, 5006)
    error = response.json()["error"]
    assert error["message"] == response.json()["errors"][0]["message"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "5006", None)


async def test_who_may_not_wait_is_refused_when_the_engine_is_full(service: Service) -> None:
    service.engine.faults.full = True
    assert (await service.post(HELLO)).status_code == 200
    refused = {**HELLO, "options": {"rejectIfBusy": True}}
    assert error_of(await service.post(refused))[:2] == (429, 3040)
    outer = {"model": MODEL, "input": HELLO, "options": {"rejectIfBusy": True}}
    assert error_of(await service.post(outer, RUN))[:2] == (429, 3040)


async def test_a_choice_of_tools_that_is_none(service: Service) -> None:
    body = {**HELLO, "tools": [{"name": "f"}], "tool_choice": "any"}
    assert error_of(await service.post(body))[:2] == (400, 8001)


@pytest.mark.parametrize("path", [PATH, CHAT])
async def test_a_silent_stream_carries_comments(
    service: Service, path: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pulse, "SILENCE", 0.02)
    service.engine.faults.first_token_delay = service.engine.faults.token_delay = 0.15
    response = await service.post({"model": MODEL, **HELLO, "stream": True}, path)
    before, between = response.text.split("Say")
    assert before.startswith(": keep-alive\n\n")
    assert ": keep-alive\n\n" in between
    assert response.text.endswith("data: [DONE]\n\n")


async def test_an_error_after_a_comment_is_in_the_stream(
    service: Service, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pulse, "SILENCE", 0.02)
    service.engine.faults.first_token_delay, service.engine.faults.fail_after = 0.15, 1
    response = await service.post({**HELLO, "stream": True})
    assert response.status_code == 200
    last = json.loads(response.text.split("data: ")[-1])
    assert last["errors"][0]["code"] == 3043


async def test_padding_hides_the_length_of_tokens() -> None:
    async with listening(Service(FakeEngine(), {"padded": True})) as service:
        frames = await service.frames({"prompt": "one two three four five six seven eight"})
    texts = [frame for frame in frames[:-1] if frame["response"]]
    assert (
        "".join(frame["response"] for frame in texts) == "one two three four five six seven eight"
    )
    assert len({len(frame["p"]) for frame in texts}) > 2
    assert all(frame["p"].isalnum() for frame in texts)


async def test_no_padding_unless_asked_for(service: Service) -> None:
    assert all("p" not in frame for frame in (await service.frames({"prompt": "a b"}))[:-1])


async def test_the_document_of_the_service_leaves_no_receipt(service: Service) -> None:
    async with service.client() as client:
        client.headers.clear()
        assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
    assert service.receipts == []


async def test_without_a_gate_the_word_is_a_prompt(service: Service) -> None:
    assert (await service.post({"prompt": "agree"})).json()["result"]["response"] == "agree"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"{AIG}/workers-ai/{MODEL}", {}),
        (f"{AIG}/compat/chat/completions", {}),
        (PATH, {"cf-aig-gateway-id": "default"}),
    ],
)
async def test_answers_through_ai_gateway_say_where_they_are_from(
    service: Service, path: str, headers: dict[str, str]
) -> None:
    for body in ({"model": MODEL, **HELLO}, {"model": MODEL, **HELLO, "temperature": 9}):
        response = await service.post(body, path, headers=headers)
        assert response.headers["cf-aig-log-id"] == response.headers["cf-ai-req-id"]
        assert response.headers["cf-aig-cache-status"] == "MISS"
        assert response.headers["cf-aig-step"] == "0"
    assert not any(name.startswith("cf-aig") for name in (await service.post(HELLO)).headers)


# Everything its documentation lists, as its clients send it.
FEATURES = {
    "cf-aig-metadata": '{"team": "a", "user": 1}',
    "cf-aig-skip-cache": "true",
    "cf-aig-cache-ttl": "3600",
    "cf-aig-cache-key": "k",
    "cf-aig-collect-log": "false",
    "cf-aig-collect-log-payload": "false",
    "cf-aig-custom-cost": '{"per_token_in": 0.1}',
    "cf-aig-max-attempts": "3",
    "cf-aig-retry-delay": "100",
    "cf-aig-backoff": "exponential",
    "cf-aig-event-id": "e",
    "cf-aig-request-timeout": "60000",
    "cf-aig-authorization": "Bearer other",
}


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_of_ai_gateways_features_are_legal(service: Service, stream: bool) -> None:
    for path in (PATH, f"{AIG}/workers-ai/{MODEL}"):
        response = await service.post({**HELLO, "stream": stream}, path, headers=FEATURES)
        assert response.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_begins_too_late_for_its_caller_is_given_up(
    service: Service, stream: bool
) -> None:
    service.engine.faults.hang_after = 0
    hurry = {"cf-aig-request-timeout": "50"}
    response = await service.post(
        {**HELLO, "stream": stream}, f"{AIG}/workers-ai/{MODEL}", headers=hurry
    )
    assert error_of(response) == (408, 2014, "Provider request timeout")
    assert service.engine.aborted == service.engine.started
    assert (service.receipts[0].code, service.receipts[0].outcome) == (2014, Outcome.REJECTED)


async def test_an_answer_that_has_begun_is_not_hurried(service: Service) -> None:
    service.engine.faults.token_delay = 0.1
    hurry = {"cf-aig-request-timeout": "80"}
    response = await service.post(
        {"prompt": "one two", "stream": True}, f"{AIG}/workers-ai/{MODEL}", headers=hurry
    )
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1e3", "9" * 400])
async def test_a_timeout_that_is_no_number_of_milliseconds(service: Service, value: str) -> None:
    headers = {"cf-aig-request-timeout": value}
    response = await service.post(HELLO, f"{AIG}/workers-ai/{MODEL}", headers=headers)
    assert error_of(response)[:2] == (400, 5006)
    assert service.engine.started == []


@pytest.mark.parametrize("session", ["ses_12345678", "", "x" * 4000, "caf\u00e9"])
async def test_a_session_is_no_part_of_the_answer(service: Service, session: str) -> None:
    headers = {"x-session-affinity": session.encode()}
    for path in (PATH, CHAT):
        response = await service.post({"model": MODEL, **HELLO}, path, headers=headers)
        assert response.status_code == 200
