"""Requests that give way to others in the step for which they were scheduled."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.mllama.checkpoints import BOS, PAD, VOCABULARY
from tests.mllama.conftest import answers, engine, greedy
from tests.mllama.prompts import Prompt
from tests.mllama.test_parity import metric

TOKENS = 8
CHUNK = 96
SETTINGS = {
    "scheduling_policy": "priority",
    "long_prefill_token_threshold": CHUNK,
    "max_model_len": 384,
}
# All that the three requests use when one of them wants more, and the null block.
BLOCKS = 21
IMAGES = {"with images": 1, "text only": 0}


def words(count: int) -> Prompt:
    """A text of its own."""
    rng = random.Random(count)
    return Prompt([BOS, *(rng.randrange(PAD + 1, VOCABULARY) for _ in range(count - 1))], [])


@pytest.mark.parametrize("deployment", IMAGES)
def test_what_was_scheduled_and_not_computed_is_never_found(
    deployment: str, checkpoint: Any
) -> None:
    """A long prompt gives way in the middle of its third chunk, and is resumed.

    vLLM makes blocks known when it schedules the tokens that fill them. The chunk's are the last
    ones of the pool; in the same step the request beside it needs more and comes first.
    """
    filler, long, urgent = words(310), words(300), words(32)
    limit = {"image": IMAGES[deployment]}
    pool = {"limit_mm_per_prompt": limit, "num_gpu_blocks_override": BLOCKS}
    with engine(checkpoint("gqa2"), **SETTINGS, **pool) as llm:
        want = []
        for prompt in (filler, long, urgent):
            assert llm.reset_prefix_cache()
            want += answers(llm, [prompt], TOKENS)
        assert llm.reset_prefix_cache()
        got: dict[str, list[int]] = {}

        def step() -> None:
            for output in llm.llm_engine.step():
                got[output.request_id] = list(output.outputs[0].token_ids)

        for name, prompt, priority in (("0", filler, 0), ("1", long, 2), ("2", urgent, 1)):
            llm.llm_engine.add_request(name, prompt.for_vllm(), greedy(TOKENS), priority=priority)
            step()
        while llm.llm_engine.has_unfinished_requests():
            step()
        assert metric(llm, "vllm:num_preemptions") > 0
        assert [got[name] for name in sorted(got)] == want
