"""What a deployment refuses, and that it refuses at once."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from tests.mllama.checkpoints import IMAGE, SHAPES
from tests.mllama.conftest import answers, engine
from tests.mllama.prompts import Prompt, compose
from tests.mllama.reference import Reference

TILE = SHAPES["gqa2"].tile


def test_too_many_images_and_stray_image_tokens_are_refused(checkpoint: Any, expected: Any) -> None:
    """With a message, before anything is scheduled; the next request is served."""
    two = compose("two", TILE, 4, (1, 1), 3, (1, 1), 5)
    prompt, want = expected("gqa2")["one tile after text"]
    with engine(checkpoint("gqa2"), limit_mm_per_prompt={"image": 1}) as llm:
        with pytest.raises(VLLMValidationError, match="At most 1 image"):
            answers(llm, [two])
        with pytest.raises(ValueError, match=r"2 <\|image\|> tokens for 1 images"):
            answers(llm, [Prompt(two.tokens, two.images[:1])])
        with pytest.raises(ValueError, match=r"0 <\|image\|> tokens for 1 images"):
            answers(llm, [Prompt([t for t in two.tokens if t != IMAGE], two.images[:1])])
        assert answers(llm, [prompt]) == [want]


def test_a_pool_that_cannot_hold_one_full_request_is_refused_at_start(checkpoint: Any) -> None:
    """So that no request within the limits can wait for ever: the start counts the longest prompt
    with the most images, each with all its tiles, also when an operator overrides the pool."""
    small = {"num_gpu_blocks_override": 20, "max_model_len": 64}
    with (
        pytest.raises(ValueError, match="larger than the available KV cache"),
        engine(checkpoint("gqa2"), **small),
    ):
        pass


def test_the_largest_request_within_the_limits_is_served(checkpoint: Any) -> None:
    """Alone in the smallest pool that the start accepts."""
    largest = compose("largest", TILE, 10, (2, 2), 20, (4, 1), (2, 2), 30)
    want = Reference(checkpoint("gqa2")).generate(largest.tokens, largest.images, 32)
    # 3 blocks of text, 24 of images, and the null block.
    with engine(checkpoint("gqa2"), num_gpu_blocks_override=28, max_model_len=96) as llm:
        assert answers(llm, [largest], 32) == [want]


def test_a_text_only_deployment_reserves_nothing_for_images(checkpoint: Any, expected: Any) -> None:
    """With a limit of 0 images the tower is not loaded and text answers are the same."""
    prompt, want = expected("gqa2")["text"]
    with engine(checkpoint("gqa2"), limit_mm_per_prompt={"image": 0}) as llm:
        assert answers(llm, [prompt]) == [want]
        assert not llm.llm_engine.model_config.is_encoder_decoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 160}, "block size that divides 128"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"decode_context_parallel_size": 2, "tensor_parallel_size": 2}, "decode context"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative"),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "KV or encoder connectors",
        ),
        ({"kv_offloading_size": 1}, "KV or encoder connectors"),
        ({"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}, "a scheduler of its own"),
    ],
)
def test_settings_that_would_be_wrong_are_refused(
    settings: dict[str, Any], message: str, checkpoint: Any
) -> None:
    """At start-up, in words."""
    from vllm.engine.arg_utils import EngineArgs

    with pytest.raises(ValueError, match=message):
        EngineArgs(str(checkpoint("gqa2")), **settings).create_engine_config()
