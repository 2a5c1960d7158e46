"""Images and prefixes seen before: reused, and never wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from serving.mllama import scheduler
from tests.mllama.checkpoints import BOS, IMAGE
from tests.mllama.conftest import engine, greedy
from tests.mllama.test_parity import metric
from tests.mllama.traffic import TOKENS, Case, Traffic, cases

# Uuids name pictures here, and vLLM's cache of processed pictures goes by them alone.
PREFIXES = ("vllm:prefix_cache_queries", "vllm:prefix_cache_hits")
COUNTERS = ("prefix_cache_hits", "num_preemptions")
SETTINGS = {"mm_processor_cache_gb": 0, "limit_mm_per_prompt": {"image": 4}, "max_model_len": 256}
SETTINGS |= {"scheduling_policy": "priority"}
# The least that the start accepts is 41.
POOLS = {"room for all": {}, "constant eviction": {"num_gpu_blocks_override": 43}}


@pytest.fixture(scope="module", params=POOLS)
def traffic(request: pytest.FixtureRequest, checkpoint: Any) -> Iterator[Traffic]:
    """An engine; in the smaller pool images and prefixes are evicted, and requests preempted."""
    with engine(checkpoint("gqa2"), **SETTINGS, **POOLS[request.param]) as llm:
        yield Traffic(llm)


@pytest.fixture(scope="module")
def want(traffic: Traffic) -> dict[Case, list[int]]:
    """The cold answers."""
    return traffic.cold(cases(seed=1, count=60))


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_from_warm_caches_equal_the_cold_ones(
    seed: int, traffic: Traffic, want: dict[Case, list[int]]
) -> None:
    """Requests in random order, at random moments, some given up; nothing stays behind."""
    traffic.forget()
    before = {name: metric(traffic.llm, f"vllm:{name}") for name in COUNTERS}
    assert traffic.differing(want, seed, requests=100) == []
    assert traffic.leaked() == []
    grown = {name: metric(traffic.llm, f"vllm:{name}") - old for name, old in before.items()}
    assert grown["prefix_cache_hits"] > 0
    assert (grown["num_preemptions"] > 0) == traffic.scarce


@pytest.mark.slow
def test_a_thousand_requests_equal_the_cold_ones(traffic: Traffic) -> None:
    """The same at length, over more prompts; two thousand in all, for the two pools."""
    want = traffic.cold(cases(seed=2, count=200))
    assert traffic.differing(want, seed=4, requests=1000) == []
    assert traffic.leaked() == []


def without_pixels(feature: Any, salt: str | None) -> str:
    """A name that all images of a size share."""
    return f"{feature.mm_position.length}"


def without_layout(feature: Any, salt: str | None) -> str:
    """A name that a picture keeps in another layout of as many tiles."""
    return f"{feature.identifier} {feature.mm_position.length} {salt}"


WRONG_HITS = {
    "one name for all images": ("image_name", without_pixels),
    "one name for all layouts": ("image_name", without_layout),
    "KV that ignores the image": ("image_digest", lambda name, lora: bytes(32)),
    "prefixes that ignore all images but the first": ("hash_by_position", lambda *args: None),
}


@pytest.mark.parametrize("injected", WRONG_HITS)
def test_a_wrong_hit_would_be_noticed(
    injected: str, traffic: Traffic, want: dict[Case, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each part of what makes images the same taken out, the comparison above fails."""
    name, broken = WRONG_HITS[injected]
    monkeypatch.setattr(scheduler, name, broken)
    traffic.forget()
    try:
        assert traffic.differing(want, seed=1, requests=100) != []
    finally:
        traffic.forget()


def test_each_part_of_a_request_is_reused_by_itself(
    traffic: Traffic,
) -> None:
    """Text up to what differs; an image wherever it stands; neither for another salt.

    The metrics of prefixes count the same tokens as the answers.
    """
    if traffic.scarce:
        pytest.skip("what is evicted is not reused")
    traffic.forget()
    text, more, question = ([5 + i] * 50 for i in range(3))
    first = (("a", (2, 2)),)
    begin = (BOS, *text, IMAGE, *more)
    asked = {
        "first": (Case(begin, first), 0, 1, 148),
        "the same again": (Case(begin, first), 96, 0, 0),
        "the next turn": (Case((*begin, *question), first), 96, 0, 0),
        "another picture": (Case(begin, (("b", (1, 1)),)), 32, 1, 37),
        "the same picture in another place": (Case((BOS, IMAGE, *more), first), 0, 0, 0),
        "both, the second one after": (
            Case((*begin, IMAGE, *question), (*first, ("b", (1, 1)))),
            96,
            0,
            0,
        ),
        "side by side": (Case((BOS, IMAGE, IMAGE, *more), (*first, ("b", (1, 1)))), 0, 0, 20 + 37),
        "for another tenant": (Case(begin, first, "other"), 0, 1, 148),
        "without pictures": (Case((BOS, *text, *more), ()), 32, 0, 0),
    }
    for name, (case, cached, encoded, written) in asked.items():
        before = [metric(traffic.llm, each) for each in PREFIXES]
        with watched(traffic) as seen:
            (output,) = traffic.llm.generate(
                [case.for_vllm(traffic.drawn)], greedy(1), use_tqdm=False
            )
        got = (output.num_cached_tokens, seen["images"], seen["tokens"])
        assert got == (cached, encoded, written), name
        grown = [
            metric(traffic.llm, each) - old for each, old in zip(PREFIXES, before, strict=True)
        ]
        assert grown == [len(case.tokens), cached], name


def test_an_image_is_encoded_once_however_many_ask_at_once(traffic: Traffic) -> None:
    """Sixteen requests in one step: one pass of the tower, one write."""
    traffic.forget()
    case = Case((BOS, IMAGE, *range(10, 20)), (("a", (2, 2)),))
    with watched(traffic) as seen:
        traffic.llm.generate([case.for_vllm(traffic.drawn)] * 16, greedy(1), use_tqdm=False)
    assert (seen["images"], seen["tokens"]) == (1, 148)


def test_keys_and_values_evicted_alone_are_written_from_the_kept_encoder_output(
    traffic: Traffic, want: dict[Case, list[int]]
) -> None:
    """The tower runs no second time, and the answer is the same."""
    case = next(case for case in want if case.pictures)
    traffic.forget()
    ask = [case.for_vllm(traffic.drawn)]
    traffic.llm.generate(ask, greedy(1), use_tqdm=False)
    assert traffic.llm.reset_prefix_cache()
    with watched(traffic) as seen:
        (output,) = traffic.llm.generate(ask, greedy(TOKENS), use_tqdm=False)
    assert seen["images"] == 0
    assert seen["tokens"] > 0
    assert list(output.outputs[0].token_ids) == want[case]


@contextmanager
def watched(traffic: Traffic) -> Iterator[Counter[str]]:
    """Counts images that the tower encodes and encoder tokens whose KV is written."""
    seen: Counter[str] = Counter()
    (model,) = traffic.llm.apply_model(lambda model: model)
    tower, text = model.vision_model, model.language_model.model
    encode, remember = tower.forward, text.remember

    def counted_encode(pixels: Any, num_tiles: list[int], ratios: Any) -> Any:
        seen["images"] += len(num_tiles)
        return encode(pixels, num_tiles, ratios)

    def counted_remember(states: Any, slots: Any) -> None:
        seen["tokens"] += len(states)
        remember(states, slots)

    with (
        patch.object(tower, "forward", counted_encode),
        patch.object(text, "remember", counted_remember),
    ):
        yield seen
