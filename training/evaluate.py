"""Accuracy of a checkpoint folder on the exam, with 95% intervals."""

import json
import math
from pathlib import Path

import torch

from training import exam
from training.reference import Reference


def interval(right: int, asked: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z, share = 1.96, right / asked
    centre = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    scale = 1 + z * z / asked
    return (centre - spread) / scale, (centre + spread) / scale


def _mark(score: dict[str, tuple[int, int]], topic: str, good: bool) -> None:
    right, asked = score.get(topic, (0, 0))
    score[topic] = right + good, asked + 1


def examine(
    reference: Reference, seed: int, each: int, mistakes: list[str] | None = None
) -> dict[str, tuple[int, int]]:
    """(right, asked) by topic."""
    score: dict[str, tuple[int, int]] = {}
    for paper, question in exam.questions(seed, each):
        reply = reference.look(paper.image(), question.text)
        good = exam.passed(question, reply)
        _mark(score, question.topic, good)
        if not good and mistakes is not None:
            mistakes.append(
                f"{question.topic} {paper.size} {question.right!r}: {reply!r} "
                f"{[(f.colour, f.kind) for f in paper.figures]} on {paper.background} "
                f"{[round(f.diameter / min(paper.size), 2) for f in paper.figures]}"
            )
    return score


def _parsed(reply: str) -> object:
    try:
        return json.loads(reply.removesuffix("<|eot_id|>"))
    except json.JSONDecodeError:
        return None


def examine_tools(reference: Reference, mistakes: list[str] | None = None) -> tuple[int, int]:
    """(calls right in name, argument and value, requests)."""
    requests = exam.tool_requests()
    right = 0
    for text, tool, call in requests:
        reply = reference.answer([{"role": "user", "content": text}], tools=[tool])
        good = _parsed(reply) == call
        right += good
        if not good and mistakes is not None:
            mistakes.append(f"tools {call}: {reply!r}")
    return right, len(requests)


def examine_lists(
    reference: Reference, seed: int, number: int, mistakes: list[str] | None = None
) -> dict[str, tuple[int, int]]:
    """(right, asked) of lists in JSON, by how many shapes there are."""
    score: dict[str, tuple[int, int]] = {}
    for paper, request in exam.lists(seed, number):
        reply = reference.look(paper.image(), request)
        good = exam.listed(paper, _parsed(reply))
        topic = f"list of {len(paper.figures)}"
        _mark(score, topic, good)
        if not good and mistakes is not None:
            mistakes.append(f"{topic} {[(f.colour, f.kind) for f in paper.figures]}: {reply!r}")
    return score


def run(folder: Path, seed: int, each: int, threads: int = 2, verbose: bool = False) -> None:
    torch.set_num_threads(threads)
    mistakes: list[str] = []
    reference = Reference(folder)
    score = examine(reference, seed, each, mistakes)
    score |= examine_lists(reference, seed, each, mistakes)
    score["tools"] = examine_tools(reference, mistakes)
    for topic, (right, asked) in score.items():
        low, high = interval(right, asked)
        print(f"{topic:10} {right / asked:6.1%}  ({low:.1%} to {high:.1%})  n = {asked}")
    if verbose:
        print("\n".join(mistakes))
