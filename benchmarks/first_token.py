"""Time to the first token of a request with a picture, split by where it goes.

One request at a time on an idle engine, in one process, so that the stages follow each other and
each can be timed from outside: the functions below are wrapped here, the product is as it is.
Every request has another picture, as the engine remembers those it has prepared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, machine, prompts, report
from benchmarks.rounds import Spread

NAME = "first_token"
TILES = (1, 4)
TEXT_TOKENS = 48
STAGES = (
    "image preprocessing",
    "vision tower",
    "projection, cross-attention KV",
    "prefill: text layers, logits",
    "the rest",
)


def main() -> None:
    """The command."""
    options = _options()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    settings = {
        "dtype": machine.dtype(),
        "threads": options.threads,
        "text_tokens": TEXT_TOKENS,
        "tile": "224 px, 257 encoder tokens",
        "engine": "vllm.LLM, one process, enforce_eager, max_tokens 1",
    }
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint.middle(Path(name))
        head["settings"]["parameters"] = checkpoint.parameters(folder)
        seen = _measure(folder, options.rounds)
    rows = [_row(tiles, [each[str(tiles)] for each in seen]) for tiles in TILES]
    summary = {
        f"{tiles} tiles": {
            stage: Spread.of([each[str(tiles)][stage] for each in seen]).json()
            for stage in ("total", *STAGES)
        }
        for tiles in TILES
    }
    report.finish(head, rows, {"milliseconds": summary}, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads")
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 5
    return options


def _row(tiles: int, figures: list[dict[str, float]]) -> dict[str, str]:
    """Median milliseconds, with each stage's share of the whole."""
    total = Spread.of([each["total"] for each in figures])
    row = {"tiles": str(tiles), "TTFT, ms": total.text(0)}
    for stage in STAGES:
        share = Spread.of([each[stage] / each["total"] for each in figures]).median
        middle = Spread.of([each[stage] for each in figures]).median
        row[stage] = f"{middle:.1f} ({100 * share:.0f} %)"
    return row


def _measure(folder: Path, count: int) -> list[dict[str, dict[str, float]]]:
    """Milliseconds of each stage, by tiles, for each round."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        dtype=machine.dtype(),
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=16,
        kv_cache_memory_bytes=2**30,
        limit_mm_per_prompt={"image": 1},
    )
    spent: dict[str, float] = defaultdict(float)
    _wrap(llm, spent)
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)

    def first_token(tiles: int, seed: int) -> dict[str, float]:
        prompt = prompts.pictured(TEXT_TOKENS, tiles, seed)
        spent.clear()
        began = time.perf_counter()
        request = {"prompt_token_ids": prompt.tokens, "multi_modal_data": {"image": prompt.images}}
        llm.generate([request], params, use_tqdm=False)
        spent["total"] = time.perf_counter() - began
        spent["the rest"] = spent["total"] - sum(spent[stage] for stage in STAGES[:-1])
        return {stage: 1000 * spent[stage] for stage in ("total", *STAGES)}

    for tiles in TILES:  # warm up
        first_token(tiles, tiles)
    return [
        {str(tiles): first_token(tiles, 10 * index + tiles) for tiles in TILES}
        for index in range(1, count + 1)
    ]


def _wrap(llm: Any, spent: dict[str, float]) -> None:
    """Count the time of the stages' functions. None of them calls another."""
    from serving.mllama.processor import MllamaMultiModalProcessor

    def timed(owner: Any, name: str, stage: str) -> None:
        setattr(owner, name, _timed(getattr(owner, name), spent, stage))

    def instrument(model: Any) -> None:
        text = model.language_model.model
        timed(model.vision_model, "forward", STAGES[1])
        timed(model.multi_modal_projector, "forward", STAGES[2])
        timed(text, "remember", STAGES[2])
        timed(text, "forward", STAGES[3])
        timed(model, "compute_logits", STAGES[3])

    timed(MllamaMultiModalProcessor, "apply", STAGES[0])
    llm.apply_model(instrument)


def _timed(function: Callable[..., Any], spent: dict[str, float], stage: str) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            spent[stage] += time.perf_counter() - began

    return call


if __name__ == "__main__":
    main()
