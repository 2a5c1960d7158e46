"""Output tokens per second with pictures: our vLLM plugin against transformers' batched `generate`.

Both get the same prompts, a picture of 1 to 4 tiles each, and make the same greedy tokens, in
the type that the processor knows, on the same number of threads, at most 16 requests at once. Two
kinds of work:

    equal     16 requests, all of one length: the best a static batch can have
    mixed     64 requests, each of a length of its own, as chat traffic has them. transformers runs
              them 16 at a time, in order; a batch lasts as long as its longest answer

Both times begin with the decoded pictures: they include tiling and the vision tower. Each side
runs as it comes: vLLM compiles the decoder; transformers runs left-padded batches, not compiled,
with SDPA.

The ratio of CPU times is shown beside that of the rates: with one thread it stays meaningful on a
machine that others use. (With more, threads that wait for each other burn CPU time.)
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, machine, peer, report, rounds
from benchmarks.prompts import Prompt, mixed

NAME = "plugin_vs_transformers"
SIDES = ("plugin", "transformers")
TARGET = 4.0
CONCURRENCY = 16
WORKS = {"equal": 16, "mixed": 64}
"""Requests of each kind of work."""
# Output tokens: all the same, or log-normal, cut off below and above.
_EQUAL, _MEDIAN, _SIGMA, _SHORTEST, _LONGEST = 64, 48, 0.9, 4, 256

Generate = Callable[[list[Prompt], list[int]], None]


def main() -> None:
    """The command."""
    options = _options()
    if options.side:
        _measure(options.side, Path(options.folder))
        return
    settings = {
        "dtype": machine.dtype(),
        "threads": options.threads,
        "concurrent_requests": CONCURRENCY,
        "output_tokens": {
            "equal": _EQUAL,
            "mixed": f"log-normal, median {_MEDIAN}, sigma {_SIGMA}, {_SHORTEST} to {_LONGEST}",
        },
        "pictures": "one a prompt, 1 to 4 tiles of 224 px in turn",
        "text_tokens": "30 to 60",
        "plugin": "vllm.LLM.generate, default compilation, one process, max_num_seqs 16",
        "transformers": "generate on left-padded batches, sdpa, dynamic cache, inference_mode",
    }
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint.middle(Path(name) / "mllama")
        head["settings"]["parameters"] = checkpoint.parameters(folder)
        seen = _alternate(folder, options)
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each side")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    return options


def lengths(work: str, seed: int) -> list[int]:
    """Output tokens of each request."""
    if work == "equal":
        return [_EQUAL] * WORKS[work]
    draw = random.Random(seed)
    drawn = (draw.lognormvariate(0, _SIGMA) * _MEDIAN for _ in range(WORKS[work]))
    return [min(_LONGEST, max(_SHORTEST, round(each))) for each in drawn]


def _alternate(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each round's seconds and output tokens of the sides, for each kind of work."""
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [f"benchmarks.{NAME}", "--folder", str(folder), "--side"]
    peers = {
        side: peer.Peer([*command, side], environment, folder.parent / f"{side}.log")
        for side in SIDES
    }
    try:
        for side in SIDES:  # warm up: lazy imports, first allocations
            peers[side].ask({"work": "equal", "seed": 0})
        seen = []
        for index, order in enumerate(rounds.orders(SIDES, options.rounds), start=1):
            figures: dict[str, Any] = {}
            for work in WORKS:
                question = {"work": work, "seed": index}
                figures[work] = {side: peers[side].ask(question) for side in order}
            seen.append(figures)
            print(index, figures, flush=True)
        return seen
    finally:
        for side in SIDES:
            peers[side].close()


def _report(head: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    rows, summary = [], {}
    for work, requests in WORKS.items():
        answers = [figures[work] for figures in seen]
        speeds = [{s: a[s]["tokens"] / a[s]["seconds"] for s in SIDES} for a in answers]
        cpu = [{s: a[s]["cpu_seconds"] for s in SIDES} for a in answers]
        ratio, cpu_ratio = rounds.ratios(speeds, *SIDES), rounds.ratios(cpu, *reversed(SIDES))
        spreads = {side: rounds.each(speeds, side) for side in SIDES}
        rows.append(
            {
                "work": f"{work}: {requests} requests, {CONCURRENCY} at once",
                "plugin, tok/s": spreads["plugin"].text(0),
                "transformers, tok/s": spreads["transformers"].text(0),
                "ratio": ratio.text(),
                "target": f"≥ {TARGET:g}",
                "ratio by CPU time": cpu_ratio.text(),
            }
        )
        summary[work] = {side: spread.json() for side, spread in spreads.items()}
        summary[work] |= {"ratio": ratio.json(), "cpu_ratio": cpu_ratio.json()}
    report.finish(head, rows, summary, seen)


def _measure(side: str, folder: Path) -> None:
    """One side's process."""
    answers = peer.claim_stdout()
    generate = _plugin(folder) if side == "plugin" else _transformers(folder)

    def answer(question: dict[str, Any]) -> dict[str, float]:
        wanted = lengths(question["work"], question["seed"])
        prompts = mixed(len(wanted), question["seed"])
        began, used = time.perf_counter(), time.process_time()
        generate(prompts, wanted)
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - used,
            "tokens": sum(wanted),
        }

    peer.answer_all(answers, answer)


def _plugin(folder: Path) -> Generate:
    """Generate with vLLM."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        dtype=machine.dtype(),
        max_model_len=1024,
        max_num_seqs=CONCURRENCY,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=2**30,
        limit_mm_per_prompt={"image": 1},
    )

    def generate(prompts: list[Prompt], wanted: list[int]) -> None:
        params = [
            SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False)
            for n in wanted
        ]
        requests = [
            {"prompt_token_ids": prompt.tokens, "multi_modal_data": {"image": prompt.images}}
            for prompt in prompts
        ]
        outputs = llm.generate(requests, params, use_tqdm=False)
        if [len(output.outputs[0].token_ids) for output in outputs] != wanted:
            raise RuntimeError("answers of other lengths")

    return generate


def _transformers(folder: Path) -> Generate:
    """Generate with transformers, a batch after the other, each to its longest answer."""
    import torch
    from transformers import MllamaForConditionalGeneration
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    model = MllamaForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, machine.dtype()), attn_implementation="sdpa"
    ).eval()
    model.generation_config.eos_token_id = None
    tiler = MllamaImageProcessorPil.from_pretrained(folder)

    @torch.inference_mode()
    def generate(prompts: list[Prompt], wanted: list[int]) -> None:
        for first in range(0, len(prompts), CONCURRENCY):
            part = slice(first, first + CONCURRENCY)
            inputs = _batch(prompts[part], tiler, model.config)
            out = model.generate(**inputs, max_new_tokens=max(wanted[part]), do_sample=False)
            if out.shape[1] - inputs["input_ids"].shape[1] != max(wanted[part]):
                raise RuntimeError("answers of another length")

    return generate


def _batch(prompts: list[Prompt], tiler: Any, config: Any) -> dict[str, Any]:
    """The model's inputs for one left-padded batch, as its own processor makes them."""
    import torch
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    width = max(len(prompt.tokens) for prompt in prompts)
    gaps = [width - len(prompt.tokens) for prompt in prompts]
    ids = [
        [checkpoint.PAD] * gap + prompt.tokens for gap, prompt in zip(gaps, prompts, strict=True)
    ]
    pictures = tiler(images=[prompt.images for prompt in prompts], return_tensors="pt")
    mask = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(row, config.image_token_index) for row in ids],
        num_tiles=pictures.pop("num_tiles"),
        max_num_tiles=config.vision_config.max_num_tiles,
        length=width,
    )
    pictures["pixel_values"] = pictures["pixel_values"].to(getattr(torch, machine.dtype()))
    return {
        **pictures,
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
        "cross_attention_mask": torch.from_numpy(mask),
    }


if __name__ == "__main__":
    main()
