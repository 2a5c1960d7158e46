"""Output tokens per second with pictures: our vLLM plugin against transformers' batched `generate`.

Both get the same prompts at once, a picture of 1 to 4 tiles each, and make exactly as many greedy
tokens, in bfloat16 on the same number of threads. Both times begin with the decoded pictures: they
include tiling and the vision tower. transformers runs one left-padded batch with SDPA.

The ratio of CPU times is shown beside that of the rates: with one thread it stays meaningful on a
machine that others use. (With more, threads that wait for each other burn CPU time.)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, peer, report, rounds
from benchmarks.prompts import Prompt, mixed

NAME = "plugin_vs_transformers"
SIDES = ("plugin", "transformers")
TARGET = 4.0


def main() -> None:
    """The command."""
    options = _options()
    if options.side:
        _measure(options.side, Path(options.folder), options.count, options.tokens)
        return
    settings = {
        "dtype": "bfloat16",
        "threads": options.threads,
        "concurrent_requests": options.count,
        "output_tokens": options.tokens,
        "pictures": "one a prompt, 1 to 4 tiles of 224 px in turn",
        "text_tokens": "30 to 60",
        "plugin": "vllm.LLM.generate, enforce_eager, one process, max_num_seqs = requests",
        "transformers": "generate on one left-padded batch, sdpa, dynamic cache, inference_mode",
    }
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint.middle(Path(name) / "mllama")
        head["settings"]["parameters"] = checkpoint.parameters(folder)
        seen = _alternate(folder, options)
    _report(head, seen, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=16, help="concurrent requests")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens a request")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each side")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    return options


def _alternate(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each round's seconds and output tokens per second of the sides."""
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [f"benchmarks.{NAME}", "--folder", str(folder), "--count", str(options.count)]
    command += ["--tokens", str(options.tokens), "--side"]
    peers = {
        side: peer.Peer([*command, side], environment, folder.parent / f"{side}.log")
        for side in SIDES
    }
    try:
        for side in SIDES:  # warm up: lazy imports, first allocations
            peers[side].ask({"seed": 0})
        seen = []
        for index, order in enumerate(rounds.orders(SIDES, options.rounds), start=1):
            seen.append({side: peers[side].ask({"seed": index}) for side in order})
            print(index, seen[-1], flush=True)
        return seen
    finally:
        for side in SIDES:
            peers[side].close()


def _report(head: dict[str, Any], seen: list[dict[str, Any]], options: argparse.Namespace) -> None:
    speeds = [
        {side: answer["tokens"] / answer["seconds"] for side, answer in figures.items()}
        for figures in seen
    ]
    ratio = rounds.ratios(speeds, *SIDES)
    cpu = [{side: answer["cpu_seconds"] for side, answer in figures.items()} for figures in seen]
    cpu_ratio = rounds.ratios(cpu, *reversed(SIDES))
    spreads = {side: rounds.each(speeds, side) for side in SIDES}
    row = {
        "concurrent requests": str(options.count),
        "plugin, tok/s": spreads["plugin"].text(0),
        "transformers, tok/s": spreads["transformers"].text(0),
        "ratio": ratio.text(),
        "target": f"≥ {TARGET:g}",
        "ratio by CPU time": cpu_ratio.text(),
    }
    summary = {side: spread.json() for side, spread in spreads.items()}
    summary |= {"ratio": ratio.json(), "cpu_ratio": cpu_ratio.json()}
    report.finish(head, [row], summary, seen)


def _measure(side: str, folder: Path, count: int, tokens: int) -> None:
    """One side's process."""
    answers = peer.claim_stdout()
    generate = _plugin(folder, count) if side == "plugin" else _transformers(folder)

    def answer(question: dict[str, Any]) -> dict[str, float]:
        prompts = mixed(count, question["seed"])
        began, used = time.perf_counter(), time.process_time()
        made = generate(prompts, tokens)
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - used,
            "tokens": made,
        }

    peer.answer_all(answers, answer)


def _plugin(folder: Path, count: int) -> Callable[[list[Prompt], int], int]:
    """Generate with vLLM; returns how many tokens came out."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=count,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=2**30,
        limit_mm_per_prompt={"image": 1},
    )

    def generate(prompts: list[Prompt], tokens: int) -> int:
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        requests = [
            {"prompt_token_ids": prompt.tokens, "multi_modal_data": {"image": prompt.images}}
            for prompt in prompts
        ]
        outputs = llm.generate(requests, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


def _transformers(folder: Path) -> Callable[[list[Prompt], int], int]:
    """Generate with transformers; returns how many tokens came out."""
    import torch
    from transformers import MllamaForConditionalGeneration
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    model = MllamaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    model.generation_config.eos_token_id = None
    tiler = MllamaImageProcessorPil.from_pretrained(folder)

    @torch.inference_mode()
    def generate(prompts: list[Prompt], tokens: int) -> int:
        inputs = _batch(prompts, tiler, model.config)
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return (out.shape[1] - inputs["input_ids"].shape[1]) * len(prompts)

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
    pictures["pixel_values"] = pictures["pixel_values"].to(torch.bfloat16)
    return {
        **pictures,
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
        "cross_attention_mask": torch.from_numpy(mask),
    }


if __name__ == "__main__":
    main()
