"""What is refused, with which status, code and words."""

import json
import re
from typing import Any

import httpx
import pytest

from serving.errors import ContextExceeded, InvalidImage
from tests.gateway.conftest import ACCOUNT, MODEL, PATH, TOKEN, Service

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
HI = {"prompt": "hi"}


def error_of(response: httpx.Response) -> tuple[int, int, str]:
    """Status, code and message, after checking the shape they come in."""
    body = response.json()
    (entry,) = body["errors"]
    assert response.headers["content-type"] == "application/json"
    assert (body["success"], body["messages"]) == (False, [])
    assert re.fullmatch(UUID, response.headers["cf-ai-req-id"])
    if body["result"] is not None:
        assert body["result"] == {}
        assert entry["message"].endswith(f"({response.headers['cf-ai-req-id']})")
    return response.status_code, entry["code"], entry["message"]


@pytest.mark.parametrize(
    ("data", "status", "code", "text"),
    [
        (b"", 400, 3003, "AiError: AiError: Request is missing headers or body: body"),
        (b"{", 400, 5006, "AiError: Bad input: Error: the body is not JSON"),
        (b"{}", 400, 5006, "AiError: Bad input: Error: oneOf at '/' not met, 0 matches: req"),
        (b'{"prompt": "x" , "image": "#"}', 400, 8006, "AiError: AiError: Invalid data for image"),
        (b'{"prompt": "x" , "image": {}}', 400, 5004, "AiError: AiError: Invalid data type for ba"),
        (b'{"prompt": "' + b"x" * 100_000, 413, 3006, "AiError: AiError: Request is too large"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_bad_bodies(
    service: Service, data: bytes, status: int, code: int, text: str, chunked: bool
) -> None:
    async def pieces() -> Any:
        for start in range(0, len(data), 30_000):
            yield data[start : start + 30_000]

    async with service.client() as client:
        response = await client.post(PATH, content=pieces() if chunked else data)
        found = error_of(response)
        assert found[:2] == (status, code)
        assert found[2].startswith(text)
        # The connection is good for another request, the rest of the body is not taken for it.
        assert (await client.post(PATH, json=HI)).status_code == 200


async def test_a_body_far_over_the_limit_is_refused_unread(service: Service) -> None:
    async with service.client() as client:
        response = await client.post(PATH, content=b"x" * 5_000_000)
    assert error_of(response)[:2] == (413, 3006)


@pytest.mark.parametrize("model", ["@cf/nobody/none", "@cf%2Fnobody%2Fnone", "@hf/x/y", "llama"])
async def test_an_unknown_model(service: Service, model: str) -> None:
    response = await service.post(HI, f"/client/v4/accounts/{ACCOUNT}/ai/run/{model}")
    status, code, message = error_of(response)
    assert (status, code) == (400, 5007)
    name = model.replace("%2F", "/")
    assert message.startswith(f"AiError: No such model: No such model {name} or task (")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("completions", {"prompt": "hi"}),
        ("responses", {"input": "hi"}),
        ("messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    ],
)
async def test_a_body_that_names_no_model(service: Service, route: str, body: Any) -> None:
    response = await service.post(body, f"/client/v4/accounts/{ACCOUNT}/ai/v1/{route}")
    assert response.status_code == 400
    (error,) = response.json()["errors"]
    assert error["code"] == 5006
    assert "required properties at '/' are 'model'" in error["message"]


@pytest.mark.parametrize(
    ("path", "status", "code", "text"),
    [
        ("/", 400, 7000, "No route for that URI"),
        ("/client/v4/user", 400, 7000, "No route for that URI"),
        (PATH.replace(MODEL, "dynamic/x"), 400, 7000, "No route for that URI"),
        (PATH.replace(ACCOUNT, "me"), 404, 7003, "Could not route to /client/v4/accounts/me/ai/"),
        (PATH.replace("run", "walk"), 404, 7003, "Could not route to /client/v4/accounts/"),
        (PATH.replace(f"run/{MODEL}", ""), 404, 7003, "Could not route to /client/v4/accounts/"),
    ],
)
async def test_addresses_that_lead_nowhere(
    service: Service, path: str, status: int, code: int, text: str
) -> None:
    found = error_of(await service.post(HI, path))
    assert found[:2] == (status, code)
    assert found[2].startswith(text)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_other_verbs(service: Service, method: str) -> None:
    async with service.client() as client:
        response = await client.request(method, PATH)
    assert error_of(response) == (405, 7001, f"{method} not supported for requested URI.")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "status", "code", "text"),
    [
        ({}, 400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers"),
        ({"x-auth-key": "k"}, 400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization hea"),
        ({"authorization": TOKEN}, 400, 9106, "Authentication failed (status: 400)"),
        ({"authorization": "Basic abc"}, 400, 9106, "Authentication failed (status: 400)"),
        ({"authorization": "Bearer"}, 400, 9106, "Authentication failed (status: 400)"),
        ({"authorization": "Bearer two words"}, 400, 9106, "Authentication failed (status: 400)"),
        ({"authorization": f"Bearer {TOKEN}x"}, 401, 10000, "Authentication error"),
        ({"x-auth-key": "k", "x-auth-email": "e"}, 401, 10000, "Authentication error"),
    ],
)
async def test_credentials_that_open_nothing(
    service: Service, headers: dict[str, str], status: int, code: int, text: str
) -> None:
    async with service.client() as client:
        del client.headers["authorization"]
        response = await client.post(PATH, json=HI, headers=headers)
    found = error_of(response)
    assert found[:2] == (status, code)
    assert found[2].startswith(text)
    assert service.engine.started == []


async def test_the_legacy_headers_may_hold_a_token(service: Service) -> None:
    """For who has set a client up with a key and an address of mail."""
    async with service.client() as client:
        del client.headers["authorization"]
        headers = {"x-auth-key": TOKEN, "x-auth-email": "me@example.com"}
        assert (await client.post(PATH, json=HI, headers=headers)).status_code == 200


async def test_the_token_does_not_open_another_account(service: Service) -> None:
    response = await service.post(HI, PATH.replace(ACCOUNT, "f" * 32))
    assert error_of(response) == (403, 10000, "Authentication error")


async def test_more_images_than_the_model_takes(service: Service) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    response = await service.post({"messages": [{"role": "user", "content": [part] * 3}]})
    status, code, message = error_of(response)
    assert (status, code) == (400, 8006)
    assert "the model takes at most 2 images, got 3" in message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (ContextExceeded(3000, 2048), 413, 5021),
        (InvalidImage("reason cannot decode image"), 400, 8006),
        (RuntimeError("prompt: hi"), 500, 3043),
    ],
)
async def test_the_engines_refusals_have_a_proper_status(
    service: Service, refusal: Any, status: int, code: int, stream: bool, caplog: Any
) -> None:
    service.engine.faults.refuse = refusal
    response = await service.post({**HI, "stream": stream})
    assert error_of(response)[:2] == (status, code)
    assert "prompt: hi" not in caplog.text + response.text


async def test_a_busy_engine_says_when_to_come_back(service: Service) -> None:
    service.engine.faults.overloaded = True
    response = await service.post(HI)
    status, code, message = error_of(response)
    assert (status, code, response.headers["retry-after"]) == (429, 3040, "1")
    assert "Capacity temporarily exceeded, please try again." in message


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_fails_before_its_first_token(service: Service, stream: bool) -> None:
    service.engine.faults.fail_after = 0
    response = await service.post({**HI, "stream": stream})
    status, code, message = error_of(response)
    assert (status, code) == (500, 3043)
    assert "Internal server error" in message


async def test_an_engine_that_fails_on_the_way_ends_the_stream_with_an_error(
    service: Service,
) -> None:
    service.engine.faults.fail_after = 2
    frames = await service.frames({"prompt": "one two three four"})
    *texts, last = frames
    assert texts == [{"response": "one"}, {"response": " two"}]
    assert last["errors"][0]["code"] == 3043
    assert (last["success"], last["response"]) == (False, "")
    assert service.receipts[0].code == 3043


async def test_json_that_was_cut_short_is_an_error(service: Service) -> None:
    body = {"prompt": "a b", "max_tokens": 1, "response_format": {"type": "json_object"}}
    assert error_of(await service.post(body))[:2] == (400, 5024)
    assert service.receipts[0].usage.completion_tokens == 1


async def test_an_answer_that_is_no_json_is_still_json_on_the_wire(service: Service) -> None:
    service.engine.answer = 'say "hi"\n'
    response = await service.post(HI)
    assert json.loads(response.content)["result"]["response"] == 'say "hi"'
