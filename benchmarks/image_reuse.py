"""What an image that was seen before costs, against what it cost the first time.

Two engines of the same settings, one with vLLM's prefix caching off, which leaves no KV to share
and so is the measure of what reuse costs those who repeat nothing. All figures are of one process
and one machine: times of requests that follow each other, alternately seen and unseen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, machine, peer, prompts, report, rounds
from benchmarks.rounds import Spread

NAME = "image_reuse"
SIDES = ("reuse", "off")
TILES = 4
TEXT = 48
ANSWER = 8
USERS = 16
# For the blocks: what each user asks, and what an application says before its users' picture: a
# page of instructions, or the declarations of a few tools.
QUESTION, INSTRUCTIONS = 20, 800
# An image of four tiles takes twenty times the computing of 50 words in the published model, and
# sixteen times here, with 577 encoder tokens a tile; with the 257 of the middle size, five times.
SHAPE = replace(checkpoint.MIDDLE, tile=336)
# Pictures of the published size, on a decoder of its proportions: for the blocks that users hold.
WIDE = checkpoint.Shape(
    vocabulary=1024,
    hidden=128,
    feed_forward=256,
    layers=10,
    cross=(3, 8),
    heads=4,
    kv_heads=2,
    vision_hidden=64,
    vision_layers=4,
    tile=560,
)
TARGETS = {
    "a repeated image": "≤ 0.25",
    "a second turn": "≤ 0.15",
    "users of one image": "≥ 3",
    "blocks of users of one image": "≤ 1.2",
    "the same, instructed": "≤ 1.2",
    "no image repeats": "≥ 0.98",
}


def main() -> None:
    """The command."""
    options = _options()
    if options.side:
        _answer(Path(options.folder), options.side)
        return
    settings = {
        "dtype": machine.dtype(),
        "threads": options.threads,
        "engine": "vllm.LLM, one process, enforce_eager, block_size 32",
        "shape": asdict(SHAPE),
        "tiles": TILES,
        "text_tokens": TEXT,
        "answer_tokens": ANSWER,
        "users": USERS,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        seen = _rounds(Path(name), options)
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of each side")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=(*SIDES, "wide"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 3
    return options


def _rounds(root: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """The figures of each round; the blocks, which no load can change, in the first."""
    folder = checkpoint.numbered(SHAPE, root / "middle")
    environment = {"OMP_NUM_THREADS": str(options.threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

    def start(side: str, folder: Path) -> peer.Peer:
        command = [f"benchmarks.{NAME}", "--side", side, "--folder", str(folder)]
        return peer.Peer(command, environment, root / f"{side}.log")

    wide = start("wide", checkpoint.numbered(WIDE, root / "wide"))
    try:
        blocks = wide.ask({"do": "blocks"})
    finally:
        wide.close()
    peers = {side: start(side, folder) for side in SIDES}
    seen: list[dict[str, float]] = []
    try:
        for one in peers.values():  # warm up
            one.ask({"do": "times", "seed": 0})
            one.ask({"do": "different", "seed": 0})
        for index, order in enumerate(rounds.orders(SIDES, options.rounds), start=1):
            figures = dict(peers["reuse"].ask({"do": "times", "seed": index}))
            for side in order:
                question = {"do": "different", "seed": index}
                spent = peers[side].ask(question)
                figures |= {f"{kind}, {side}": value for kind, value in spent.items()}
            seen.append(figures | blocks)
            print(index, figures, flush=True)
    finally:
        for one in peers.values():
            one.close()
    return seen


def _report(head: dict[str, Any], seen: list[dict[str, float]]) -> None:
    pairs = {
        "a repeated image": ("repeated", "first", "TTFT, over that of a new image"),
        "a second turn": ("second turn", "first", "TTFT, over that of a new image"),
        "users of one image": (
            "different, reuse",
            "same",
            f"requests/s of {USERS}, over new images",
        ),
        "blocks of users of one image": ("blocks of users", "blocks of one", f"{USERS} over one"),
        "the same, instructed": (
            "blocks of users, instructed",
            "blocks of one, instructed",
            f"{USERS} over one, all with the same {INSTRUCTIONS} tokens before the image",
        ),
        "no image repeats": ("different, off", "different, reuse", "requests/s, over reuse off"),
    }
    ratios = {name: rounds.ratios(seen, over, under) for name, (over, under, _) in pairs.items()}
    cpu = {
        name: rounds.ratios(seen, f"CPU {over}", f"CPU {under}")
        for name, (over, under, _) in pairs.items()
        if "blocks" not in under
    }
    rows = [
        {
            "of": name,
            "what": pairs[name][2],
            "ratio": ratio.text(2),
            "target": TARGETS[name],
            "ratio by CPU time": cpu[name].text(2) if name in cpu else "",
        }
        for name, ratio in ratios.items()
    ]
    spreads = {name: Spread.of([each[name] for each in seen]) for name in seen[0]}
    blocks = {name: int(spread.median) for name, spread in spreads.items() if "blocks" in name}
    remarks = [
        "TTFT in ms: "
        + ", ".join(
            f"{name} {1000 * spreads[name].median:.0f}"
            for name in ("first", "repeated", "second turn")
        ),
        f"Blocks of 32 tokens, with a picture of the published size (6,404 encoder "
        f"tokens), questions of {QUESTION} tokens and answers of {ANSWER}: one request "
        f"{blocks['blocks of one']}, {USERS} requests {blocks['blocks of users']}, of which the "
        f"picture's {blocks['blocks of the picture']} and {blocks['blocks of the pictures']}; the "
        "rest is text, of which each request has its own: never less than one block, which for "
        f"{USERS} is {(USERS - 1) / blocks['blocks of one']:.2f} of the first request's",
    ]
    summary = {name: ratio.json() for name, ratio in ratios.items()}
    summary |= {f"{name}, by CPU time": ratio.json() for name, ratio in cpu.items()}
    report.finish(head, rows, summary, seen, remarks)


def _answer(folder: Path, side: str) -> None:
    """One side's process."""
    answers = peer.claim_stdout()
    from vllm import LLM

    llm = LLM(
        str(folder),
        dtype=machine.dtype(),
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=32,
        block_size=32,
        kv_cache_memory_bytes=2**30,
        limit_mm_per_prompt={"image": 1},
        enable_prefix_caching=side != "off",
        mm_processor_cache_gb=0 if side == "off" else 4,
    )
    work = {"times": _times, "different": _different, "blocks": _blocks}
    peer.answer_all(answers, lambda question: work[question["do"]](llm, question.get("seed", 0)))


def _request(prompt: prompts.Prompt) -> dict[str, Any]:
    return {"prompt_token_ids": prompt.tokens, "multi_modal_data": {"image": prompt.images}}


def _spent(llm: Any, kind: str, asked: list[prompts.Prompt], tokens: int) -> dict[str, float]:
    """Seconds on the wall and of CPU that requests take, under `kind`."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    requests = [_request(prompt) for prompt in asked]
    began, used = time.perf_counter(), time.process_time()
    llm.generate(requests, params, use_tqdm=False)
    return {kind: time.perf_counter() - began, f"CPU {kind}": time.process_time() - used}


def _about(picture: prompts.Prompt, seed: int) -> prompts.Prompt:
    """Another question about a prompt's picture."""
    words = prompts.text(TEXT + 1, seed, SHAPE).tokens[1:]
    return prompts.Prompt([*picture.tokens[:2], *words], picture.images)


def _times(llm: Any, seed: int) -> dict[str, float]:
    """Seconds to the first token, of an image and then of it again, and of many users of it."""
    first = prompts.pictured(TEXT, TILES, 1000 * seed + 1, SHAPE)
    turn = prompts.text(17, 1000 * seed + 2, SHAPE).tokens[1:]
    again = prompts.Prompt([*first.tokens, *turn], first.images)
    figures = _spent(llm, "first", [first], 1)
    figures |= _spent(llm, "second turn", [again], 1)
    figures |= _spent(llm, "repeated", [_about(first, 1000 * seed + 3)], 1)
    unseen = prompts.pictured(TEXT, TILES, 1000 * seed + 4, SHAPE)
    users = [_about(unseen, 1000 * seed + 5 + user) for user in range(USERS)]
    return figures | _spent(llm, "same", users, ANSWER)


def _different(llm: Any, seed: int) -> dict[str, float]:
    """Seconds of as many users, each with another image."""
    asked = [
        prompts.pictured(TEXT, TILES, 1000 * seed + 500 + user, SHAPE) for user in range(USERS)
    ]
    return _spent(llm, "different", asked, ANSWER)


def _blocks(llm: Any, seed: int) -> dict[str, int]:
    """The most blocks in use at once: of one request, and of many with the same picture."""
    image = prompts.picture(TILES, seed, WIDE)
    found = {}
    for kind, before in (("", 0), (", instructed", INSTRUCTIONS)):
        head = [*prompts.text(1 + before, seed, WIDE).tokens, WIDE.vocabulary]
        words = [prompts.text(1 + QUESTION, 100 + user, WIDE).tokens[1:] for user in range(USERS)]
        users = [prompts.Prompt([*head, *each], [image]) for each in words]
        one, one_picture = _peak(llm, users[:1])
        many, many_pictures = _peak(llm, users)
        found |= {
            f"blocks of one{kind}": one,
            f"blocks of the picture{kind}": one_picture,
            f"blocks of users{kind}": many,
            f"blocks of the pictures{kind}": many_pictures,
        }
    return found


def _peak(llm: Any, asked: list[prompts.Prompt]) -> tuple[int, int]:
    """Blocks in use at the worst moment, and those of cross-attention among them."""
    from vllm import SamplingParams
    from vllm.v1.kv_cache_interface import CrossAttentionSpec

    engine = llm.llm_engine
    manager = engine.engine_core.engine_core.scheduler.kv_cache_manager
    pool, groups = manager.block_pool, manager.coordinator.single_type_managers
    (cross,) = (g for g in groups if isinstance(g.kv_cache_spec, CrossAttentionSpec))
    params = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True, detokenize=False)
    for index, prompt in enumerate(asked):
        engine.add_request(f"{len(asked)}-{index}", _request(prompt), params)
    most = (0, 0)
    while engine.has_unfinished_requests():
        engine.step()
        held = {b.block_id for blocks in cross.req_to_blocks.values() for b in blocks}
        used = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
        most = max(most, (used, len(held - {pool.null_block.block_id})))
    return most


if __name__ == "__main__":
    main()
