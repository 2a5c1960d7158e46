"""Checkpoints, reference answers and engines for the plugin's tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.mllama.checkpoints import SHAPES, save
from tests.mllama.prompts import Prompt, prompts
from tests.mllama.reference import Reference

TOKENS = 16
"""Greedy tokens compared in each case."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The float32 checkpoint of a shape, written at first use."""
    folders: dict[str, Path] = {}

    def get(shape: str) -> Path:
        if shape not in folders:
            folders[shape] = save(tmp_path_factory.mktemp(shape), SHAPES[shape])
        return folders[shape]

    return get


@pytest.fixture(scope="session")
def expected(
    checkpoint: Callable[[str], Path],
) -> Callable[[str], dict[str, tuple[Prompt, list[int]]]]:
    """Prompts of a shape with what the reference answers to them."""
    answers: dict[str, dict[str, tuple[Prompt, list[int]]]] = {}

    def get(shape: str) -> dict[str, tuple[Prompt, list[int]]]:
        if shape not in answers:
            reference = Reference(checkpoint(shape))
            answers[shape] = {
                name: (prompt, reference.generate(prompt.tokens, prompt.images, TOKENS))
                for name, prompt in prompts(SHAPES[shape].tile, SHAPES[shape].max_tiles).items()
            }
        return answers[shape]

    return get


@contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[Any]:
    """A vLLM engine in this process, gone at the end.

    In this process because importing vLLM in two more costs ten seconds of CPU an engine; the
    asynchronous test and the end-to-end tests run it in processes of its own.
    """
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    with patch.dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0"):
        llm = LLM(str(folder), **{**SMALL, **settings})
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            cleanup_dist_env_and_memory()


SMALL: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 3},
    "disable_log_stats": False,
    "kv_cache_memory_bytes": 64 << 20,
}


def greedy(tokens: int = TOKENS) -> Any:
    """Exactly `tokens` greedy tokens."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)


def answers(llm: Any, asked: list[Prompt], tokens: int = TOKENS) -> list[list[int]]:
    """The engine's greedy tokens for prompts given to it all at once."""
    outputs = llm.generate([p.for_vllm() for p in asked], greedy(tokens), use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def pytest_configure() -> None:
    """Small, quiet engines, before vLLM reads its environment."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
