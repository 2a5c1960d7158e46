"""Tokens reach the client one by one, when they exist."""

import asyncio

import pytest

from tests.gateway.conftest import Service, until


@pytest.mark.parametrize("tokens", [1, 2])
async def test_a_token_arrives_though_the_next_does_not_exist_yet(
    service: Service, tokens: int
) -> None:
    service.engine.faults.hang_after = tokens
    async with service.connected({"prompt": "one two three", "stream": True}) as reader:
        arrived = await asyncio.wait_for(reader.readuntil(["one", "two"][tokens - 1].encode()), 5)
    assert arrived.count(b"data: ") == tokens


async def test_no_header_is_sent_before_the_first_token(service: Service) -> None:
    service.engine.faults.hang_after = 0
    async with service.connected({"prompt": "hi", "stream": True}) as reader:
        await until(lambda: service.engine.started)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readuntil(b"\r\n"), 0.1)


async def test_many_streams_run_side_by_side(service: Service) -> None:
    service.engine.faults.hang_after = 0
    body = {"prompt": "a b c d e"}
    requests = [asyncio.create_task(service.frames(body)) for _ in range(16)]
    await until(lambda: len(service.engine.started) == 16)
    assert service.engine.finished == []
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    await until(lambda: len(service.engine.aborted) == 16)
