"""Tokens reach the client one by one, when they exist."""

import asyncio
from time import perf_counter

from tests.gateway.conftest import Service, until


async def test_each_token_arrives_as_it_is_made(service: Service) -> None:
    service.engine.faults.token_delay = 0.1
    start = perf_counter()
    async with service.connected({"prompt": "one two three", "stream": True}) as reader:
        await reader.readuntil(b"one")
        first = perf_counter() - start
        await reader.readuntil(b"two")
        second = perf_counter() - start
        await reader.readuntil(b"[DONE]")
    assert first < 0.08 < second < 0.18


async def test_no_header_is_sent_before_the_first_token(service: Service) -> None:
    service.engine.faults.first_token_delay = 0.2
    async with service.connected({"prompt": "hi", "stream": True}) as reader:
        await until(lambda: service.engine.started)
        waiting = asyncio.create_task(reader.readuntil(b"\r\n"))
        assert not (await asyncio.wait([waiting], timeout=0.1))[0]
        assert (await waiting).startswith(b"HTTP/1.1 200")


async def test_many_streams_run_side_by_side(service: Service) -> None:
    service.engine.faults.token_delay = 0.05
    start = perf_counter()
    body = {"prompt": "a b c d e"}
    answers = await asyncio.gather(*(service.frames(body) for _ in range(16)))
    assert perf_counter() - start < 1.5
    assert all(answer == answers[0] for answer in answers)
