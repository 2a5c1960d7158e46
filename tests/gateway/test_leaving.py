"""A client that leaves is noticed at any time, and the engine is told."""

import asyncio
import gc
import json
from typing import Any

import pytest

from serving.core import Outcome, Usage
from serving.engine.fake import FakeEngine
from serving.gateway.asgi import Message
from serving.gateway.watch import Watch
from tests.gateway.conftest import BEARER, PATH, Service, until

WORDS = " ".join(["word"] * 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_token(service: Service, stream: bool) -> None:
    service.engine.faults.hang_after = 0
    async with service.connected({"prompt": WORDS, "stream": stream}):
        await until(lambda: service.engine.started)
    await until(lambda: service.engine.aborted, seconds=1)
    (receipt,) = service.receipts
    assert (receipt.outcome, receipt.status, receipt.code) == (Outcome.CANCELLED, 499, 3008)
    assert receipt.ttft is None


async def test_between_tokens(service: Service) -> None:
    service.engine.faults.hang_after = 3
    async with service.connected({"prompt": WORDS, "stream": True}) as reader:
        await reader.readuntil(b'{"response":" word"}')
    await until(lambda: service.engine.aborted, seconds=1)
    (receipt,) = service.receipts
    assert (receipt.outcome, receipt.status, receipt.code) == (Outcome.CANCELLED, 200, 3008)
    assert receipt.ttft is not None
    assert receipt.usage == Usage(prompt_tokens=200, completion_tokens=3)


async def test_while_a_plain_answer_is_being_generated(service: Service) -> None:
    service.engine.faults.token_delay = 0.05
    async with service.connected({"prompt": WORDS}):
        await until(lambda: service.engine.started)
        await asyncio.sleep(0.12)
    await until(lambda: service.engine.aborted, seconds=1)
    assert service.engine.finished == []


async def test_while_it_is_too_slow_to_read(service: Service) -> None:
    """Nobody reads: `send` blocks and the engine waits, until the client is gone."""
    service.engine.answer = " ".join(["x" * 200_000] * 100)
    async with service.connected({"prompt": "hi", "stream": True}) as reader:
        await reader.readuntil(b"data: ")
        await asyncio.sleep(0.3)
        assert service.engine.finished == []
    await until(lambda: service.engine.aborted, seconds=1)
    assert [receipt.outcome for receipt in service.receipts] == [Outcome.CANCELLED]


async def test_while_its_body_is_on_the_way(service: Service) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    auth = f"authorization: {BEARER['authorization']}"
    writer.write(
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\n{auth}\r\ncontent-length: 99\r\n\r\n{{".encode()
    )
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await until(lambda: service.receipts)
    assert service.receipts[0].outcome is Outcome.CANCELLED
    assert service.engine.started == []


async def test_after_the_answer_nothing_is_aborted(service: Service) -> None:
    async with service.connected({"prompt": "one two", "stream": True}) as reader:
        await reader.readuntil(b"[DONE]")
    await until(lambda: service.receipts)
    assert (service.engine.aborted, len(service.engine.finished)) == ([], 1)
    assert service.receipts[0].outcome is Outcome.OK


class Call:
    """One request to the gateway without a server: what Ray Serve's replica does."""

    def __init__(self, engine: FakeEngine, body: dict[str, Any]) -> None:
        self.service = Service(engine)
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        headers = [(name.encode(), value.encode()) for name, value in BEARER.items()]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        scope["asgi"] = {"spec_version": "2.4"}
        self.task = asyncio.create_task(self.service.gateway(scope, self._receive, self.send))

    async def _receive(self) -> Message:
        if self._body is not None:
            message, self._body = {"type": "http.request", "body": self._body}, None
            return message
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class CallToADeadClient(Call):
    """A server that follows ASGI 2.4: `send` raises."""

    async def send(self, message: Message) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [0, 2])
async def test_a_cancelled_task_aborts_the_engine_and_stays_cancelled(
    tokens: int, stream: bool
) -> None:
    engine = FakeEngine()
    engine.faults.hang_after = tokens
    call = Call(engine, {"prompt": WORDS, "stream": stream})
    await until(lambda: engine.started and len(call.sent) >= tokens * stream)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert engine.aborted == engine.started
    assert [receipt.outcome for receipt in call.service.receipts] == [Outcome.CANCELLED]


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_disconnect_and_a_cancel_together_abort_once(cancel_first: bool) -> None:
    engine = FakeEngine()
    engine.faults.hang_after = 0
    call = Call(engine, {"prompt": WORDS, "stream": True})
    await until(lambda: engine.started)
    call.left.set()
    if not cancel_first:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    call.task.cancel()
    await asyncio.wait([call.task])
    assert engine.aborted == engine.started
    assert len(call.service.receipts) == 1


async def test_a_disconnect_alone_ends_the_task_quietly() -> None:
    engine = FakeEngine()
    engine.faults.hang_after = 1
    call = Call(engine, {"prompt": WORDS, "stream": True})
    await until(lambda: call.sent)
    call.left.set()
    await call.task
    assert engine.aborted == engine.started
    assert not any(message.get("more_body") is False for message in call.sent)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_raises_on_send_says_the_same(stream: bool) -> None:
    call = CallToADeadClient(FakeEngine(), {"prompt": WORDS, "stream": stream})
    await call.task
    assert [receipt.outcome for receipt in call.service.receipts] == [Outcome.CANCELLED]


async def test_no_task_is_left_behind(service: Service) -> None:
    before = len(asyncio.all_tasks())
    await service.post({"prompt": "hi"})
    service.engine.faults.hang_after = 0
    async with service.connected({"prompt": "hi"}):
        await until(lambda: len(service.engine.started) == 2)
    await until(lambda: service.engine.aborted)
    await until(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_leaves_nothing_to_the_garbage_collector(
    service: Service, stream: bool
) -> None:
    """Which would stop all others' streams to find it."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            assert (await service.post({"prompt": "one two", "stream": stream})).status_code == 200
        await until(lambda: len(service.receipts) == 10)
        assert [each for each in gc.get_objects() if type(each) is Watch] == []
    finally:
        gc.enable()
