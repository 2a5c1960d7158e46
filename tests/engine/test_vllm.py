"""The real engine on the small checkpoint: answers, refusals, aborts, death."""

import asyncio
import json
import threading
import time
from io import BytesIO
from uuid import uuid4

import psutil
import pytest
import pytest_asyncio
from msgspec.structs import replace
from PIL import Image as Pillow
from prometheus_client import REGISTRY
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from serving.catalog import Catalog
from serving.core import Delta, Finish, Generation, Image, JsonFormat, Message, Sampling, Tool
from serving.engine import images
from serving.engine.stats import Stats
from serving.engine.vllm import VllmEngine
from serving.errors import (
    ContextExceeded,
    EngineDown,
    EngineFailed,
    InvalidImage,
    InvalidInput,
    Overloaded,
)
from serving.protocol.calls import Growing

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = 12
LATE = 0.7  # seconds, more than vLLM's gauges are while it works
WINDOW = next(iter(Catalog.read().models.values())).context_window
ENCODED: list[tuple[str, float]] = []  # requests, and how long the vision encoder took for them


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine():
    """One engine for the module; its last test kills it."""
    model = next(iter(Catalog.read().models.values()))
    # One place more is kept: see `Model.kept`.
    small = {"max_num_seqs": 4, "max_num_queued_reqs": QUEUE, "kv_cache_memory_bytes": 1 << 26}
    made = VllmEngine(
        model.model_copy(update={"engine": {**model.engine, **small}}),
        encoded=lambda request, seconds: ENCODED.append((request, seconds)),
    )
    yield made
    made.close()


def picture(colour: str = "red", size: tuple[int, int] = (90, 60)) -> Image:
    out = BytesIO()
    Pillow.new("RGB", size, colour).save(out, "PNG")
    return Image(out.getvalue())


def asking(*content: str | Image, stream: bool = False, json_format=None, **sampling):
    sampling = {"max_tokens": 8, "temperature": 0.0, **sampling}
    prompt = (Message("user", content or ("Hello",)),)
    return Generation(
        str(uuid4()), "m", prompt, Sampling(**sampling), json=json_format, stream=stream
    )


def sevens(many: int, stream: bool) -> Generation:
    """An answer of at least two tokens each."""
    numbers = {"type": "array", "items": {"enum": [7]}, "minItems": many, "maxItems": many}
    return asking(json_format=JsonFormat(numbers), max_tokens=7000, stream=stream)


def endless(stream: bool) -> Generation:
    """Thousands of tokens, unless somebody stops it."""
    return sevens(3000, stream)


async def answer(engine, generation):
    return [delta async for delta in engine.generate(generation)]


async def running() -> int:
    """Requests the scheduler holds, running and waiting, as it last reported."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    found = [s.value for m in REGISTRY.collect() for s in m.samples if s.name in names]
    return int(sum(found))


async def until_idle(engine, seconds: float = 5.0) -> None:
    await asyncio.sleep(LATE)
    async with asyncio.timeout(seconds):
        # The gauges follow the scheduler's steps: one small request makes it report.
        while await running():
            await answer(engine, asking(max_tokens=1))
            await asyncio.sleep(0.05)


async def test_plain_answers_are_one_delta(engine):
    """With text, a reason and the usage."""
    (delta,) = await answer(engine, asking())
    assert delta.text
    assert delta.finish in (Finish.STOP, Finish.LENGTH)
    assert delta.usage.prompt_tokens > 5
    assert 0 < delta.usage.completion_tokens <= 8


def counted(name: str, **labels: str) -> float:
    """The sum of a metric of vLLM's."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_vllm_counts_each_time_between_tokens(engine):
    """In its own histogram, though they are written a step at a time."""
    name = "vllm:inter_token_latency_seconds"
    ends = [f"{name}_count", f"{name}_sum"]
    await until_idle(engine)
    before = {end: counted(end) for end in ends}
    asked = [asking(str(number), stream=True, max_tokens=20) for number in range(3)]
    answers = await asyncio.gather(*(answer(engine, each) for each in asked))
    lasts = [deltas[-1] for deltas in answers]
    gaps = sum(last.usage.completion_tokens - 1 for last in lasts)
    assert gaps > 3
    assert counted(f"{name}_count") - before[f"{name}_count"] == gaps
    assert counted(f"{name}_bucket", le="+Inf") == counted(f"{name}_count")
    decode = sum(last.stages.decode for last in lasts)
    assert counted(f"{name}_sum") - before[f"{name}_sum"] == pytest.approx(decode)


async def test_vllm_counts_the_tokens_of_every_step(engine, monkeypatch):
    """Though the scheduler says how it is twice a second at most, and once it is idle."""
    reported, record, midway = [], Stats.record, Stats.midway

    def spy(self, scheduler_stats, *rest, **more):
        reported.append(scheduler_stats is not None)
        record(self, scheduler_stats, *rest, **more)

    def spy_midway(self, *step):
        reported.append(False)
        midway(self, *step)

    names = [f"vllm:{each}" for each in ("generation_tokens_total", "iteration_tokens_total_sum")]
    await until_idle(engine)
    before = [counted(name) for name in names]
    monkeypatch.setattr(Stats, "record", spy)
    monkeypatch.setattr(Stats, "midway", spy_midway)
    began = time.monotonic()
    asked = [asking(f"{n} " * 40, stream=True, max_tokens=60 + n, seed=n) for n in range(3)]
    answers = await asyncio.gather(*(answer(engine, each) for each in asked))
    used = [deltas[-1].usage for deltas in answers]
    completion = sum(each.completion_tokens for each in used)
    read = sum(each.prompt_tokens - each.cached_tokens for each in used)
    grown = [counted(name) - had for name, had in zip(names, before, strict=True)]
    assert grown == [completion, read + completion]
    assert len(reported) > 2 * sum(reported) > 0
    assert sum(reported) <= (time.monotonic() - began) / 0.5 + 4  # first, last


async def test_requests_that_end_together_are_all_in_vllms_histograms(engine):
    name = "vllm:request_generation_tokens"
    ends = (f"{name}_count", f"{name}_sum")
    await until_idle(engine)
    before = [counted(end) for end in ends]
    asked = [asking("Hello", max_tokens=tokens) for tokens in (3, 3, 4)]
    answers = await asyncio.gather(*(answer(engine, each) for each in asked))
    used = [deltas[-1].usage.completion_tokens for deltas in answers]
    assert [counted(end) - had for end, had in zip(ends, before, strict=True)] == [3, sum(used)]
    assert counted(f"{name}_bucket", le="+Inf") == counted(f"{name}_count")


async def test_the_encoders_time_is_told_once_of_each_request_it_worked_for(engine):
    """A second late; not of one whose picture had been encoded before, for another."""
    ENCODED.clear()
    first, again, other = (
        asking("what", picture(colour, (170, 60)), max_tokens=2)
        for colour in ("teal", "teal", "olive")
    )
    await answer(engine, first)
    await asyncio.gather(answer(engine, again), answer(engine, other))
    await asyncio.sleep(3.0)
    assert {request for request, _ in ENCODED} == {first.id, other.id}
    assert len(ENCODED) == 2
    assert all(0 < seconds < 10 for _, seconds in ENCODED)


async def test_streams_add_up_to_the_plain_answer(engine):
    """Token by token, the last delta alone with reason and usage, which are the same."""
    (plain,) = await answer(engine, asking())
    deltas = await answer(engine, asking(stream=True))
    assert len(deltas) > 1
    assert "".join(delta.text for delta in deltas) == plain.text
    assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish == plain.finish
    assert deltas[-1].usage.completion_tokens == plain.usage.completion_tokens


async def test_what_queues_while_nobody_reads_is_one_delta(engine):
    """With all of its text, and the usage up to there."""
    (plain,) = await answer(engine, asking("Describe the image.", max_tokens=16))
    deltas = []
    async for delta in engine.generate(asking("Describe the image.", max_tokens=16, stream=True)):
        deltas.append(delta)
        await asyncio.sleep(0.3)
    assert len(deltas) < plain.usage.completion_tokens
    assert "".join(delta.text for delta in deltas) == plain.text
    assert deltas[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert deltas[-1].finish == plain.finish


async def test_every_time_between_tokens_is_in_vllms_histogram(engine):
    """One fewer than there are tokens, each in a bucket; so many seconds as the decoding took."""
    name = "vllm:inter_token_latency_seconds"
    seen = {each: metric(name + each) for each in ("_count", "_sum")}
    last = (await answer(engine, asking(max_tokens=16, stream=True)))[-1]
    await answer(engine, asking(max_tokens=1))  # the last step has been counted by then
    assert metric(f"{name}_count") - seen["_count"] == last.usage.completion_tokens - 1
    assert metric(f"{name}_sum") - seen["_sum"] == pytest.approx(last.stages.decode)


async def test_usage_counts_the_prompt_and_what_was_cached_of_it(engine):
    """The second time most of the prompt comes from the cache, in whole blocks."""
    long = asking("colour " * 200)
    first, again = [(await answer(engine, long))[0].usage for _ in range(2)]
    assert first.prompt_tokens == again.prompt_tokens > 200
    assert 0 == first.cached_tokens < again.cached_tokens < again.prompt_tokens


async def test_prompts_are_cached_for_one_salt_only(engine):
    """Another tenant learns nothing from how fast its own request is; the same one gains."""
    long = asking("secret " * 200)
    mine, theirs = replace(long, salt="a" * 32), replace(long, salt="b" * 32)
    cached = [
        (await answer(engine, each))[0].usage.cached_tokens for each in (mine, theirs, mine, theirs)
    ]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 100


async def test_a_picture_seen_before_is_cached_for_one_salt_only(engine):
    """With the text around it, and its tiles too; the answer stays as it was."""
    asked = asking(picture("teal"), "What is this? " * 60)
    mine, theirs = replace(asked, salt="a" * 32), replace(asked, salt="b" * 32)
    tiled = metric("vllm:mm_cache_hits_total")
    answers = [(await answer(engine, each))[0] for each in (mine, theirs, mine, theirs)]
    cached = [each.usage.cached_tokens for each in answers]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 100
    assert len({each.text for each in answers}) == 1
    await answer(engine, asking(max_tokens=1))  # what was counted is reported with a step
    assert metric("vllm:mm_cache_hits_total") == tiled + 2


async def test_another_picture_under_the_same_text_is_not_the_one_seen_before(engine):
    """Nothing from the picture on comes from the cache."""
    words = "What is this? " * 60
    first = (await answer(engine, asking(picture("gold"), words)))[0]
    again = (await answer(engine, asking(picture("gold"), words)))[0]
    other = (await answer(engine, asking(picture("gray"), words)))[0]
    assert first.usage.cached_tokens == other.usage.cached_tokens == 0
    assert again.usage.cached_tokens > 100


def metric(name: str) -> float:
    """The sum of one of vLLM's series over the engines of this process."""
    return sum(s.value for m in REGISTRY.collect() for s in m.samples if s.name == name)


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_used_before_giving_up_is_told(engine, stream):
    """Of a plain answer too, which has yielded nothing by then."""
    heard = []

    async def ask():
        async for _ in engine.generate(endless(stream), heard.append):
            pass

    task = asyncio.create_task(ask())
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (usage,) = heard
    assert usage.prompt_tokens > 5
    assert 10 < usage.completion_tokens < 7000
    assert await answer(engine, asking())
    assert len(heard) == 1


async def test_the_size_of_a_request_is_known_before_it_runs(engine):
    """The tokens exactly, of short prompts; the tiles of pictures."""
    text = asking("tell me more")
    assert engine.size(text).prompt_tokens == (await answer(engine, text))[0].usage.prompt_tokens
    assert await engine.count(text) == engine.size(text).prompt_tokens
    assert engine.size(asking(picture(size=(20, 20)), "Hello")).tiles == 1
    large = engine.size(asking(picture(size=(3000, 3000)), "Hello"))
    assert (large.tiles, large.pixels) == (4, 9_000_000)
    assert engine.size(asking(Image(b"no picture"))).tiles == 1


async def test_the_tokens_of_images_are_the_prompts(engine):
    """Its place in the text, and what each of its tiles becomes for the vision tower."""
    (none,) = await answer(engine, asking("Hello"))
    small, large = picture(size=(20, 20)), picture("blue", (3000, 3000))
    (one,) = await answer(engine, asking(small, "Hello"))
    (two,) = await answer(engine, asking(small, large, "Hello"))
    tile = one.usage.image_tokens
    assert none.usage.image_tokens == 0 < tile < one.usage.prompt_tokens
    assert two.usage.image_tokens == 5 * tile  # one tile, and four
    assert two.usage.prompt_tokens == one.usage.prompt_tokens + 1 + 4 * tile


async def test_a_request_has_as_many_prompt_tokens_as_were_counted_before(engine):
    """Pictures in several shapes too."""
    for size in ((20, 20), (200, 100), (64, 300), (170, 170)):
        asked = asking(picture(size=size), "Hello")
        (delta,) = await answer(engine, asked)
        assert engine.size(asked).image_tokens == delta.usage.image_tokens, size
        assert await engine.count(asked) == delta.usage.prompt_tokens, size


async def test_images_found_with_their_text_are_cached_tokens(engine):
    """A second turn about one picture computes neither the picture nor the first turn."""
    shape = picture("purple", (170, 170))
    first = "What colour is the shape? " + "Look at it once more. " * 40
    (one,) = await answer(engine, asking(shape, first))
    (two,) = await answer(engine, asking(shape, first + "And now?"))
    assert (one.usage.cached_tokens, one.usage.cached_image_tokens) == (0, 0)
    assert two.usage.cached_image_tokens == two.usage.image_tokens == one.usage.image_tokens
    assert two.usage.cached_tokens > two.usage.image_tokens
    assert two.usage.new_images == 0
    assert 0 < two.usage.new_text_tokens < one.usage.new_text_tokens


async def test_images_count_against_the_context(engine):
    """What does not fit with its pictures is refused before it runs, in tokens of all."""
    many = [picture(colour, (3000, 3000)) for colour in ("red", "green", "blue", "black")]
    (fits,) = await answer(engine, asking(*many, "Hello"))
    longest = WINDOW - fits.usage.prompt_tokens
    with pytest.raises(ContextExceeded) as refused:
        await answer(engine, asking(*many, "Hello", max_tokens=longest + 1))
    assert refused.value.asked == WINDOW + 1


@pytest.mark.parametrize("size", [(90, 60), (3000, 3000), (200, 100), (130, 500)])
async def test_pictures_are_counted_and_fill_the_context_window(engine, size):
    """By their tiles, before anything is computed."""
    seen = picture(size=size)
    (delta,) = await answer(engine, asking(seen, "Hello"))
    told = delta.usage.prompt_tokens
    assert told > delta.usage.image_tokens > 0
    assert await engine.count(asking(seen, "Hello")) == told
    with pytest.raises(ContextExceeded) as caught:
        await anext(engine.generate(asking(seen, "Hello", max_tokens=8193 - told)))
    assert (caught.value.asked, caught.value.limit) == (8193, 8192)


async def test_who_stands_first_runs_first(engine):
    """Of those that wait in the engine, whoever came when."""
    numbers = {"type": "array", "items": {"enum": [7]}, "minItems": 30, "maxItems": 30}
    long, begun = JsonFormat(numbers), []

    async def ask(name, priority):
        asked = replace(asking(json_format=long, stream=True, max_tokens=200), priority=priority)
        async for delta in engine.generate(asked):
            if name not in begun and delta.text:
                begun.append(name)

    burst = [asyncio.create_task(ask(f"late {index}", 9)) for index in range(10)]
    await asyncio.sleep(0.05)
    burst.append(asyncio.create_task(ask("first", 0)))
    await asyncio.gather(*burst)
    assert begun.index("first") <= 7


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (640, 480)])
async def test_pictures_of_any_shape(engine, size):
    """Down to a pixel, and lines of them."""
    (delta,) = await answer(engine, asking(picture(size=size), "What is it?"))
    assert delta.finish is not None


async def test_stop_strings_end_the_answer(engine):
    """And are not part of it."""
    (plain,) = await answer(engine, asking())
    word = plain.text.split()[-1]
    (cut,) = await answer(engine, asking(stop=(word,)))
    assert cut.finish is Finish.STOP
    assert word not in cut.text


async def test_a_stop_string_of_one_stream_ends_no_other(engine):
    """And nothing of it runs on in the engine."""
    asked = [asking(f"{n}?", stream=True, max_tokens=30) for n in range(3)]
    alone = ["".join(d.text for d in await answer(engine, each)) for each in asked]
    word = alone[0].split()[-1]
    stopped = asking("0?", stream=True, max_tokens=30, stop=(word,))
    together = await asyncio.gather(*(answer(engine, each) for each in (stopped, *asked[1:])))
    texts = ["".join(delta.text for delta in deltas) for deltas in together]
    assert texts == [alone[0].partition(word)[0], *alone[1:]]
    assert together[0][-1].stop == word
    await until_idle(engine)


async def test_tokens_that_came_while_the_loop_was_busy_are_all_handed_over(engine):
    """The engine's socket says once that there is news, not once for each message."""
    (whole,) = await answer(engine, sevens(60, False))
    parts: list[Delta] = []
    async with asyncio.timeout(10):
        async for delta in engine.generate(sevens(60, True)):
            parts.append(delta)
            if len(parts) in (3, 9, 27):
                time.sleep(0.05)  # noqa: ASYNC251
    assert "".join(part.text for part in parts) == whole.text
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_seeds_repeat(engine):
    """At a temperature and for digits that otherwise never come the same twice."""
    digits = {"type": "array", "items": {"enum": [*range(10)]}, "minItems": 40, "maxItems": 40}
    hot = {"json_format": JsonFormat(digits), "temperature": 2.0, "max_tokens": 200}
    seeded = asking(seed=9_999_999_999, **hot)
    first, second = [(await answer(engine, seeded))[0].text for _ in range(2)]
    assert first == second
    assert (await answer(engine, asking(**hot)))[0].text != first


async def test_json_meets_its_schema(engine):
    """Whatever the model knows."""
    schema = {
        "type": "object",
        "properties": {"shape": {"enum": ["circle", "square"]}},
        "required": ["shape"],
        "additionalProperties": False,
    }
    asked = asking("Which shape?", json_format=JsonFormat(schema), max_tokens=64)
    (delta,) = await answer(engine, asked)
    assert json.loads(delta.text)["shape"] in ("circle", "square")


@pytest.mark.parametrize(
    ("generation", "error", "words"),
    [
        pytest.param(asking(max_tokens=8192), ContextExceeded, "limit \\(8192\\)", id="answer"),
        pytest.param(asking("colour " * 9000), ContextExceeded, "exceeded", id="prompt"),
        pytest.param(asking(max_tokens=0), InvalidInput, "at least 1", id="no-tokens"),
        pytest.param(asking(*[picture()] * 5), InvalidImage, "more than 4", id="images"),
        pytest.param(asking(Image(b"GIF89a")), InvalidImage, "cannot decode", id="damaged"),
        pytest.param(asking(stop=("",)), InvalidInput, "stop", id="empty-stop"),
        pytest.param(
            asking(json_format=JsonFormat({"type": "nonsense"})),
            InvalidInput,
            '^Failed to .* grammar: Unsupported type "nonsense"$',
            id="schema",
        ),
    ],
)
async def test_what_can_never_be_served_is_refused_at_once(engine, generation, error, words):
    """Before the first delta, in the words of the domain; the engine goes on."""
    with pytest.raises(error, match=words):
        await anext(engine.generate(generation))
    await engine.check_health()


async def test_who_may_not_wait_is_served_or_refused_at_once(engine):
    """While everything runs there is no room, though there is a queue."""
    hasty = replace(asking(max_tokens=2), may_wait=False)
    assert (await answer(engine, hasty))[-1].finish is not None
    tasks = [asyncio.create_task(answer(engine, endless(True))) for _ in range(5)]
    await asyncio.sleep(0.3)
    try:
        with pytest.raises(Overloaded, match="Capacity temporarily exceeded"):
            await answer(engine, hasty)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until_idle(engine)


async def test_who_must_call_calls(engine):
    """One of the tools, with arguments that meet its schema, whatever the prompt says."""
    size = {"type": "object", "properties": {"n": {"enum": [3]}}, "required": ["n"]}
    tools = (Tool("resize", "Sets a size", {**size, "additionalProperties": False}),)
    generation = replace(asking(max_tokens=64), tools=tools, must_call=True)
    text = (await answer(engine, generation))[-1].text
    assert json.loads(text) == {"name": "resize", "parameters": {"n": 3}}
    # In the order in which the parts of a streamed call are read from it.
    growing = Growing(tools)
    streamed = await answer(engine, replace(generation, id=str(uuid4()), stream=True))
    parts = [part for delta in streamed for part in growing.feed(delta).call_parts]
    assert "".join(part.name for part in parts) == "resize"
    assert json.loads("".join(part.arguments for part in parts)) == {"n": 3}
    assert parts[-1].ends


async def test_the_text_that_stopped_an_answer_is_named(engine):
    """Which of several it was."""
    forced = JsonFormat(
        {"type": "object", "properties": {"a": {"enum": ["xyz"]}}, "required": ["a"]}
    )
    delta = (await answer(engine, asking(json_format=forced, max_tokens=64, stop=("q!", "yz"))))[-1]
    assert (delta.stop, delta.finish) == ("yz", Finish.STOP)
    assert (await answer(engine, asking()))[-1].stop is None


async def test_a_full_queue_says_come_back(engine):
    """Beyond `max_num_queued_reqs` nothing waits."""
    tasks = [asyncio.create_task(answer(engine, endless(True))) for _ in range(QUEUE)]
    await asyncio.sleep(0.3)
    try:
        with pytest.raises(Overloaded):
            await answer(engine, asking())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until_idle(engine)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.5], ids=["at-once", "early", "late"])
async def test_cancelling_aborts_in_the_engine(engine, stream, delay):
    """Before the first token, while it is computed, and after it."""
    task = asyncio.create_task(answer(engine, endless(stream)))
    await asyncio.sleep(delay)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_idle(engine)


async def test_cancelling_while_a_picture_is_prepared(engine):
    """Nothing reaches the engine, and the same picture works the next time."""
    slow = asking(picture("green", (3000, 3000)), "What is it?")
    task = asyncio.create_task(answer(engine, slow))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await answer(engine, slow))[0].finish is not None
    await until_idle(engine)


async def test_closing_a_stream_aborts_in_the_engine(engine):
    """What the gateway does when the client leaves between two tokens."""
    stream = engine.generate(endless(True))
    await anext(stream)
    await asyncio.sleep(LATE)
    assert await running() == 1
    await stream.aclose()
    await until_idle(engine)


async def test_pictures_are_decoded_and_tiled_off_the_loop(engine, monkeypatch):
    """Both take long for a large picture; other requests must not wait for it."""
    threads = {}

    def recorded(owner: object, name: str) -> None:
        work = getattr(owner, name)

        def record(*args, **kwargs):
            threads[name] = threading.current_thread()
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, record)

    recorded(images, "decode")
    recorded(MllamaImageProcessorPil, "preprocess")
    await answer(engine, asking(picture("blue", (500, 500)), "What?"))
    assert set(threads) == {"decode", "preprocess"}
    assert threading.main_thread() not in threads.values()


async def test_pictures_are_prepared_in_the_order_of_priorities(engine):
    """Of a burst of large ones none makes another tenant's wait but those in work."""
    ended = []

    async def ask(name, generation):
        await answer(engine, generation)
        ended.append(name)

    large = [asking(picture("red", (2500, 2500 + n)), "What?", max_tokens=1) for n in range(6)]
    burst = [
        asyncio.create_task(ask("burst", replace(generation, priority=9))) for generation in large
    ]
    await asyncio.sleep(0)
    await ask("first", replace(asking(picture("blue"), "What?", max_tokens=1), priority=1))
    await asyncio.gather(*burst)
    assert ended.index("first") <= 3


async def test_whoever_leaves_while_waiting_for_its_picture_s_turn_takes_nobody_s_place(engine):
    slow = [asking(picture("red", (2500, 2500 + n)), "What?", max_tokens=1) for n in range(8)]
    tasks = [asyncio.create_task(answer(engine, each)) for each in slow]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await answer(engine, slow[0]))[0].finish is not None
    await until_idle(engine)


async def test_a_dead_engine_fails_its_requests_and_its_health(engine):
    """Within seconds; waiting callers are not left hanging."""
    task = asyncio.create_task(answer(engine, endless(True)))
    await asyncio.sleep(0.3)
    cores = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name()]
    assert len(cores) == 1
    ended = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    assert not ended.done()
    cores[0].kill()
    async with asyncio.timeout(10):
        with pytest.raises(EngineFailed):
            await task
        await ended
        await engine.ended()
    with pytest.raises(EngineFailed):
        await engine.check_health()
    with pytest.raises(EngineDown) as caught:  # never came to the engine: another may serve it
        await anext(engine.generate(asking()))
    assert caught.value.retry_after > 1  # as long as this one took to load
