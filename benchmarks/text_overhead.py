"""Text-only requests: the plugin against `LlamaForCausalLM` of vLLM with the same text weights.

A request without pictures skips the cross layers, so both compute the same; the difference is what
the plugin costs those who send no picture. Same engine settings, two kinds of work: long prompts
with short answers, and the reverse. Times on the wall and, with one thread meaningful even on a
machine that others use, in CPU.

One start of a process multiplies the very same matrices up to a twentieth faster than the next, for
as long as it runs. So both sides are started several times, and the ratio is the median over the
starts of each start's median, with the bounds of that median at 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, machine, peer, prompts, report, rounds
from benchmarks.rounds import Spread

NAME = "text_overhead"
SIDES = ("plugin", "llama")
TARGET = 0.97
ENOUGH = 6  # starts that bound their median
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
        "starts": options.starts,
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
        seen = {
            mode: [_alternate(folders, mode, options) for _ in range(options.starts)]
            for mode in options.mode
        }
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=6, help="of both sides, in each mode")
    parser.add_argument("--rounds", type=int, default=4, help="a start")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of each side")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--quick", action="store_true", help="one start of four rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.starts = 1
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


def _report(head: dict[str, Any], seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    rows, summary = [], {}
    for mode, starts in seen.items():
        for name, work in WORKS.items():
            found = _compared(starts, name, work)
            rows.append(
                {
                    "compilation": mode,
                    "work": f"{name}: {work.requests} x {work.prompt} in, {work.output} out",
                    "plugin, tok/s": found["plugin"].text(0),
                    "Llama, tok/s": found["llama"].text(0),
                    "ratio": found["ratio"].text(3),
                    "target": f"≥ {TARGET}",
                    "ratio by CPU time": found["cpu_ratio"].text(3),
                }
            )
            summary[f"{mode}/{name}"] = {key: spread.json() for key, spread in found.items()}
    report.finish(head, rows, summary, seen)


def _compared(starts: list[list[dict[str, Any]]], name: str, work: Work) -> dict[str, Spread]:
    """Of each start its median, and of these the spread."""
    spread = Spread.confident if len(starts) >= ENOUGH else Spread.of
    # Prompt tokens per second where the prompt is the work, else output tokens.
    tokens = work.requests * max(work.prompt, work.output)
    speeds = [_figures(start, name, lambda side: tokens / side["seconds"]) for start in starts]
    cpu = [_figures(start, name, lambda side: side["cpu_seconds"]) for start in starts]
    return {
        **{side: spread([rounds.each(each, side).median for each in speeds]) for side in SIDES},
        "ratio": spread([rounds.ratios(each, *SIDES).median for each in speeds]),
        "cpu_ratio": spread([rounds.ratios(each, *reversed(SIDES)).median for each in cpu]),
    }


def _figures(
    start: list[dict[str, Any]], name: str, of: Callable[[dict[str, float]], float]
) -> list[dict[str, float]]:
    """One figure of each side in each round of a start."""
    return [{side: of(figures[name][side]) for side in SIDES} for figures in start]


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
