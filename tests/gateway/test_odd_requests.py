"""Requests that are odd and legal, or not quite legal: answered or refused, in the API's words."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import Any

import pytest

from serving.core import Message
from tests.gateway.conftest import ACCOUNT, MODEL, PATH, TOKEN, Service
from tests.gateway.test_errors import error_of

V1 = f"/client/v4/accounts/{ACCOUNT}/ai/v1"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
AUTHORIZED = f"authorization: Bearer {TOKEN}\r\n"


async def raw(service: Service, head: str, body: bytes = b"", wait: bytes = b"") -> bytes:
    """What the socket gives for a request as written; the body waits for the bytes `wait`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    closing = "" if "connection:" in head else "connection: close\r\n"
    writer.write(f"{head}\r\nhost: x\r\n{closing}{AUTHORIZED}\r\n".encode())
    seen = await asyncio.wait_for(reader.readuntil(wait), 5) if wait else b""
    writer.write(body)
    try:
        return seen + await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"prompt": "a", "prompt": "b"}', "b"),
        (b'\xef\xbb\xbf \n{"prompt": "hi"}\r\n', "hi"),
        ('{"prompt": "hi"}'.encode("utf-16"), "hi"),
        (b'{"prompt": "hi \\ud83d"}', "hi ?"),
        (b'{"prompt": "a\\u0000b"}', "a\0b"),
        (b'{"prompt": "hi", "temperature": -0.0, "top_k": 3.0, "seed": 1e0}', "hi"),
        (b'{"prompt": "hi", "x": ' + b"[" * 900 + b"]" * 900 + b"}", "hi"),
        (b'{"prompt": "hi", "stop": [], "tools": null, "image": null, "options": []}', "hi"),
        (b'{"messages": [{"role": null, "content": "x", "tool_calls": null}], "lora": ""}', "x"),
        (b'{"messages": [{"content": [{"text": "a", "image_url": null}]}]}', "a"),
    ],
)
async def test_odd_bodies_that_mean_something(service: Service, body: bytes, answer: str) -> None:
    async with service.client() as client:
        response = await client.post(PATH, content=body)
    assert response.json()["result"]["response"] == answer


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "hi", "temperature": NaN}',
        b'{"prompt": "hi", "temperature": Infinity}',
        b'{"prompt": "hi", "temperature": 1e400}',
        b'{"prompt": "hi", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "hi", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        '{"prompt": "café"}'.encode("latin-1"),
        b'{"prompt": "a\nb"}',
        b'{"prompt": "hi"} x',
        b"prompt=hi",
        b'"hi"',
        b"null",
        b'{"messages": {"0": {"role": "user"}}}',
        b'{"messages": [{"role": "user", "content": 5}]}',
        b'{"prompt": "hi", "stop": [1]}',
        b'{"prompt": "hi", "stop": ' + json.dumps(["x"] * 65).encode() + b"}",
        b'{"prompt": "hi", "lora": {}}',
        b'{"messages": [], "lora": 5}',
    ],
)
async def test_odd_bodies_that_mean_nothing(service: Service, body: bytes) -> None:
    async with service.client() as client:
        response = await client.post(PATH, content=body)
    assert error_of(response)[:2] == (400, 5006)
    assert service.engine.started == []


def deep(levels: int) -> dict[str, Any]:
    """A schema of objects within each other."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, HI | {"response_format": {"type": "json_schema", "json_schema": deep(40)}}),
        (PATH, HI | {"tools": [{"name": "f", "parameters": deep(40)}]}),
        (
            f"{V1}/chat/completions",
            HI
            | {"response_format": {"type": "json_schema", "json_schema": {"schema": deep(40)}}}
            | {"model": MODEL},
        ),
        (
            f"{V1}/responses",
            {"model": MODEL, "input": "hi"}
            | {"text": {"format": {"type": "json_schema", "schema": deep(40)}}},
        ),
    ],
)
async def test_a_schema_that_would_keep_the_engine_busy_is_refused(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    response = await service.post(body, path)
    assert response.status_code == 400
    assert "nested more than 64 deep" in response.json()["errors"][0]["message"]


def called(arguments: Any) -> dict[str, Any]:
    """A turn with a call; and its fields beside, as a response's input has them."""
    call = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "c", "function": call}], **call}


async def test_a_schema_of_a_usual_depth_is_not(service: Service) -> None:
    wanted = {"type": "json_schema", "json_schema": deep(20)}
    assert (await service.post(HI | {"response_format": wanted})).status_code == 200


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat/completions", {"messages": []}),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]}),
        ("responses", {}),
        ("responses", {"input": []}),
        ("messages", {"messages": [], "max_tokens": 5}),
        ("messages", HI | {"max_tokens": 5, "mcp_servers": [{"type": "url"}]}),
        ("chat/completions", {"messages": [called(deep(40))]}),
        ("chat/completions", {"messages": [called(json.dumps(deep(40)))]}),
        ("responses", {"input": [{"type": "function_call", "call_id": "c", **called(deep(40))}]}),
        (
            "messages",
            {
                "max_tokens": 5,
                "messages": [
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "c", "name": "f", "input": deep(40)}
                        ],
                    }
                ],
            },
        ),
    ],
)
async def test_requests_that_ask_for_nothing_or_for_more_than_there_is(
    service: Service, route: str, body: dict[str, Any]
) -> None:
    response = await service.post({"model": MODEL, **body}, f"{V1}/{route}")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5006)


async def test_a_refusal_of_an_earlier_turn_is_read_as_its_text(service: Service) -> None:
    said = [{"type": "refusal", "refusal": "No."}]
    turns = [{"role": "assistant", "content": said}, *HI["messages"]]
    await service.post({"model": MODEL, "messages": turns}, f"{V1}/chat/completions")
    assert service.engine.generations[0].prompt[0] == Message("assistant", ("No.",))  # type: ignore[index]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate"])
async def test_a_compressed_body_is_refused_as_such(service: Service, encoding: str) -> None:
    async with service.client() as client:
        response = await client.post(
            PATH,
            content=gzip.compress(b'{"prompt": "' + b"x" * 10_000_000 + b'"}'),
            headers={"content-encoding": encoding},
        )
    assert error_of(response)[:2] == (400, 5006)
    assert "compressed" in response.text


async def test_a_client_that_waits_to_be_told_to_go_on(service: Service) -> None:
    body = b'{"prompt": "hi"}'
    head = f"POST {PATH} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {len(body)}"
    found = await raw(service, head, body, wait=b"100 Continue\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in found
    assert b'"response":"hi"' in found


async def test_a_client_that_waits_is_told_before_it_sends_too_much(service: Service) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999"
    found = await raw(service, head)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b'"code":3006' in found


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("HEAD {path} HTTP/1.1", 405),
        ("OPTIONS {path} HTTP/1.1\r\norigin: http://a", 405),
        ("GET {path} HTTP/1.0", 405),
        ("GET http://elsewhere{path} HTTP/1.1", 405),
        ("GET {path}%00%0d%0a HTTP/1.1", 405),
        ("GET {path}%ff?queueRequest=%ff&&=&x;y HTTP/1.1", 405),
        ("GET /client/v4//accounts HTTP/1.1", 400),
        ("GET /client/v4/accounts/../../x HTTP/1.1", 404),
    ],
)
async def test_odd_requests_get_a_status_and_at_most_one_body(
    service: Service, start: str, status: int
) -> None:
    found = await raw(service, start.format(path=PATH))
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    if start.startswith("HEAD"):
        assert body == b""
    else:
        assert json.loads(body)["success"] is False
    assert len(re.findall(rb"\r\ncontent-length:", head)) == 1
    assert service.receipts[0].status == status


async def test_a_websocket_is_declined_in_silence(service: Service, caplog: Any) -> None:
    upgrade = (
        f"GET {PATH} HTTP/1.1\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nconnection: upgrade"
    )
    found = await raw(service, upgrade)
    assert found.startswith(b"HTTP/1.1 403 ")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("forwarded", ["?userInputs=%ff%fe", "?userInputs=caf\xe9", "?&&=;"])
async def test_a_binding_whose_address_is_not_text(service: Service, forwarded: str) -> None:
    headers = {
        b"cf-consn-model-id": MODEL.encode(),
        b"x-forwarded": f"https://workers-binding.ai/run{forwarded}".encode("latin-1"),
    }
    async with service.client() as client:
        response = await client.post(
            f"/client/v4/accounts/{ACCOUNT}/ai/run/proxy", content=b"x", headers=headers
        )
    assert error_of(response)[:2] == (400, 5006)
