"""Text-only requests: the plugin against `LlamaForCausalLM` of vLLM with the same text weights.

A request without pictures skips the cross layers, so both compute the same; the difference is what
the plugin costs those who send no picture. Same engine settings, two kinds of work: long prompts
with short answers, and the reverse. Times on the wall and, with one thread meaningful even on a
machine that others use, in CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, machine, peer, prompts, report, rounds

NAME = "text_overhead"
SIDES = ("plugin", "llama")
TARGET = 0.97
_SEED_STRIDE = 10_000


@dataclass(frozen=True)
class Work:
    """Requests at once, and the tokens of each."""

    requests: int
    prompt: int
    output: int


WORKS = {
    "prefill": Work(requests=16, prompt=512, output=4),
    "decode": Work(requests=16, prompt=32, output=96),
}
# Whether the engines compile: `default` leaves it to vLLM.
MODES = {"eager": {"enforce_eager": True}, "default": {}}


def main() -> None:
    """The command."""
    options = _options()
    if options.side:
        _measure(Path(options.folder), MODES[options.mode[0]])
        return
    settings = {
        "dtype": machine.dtype(),
        "threads": options.threads,
        "engine": "vllm.LLM, one process, max_num_seqs 32, max_num_batched_tokens 2048",
        "works": {name: asdict(work) for name, work in WORKS.items()},
    }
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = {"plugin": checkpoint.middle(root / "plugin")}
        folders["llama"] = checkpoint.without_cross_layers(folders["plugin"], root / "llama")
        head["settings"]["parameters"] = {
            side: checkpoint.parameters(folder) for side, folder in folders.items()
        }
        seen = {mode: _alternate(folders, mode, options) for mode in options.mode}
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each side")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--quick", action="store_true", help="four rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 4
    return options


def _alternate(
    folders: dict[str, Path], mode: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Each round's seconds for each work on each side."""
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(folders["plugin"].parent / "cache"),
    }
    peers: dict[str, peer.Peer] = {}
    try:
        for side, folder in folders.items():
            command = [f"benchmarks.{NAME}", "--side", side, "--folder", str(folder)]
            log = folder.parent / f"{side}.{mode}.log"
            peers[side] = peer.Peer([*command, "--mode", mode], environment, log)
            for name in WORKS:  # warm up
                peers[side].ask({"work": name, "seed": 0})
        seen = []
        for index, order in enumerate(rounds.orders(SIDES, options.rounds), start=1):
            figures: dict[str, Any] = {}
            for name in WORKS:
                question = {"work": name, "seed": index}
                figures[name] = {side: peers[side].ask(question) for side in order}
            seen.append(figures)
            print(mode, index, figures, flush=True)
        return seen
    finally:
        for each in peers.values():
            each.close()


def _report(head: dict[str, Any], seen: dict[str, list[dict[str, Any]]]) -> None:
    rows, summary = [], {}
    for mode, modes_rounds in seen.items():
        for name, work in WORKS.items():
            # Prompt tokens per second where the prompt is the work, else output tokens.
            tokens = work.requests * max(work.prompt, work.output)
            speeds = [
                {side: tokens / figures[name][side]["seconds"] for side in SIDES}
                for figures in modes_rounds
            ]
            cpu = [
                {side: figures[name][side]["cpu_seconds"] for side in SIDES}
                for figures in modes_rounds
            ]
            ratio = rounds.ratios(speeds, *SIDES)
            cpu_ratio = rounds.ratios(cpu, *reversed(SIDES))
            spreads = {side: rounds.each(speeds, side) for side in SIDES}
            rows.append(
                {
                    "compilation": mode,
                    "work": f"{name}: {work.requests} x {work.prompt} in, {work.output} out",
                    "plugin, tok/s": spreads["plugin"].text(0),
                    "Llama, tok/s": spreads["llama"].text(0),
                    "ratio": ratio.text(3),
                    "target": f"≥ {TARGET}",
                    "ratio by CPU time": cpu_ratio.text(3),
                }
            )
            summary[f"{mode}/{name}"] = {
                **{side: spread.json() for side, spread in spreads.items()},
                "ratio": ratio.json(),
                "cpu_ratio": cpu_ratio.json(),
            }
    report.finish(head, rows, summary, seen)


def _measure(folder: Path, mode: dict[str, Any]) -> None:
    """One side's process."""
    answers = peer.claim_stdout()
    from vllm import LLM, SamplingParams

    pictures = {"limit_mm_per_prompt": {"image": 1}} if folder.name == "plugin" else {}
    llm = LLM(
        str(folder),
        dtype=machine.dtype(),
        max_model_len=1024,
        max_num_seqs=32,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=2**30,
        **pictures,
        **mode,
    )

    def answer(question: dict[str, Any]) -> dict[str, float]:
        work = WORKS[question["work"]]
        first = question["seed"] * _SEED_STRIDE
        requests = [
            {"prompt_token_ids": prompts.text(work.prompt, first + index).tokens}
            for index in range(work.requests)
        ]
        params = SamplingParams(
            temperature=0.0, max_tokens=work.output, ignore_eos=True, detokenize=False
        )
        began, used = time.perf_counter(), time.process_time()
        outputs = llm.generate(requests, params, use_tqdm=False)
        spent = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - used,
        }
        if any(len(output.outputs[0].token_ids) != work.output for output in outputs):
            raise RuntimeError("an answer of another length")
        return spent

    peer.answer_all(answers, answer)


if __name__ == "__main__":
    main()
