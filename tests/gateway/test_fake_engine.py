"""The fake keeps the promises of `Engine` and its own."""

import asyncio
from typing import Any

import pytest

from serving.core import Delta, Finish, Generation, Image, Message, RawPrompt, Sampling, Usage
from serving.engine import Engine
from serving.engine.fake import IMAGE_TOKENS, FakeEngine, Faults
from serving.errors import EngineFailed, Overloaded

TURNS = (Message("system", ("Be brief.",)), Message("user", (Image(b"x"), "one two three")))


def request(prompt: Any = TURNS, **fields: Any) -> Generation:
    return Generation("r1", "m", prompt, **fields)


async def collect(engine: Engine, generation: Generation) -> list[Delta]:
    return [delta async for delta in engine.generate(generation)]


async def test_a_plain_answer_is_one_delta() -> None:
    (delta,) = await collect(FakeEngine(), request())
    used = Usage(6 + IMAGE_TOKENS, 3, 0, IMAGE_TOKENS)
    assert delta == Delta("one two three", (), Finish.STOP, used, stages=delta.stages)


async def test_a_stream_is_a_delta_per_token() -> None:
    deltas = await collect(FakeEngine(), request(stream=True))
    assert [delta.text for delta in deltas] == ["one", " two", " three"]
    last = deltas[-1]
    used = Usage(6 + IMAGE_TOKENS, 3, 0, IMAGE_TOKENS)
    assert last == Delta(" three", (), Finish.STOP, used, stages=last.stages)


async def test_a_raw_prompt_is_echoed_whole() -> None:
    (delta,) = await collect(FakeEngine(), request(RawPrompt("a b", (Image(b"x"),))))
    assert (delta.text, delta.usage) == ("a b", Usage(3 + IMAGE_TOKENS, 2, 0, IMAGE_TOKENS))


async def test_max_tokens_is_the_longest_answer() -> None:
    (delta,) = await collect(FakeEngine("a b c"), request(sampling=Sampling(max_tokens=2)))
    assert (delta.text, delta.finish) == ("a b", Finish.LENGTH)


@pytest.mark.parametrize("prompt", [(), (Message("user", (Image(b"x"),)),)])
async def test_nothing_to_echo_is_an_empty_answer(prompt: Any) -> None:
    (delta,) = await collect(FakeEngine(), request(prompt))
    assert (delta.text, delta.finish) == ("", Finish.STOP)


async def test_it_refuses_when_told_to() -> None:
    with pytest.raises(Overloaded):
        await collect(FakeEngine(faults=Faults(overloaded=True)), request())
    with pytest.raises(EngineFailed):
        await FakeEngine(faults=Faults(dead=True)).check_health()


async def test_it_fails_after_the_tokens_it_is_told() -> None:
    engine = FakeEngine(faults=Faults(fail_after=2))
    deltas = engine.generate(request(stream=True))
    assert [(await anext(deltas)).text, (await anext(deltas)).text] == ["one", " two"]
    with pytest.raises(EngineFailed):
        await anext(deltas)
    assert (engine.finished, engine.aborted) == (["r1"], [])


async def test_closing_and_cancelling_are_aborts() -> None:
    engine = FakeEngine(faults=Faults(hang_after=1))
    deltas = engine.generate(request(stream=True))
    await anext(deltas)
    await deltas.aclose()
    assert engine.aborted == ["r1"]
    task = asyncio.create_task(collect(engine, request()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert engine.aborted == ["r1", "r1"]
