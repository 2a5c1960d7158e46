"""Recorded loads: when requests came and how long they and their answers were.

azure       CSV of the Azure LLM inference traces of 2023 and 2024: TIMESTAMP, ContextTokens,
            GeneratedTokens
mooncake    JSON lines: timestamp (ms), input_length, output_length, hash_ids (of 512 tokens each)
burstgpt    CSV: Timestamp (s), Request tokens, Response tokens
access-log  the gateway's lines of `serving.access`: duration, usage
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loadtest import payloads
from loadtest.core import UsageError

_HASHED = 512  # tokens that one of Mooncake's hashes stands for


@dataclass(frozen=True, slots=True)
class Arrival:
    """One recorded request; `at` in seconds since the first."""

    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()

    def prompt(self, rng: random.Random, run: str) -> str:
        """Text of this length. Equal blocks are equal text within a run, so that what was shared
        is shared again."""
        shared = [
            payloads.text(random.Random(f"block {run} {block}"), _HASHED)
            for block in self.blocks[: self.prompt_tokens // _HASHED]
        ]
        rest = max(1, self.prompt_tokens - len(shared) * _HASHED)
        return " ".join([*shared, payloads.text(rng, rest)])


def read(path: Path, kind: str, speed: float = 1.0) -> list[Arrival]:
    """The requests of a trace in order of time, `speed` times as fast. Those that generated
    nothing are left out.

    Raises:
        UsageError: it cannot be read as that kind of trace, or holds no request.
    """
    try:
        with path.open(newline="") as file:
            found = [each for each in _READERS[kind](file) if each.output_tokens > 0]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a trace of the kind {kind}: {error!r}") from error
    if not found:
        raise UsageError(f"{path} holds no request")
    found.sort(key=lambda each: each.at)
    zero = found[0].at
    return [
        Arrival((each.at - zero) / speed, each.prompt_tokens, each.output_tokens, each.blocks)
        for each in found
    ]


def _azure(lines: Iterable[str]) -> Iterator[Arrival]:
    for row in csv.DictReader(lines):
        # The files have seven digits of a second; Python reads six.
        moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
        yield Arrival(moment.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _burstgpt(lines: Iterable[str]) -> Iterator[Arrival]:
    for row in csv.DictReader(lines):
        yield Arrival(
            float(row["Timestamp"]), int(row["Request tokens"]), int(row["Response tokens"])
        )


def _mooncake(lines: Iterable[str]) -> Iterator[Arrival]:
    for row in _objects(lines):
        blocks = tuple(row.get("hash_ids") or ())
        at = row["timestamp"] / 1e3
        yield Arrival(at, int(row["input_length"]), int(row["output_length"]), blocks)


def _access_log(lines: Iterable[str]) -> Iterator[Arrival]:
    """`<date> <time> INFO serving.access {json}`: written when a request ends, `duration` after
    it came."""
    for line in lines:
        stamp, found, text = line.partition(" INFO serving.access ")
        if not found:
            continue
        row = json.loads(text)
        usage, ended = row["usage"], datetime.fromisoformat(stamp.strip()[-23:])
        yield Arrival(
            ended.timestamp() - float(row["duration"]),
            int(usage["prompt_tokens"]) - int(usage.get("image_tokens") or 0),
            int(usage["completion_tokens"]),
        )


def _objects(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    return (json.loads(line) for line in lines if line.strip())


_READERS: dict[str, Callable[[Iterable[str]], Iterator[Arrival]]] = {
    "azure": _azure,
    "mooncake": _mooncake,
    "burstgpt": _burstgpt,
    "access-log": _access_log,
}
