"""`ai/run` over HTTP, as clients use it."""

import base64
import json
from typing import Any

import pytest

from serving.core import Image, Message
from serving.engine.fake import IMAGE_TOKENS
from tests.gateway.conftest import ACCOUNT, BEARER, MODEL, PATH, Service

PNG = b"\x89PNG"
B64 = base64.b64encode(PNG).decode()


async def test_a_prompt_is_answered_in_the_envelope(service: Service) -> None:
    response = await service.post({"prompt": "tell me more"})
    assert response.status_code == 200
    assert response.json() == {
        "result": {
            "response": "tell me more",
            "tool_calls": [],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 3,
                "total_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        },
        "success": True,
        "errors": [],
        "messages": [],
    }


async def test_the_headers_are_exact(service: Service) -> None:
    response = await service.post({"prompt": "hi"})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["cf-ai-req-id"] == service.engine.started[0]


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        MODEL.replace("/", "%2F"),
        MODEL.replace("/", "%2f").replace("@", "%40"),
        MODEL + "/",
        MODEL.replace("/", "%2F") + "%2F",
    ],
)
async def test_the_model_is_found_however_its_id_is_encoded(service: Service, model: str) -> None:
    path = f"/client/v4/accounts/{ACCOUNT}/ai/run/{model}"
    response = await service.post({"prompt": "hi"}, path)
    assert response.json()["result"]["response"] == "hi"


@pytest.mark.parametrize("query", ["", "?queueRequest=false&tags=a%2Fb"])
@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
async def test_the_body_is_json_whatever_it_claims(
    service: Service, content_type: str | None, query: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    async with service.client() as client:
        response = await client.post(PATH + query, content=b'{"prompt": "hi"}', headers=headers)
    assert response.json()["result"]["response"] == "hi"


async def test_a_chunked_body_is_read_to_its_end(service: Service) -> None:
    async def pieces() -> Any:
        for piece in (b'{"prom', b'pt": "h', b'i"}'):
            yield piece

    async with service.client() as client:
        response = await client.post(PATH, content=pieces())
    assert response.json()["result"]["response"] == "hi"


@pytest.mark.parametrize("image", [B64, f"data:image/png;base64,{B64}", list(PNG)])
async def test_an_image_reaches_the_engine(service: Service, image: Any) -> None:
    response = await service.post({"prompt": "what is this?", "image": image})
    assert response.json()["result"]["usage"]["prompt_tokens"] == 4 + IMAGE_TOKENS
    turn = Message("user", (Image(PNG), "what is this?"))
    assert service.engine.generations[0].prompt == (turn,)


async def test_json_mode_answers_an_object(service: Service) -> None:
    body = {"prompt": "hi", "response_format": {"type": "json_object"}}
    response = await service.post(body)
    assert response.json()["result"]["response"] == {"echo": "hi"}


async def test_a_call_in_the_answer_is_a_tool_call(service: Service) -> None:
    service.engine.answer = '{"name": "f", "parameters": {"a": 1}}'
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f"}]}
    calls = [{"name": "f", "arguments": {"a": 1}}]
    response = await service.post(body)
    assert response.json()["result"]["tool_calls"] == calls
    frames = await service.frames(body)
    assert frames[0] == {"response": "", "tool_calls": calls}


async def test_max_tokens_cuts_the_answer(service: Service) -> None:
    response = await service.post({"prompt": "one two three", "max_tokens": 2})
    assert response.json()["result"]["response"] == "one two"


async def test_a_stream_is_frames_usage_and_done(service: Service) -> None:
    frames = await service.frames({"prompt": "tell me more"})
    usage = frames[3].pop("usage")
    assert frames == [
        {"response": "tell"},
        {"response": " me"},
        {"response": " more"},
        {"response": ""},
        "[DONE]",
    ]
    assert usage["completion_tokens"] == 3


async def test_one_connection_serves_request_after_request(service: Service) -> None:
    async with service.client() as client:
        for text in ("one", "two", "three"):
            response = await client.post(PATH, json={"prompt": text, "stream": True})
            assert json.dumps(text) in response.text


async def test_health_needs_no_credentials_and_leaves_no_receipt(service: Service) -> None:
    async with service.client() as client:
        client.headers.clear()
        assert (await client.get("/-/healthz")).status_code == 200
        service.engine.faults.dead = True
        assert (await client.get("/-/healthz")).status_code == 503
    assert service.receipts == []


async def test_bearer_is_a_word_in_any_case(service: Service) -> None:
    headers = {"authorization": BEARER["authorization"].replace("Bearer", "bearer")}
    assert (await service.post({"prompt": "hi"}, headers=headers)).status_code == 200
