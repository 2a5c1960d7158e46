"""Two servers loaded at the same moment, and what each does in a window of that time.

Each has a core of its own, which they change twice a second: what a server gets done is what its
CPU time leaves it, and whatever else the machine does, or a core of it, meets both. The window
begins and ends under load; of answers that lie on its edges the parts within it count.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import load
from benchmarks.http_stack import part
from benchmarks.load import Answer
from benchmarks.processes import Server, pin

LEAD, WINDOW, TAIL = 1.5, 6.0, 2.5  # seconds of load before, in and after what is counted
TURN = 0.5  # seconds that a server keeps a core
SETTINGS = {
    "seconds_before_in_and_after_the_window": (LEAD, WINDOW, TAIL),
    "seconds_on_a_core": TURN,
}


@dataclass(frozen=True)
class Load:
    """What a server is asked, by so many closed-loop clients, and what a right answer has."""

    server: Server
    port: int
    requests: Iterator[bytes]
    clients: int
    tokens: int
    fewest: int


async def together(loads: Mapping[str, Load], first: int) -> dict[str, dict[str, Any]]:
    """What each did, when all begin at once; `first` says who begins on which core.

    Requests a second, the median time to the first token in ms, and CPU in ms per request and part.

    Raises:
        RuntimeError: not all answers were right.
    """
    threads = [each.server.threads() for each in loads.values()]
    turns = asyncio.create_task(_turns(threads, first))
    try:
        found = await asyncio.gather(*map(_during, loads.values()))
    finally:
        turns.cancel()
    return dict(zip(loads, found, strict=True))


async def _during(of: Load) -> dict[str, Any]:
    begin = time.perf_counter() + LEAD
    seconds = LEAD + WINDOW + TAIL
    flood = asyncio.create_task(load.flood(of.port, of.requests, of.clients, seconds))
    await asyncio.sleep(LEAD)
    before = of.server.cpu(part)
    await asyncio.sleep(begin + WINDOW - time.perf_counter())
    spent = of.server.used_since(before, part)
    burst = load.Burst(await flood, seconds)
    if failures := burst.failures(of.tokens, of.fewest):
        raise RuntimeError(f"{failures} of {len(burst.answers)} requests failed")
    shares = [_within(each, begin, begin + WINDOW) for each in burst.answers]
    firsts = [1000 * a.first for a, share in zip(burst.answers, shares, strict=True) if share > 0]
    done = sum(shares)
    return {
        "requests_per_second": round(done / WINDOW, 3),
        "ttft_p50_ms": round(median(firsts), 2),
        "cpu_ms": {name: round(1000 * each / done, 3) for name, each in spent.items()},
    }


async def _turns(sides: Sequence[Sequence[int]], first: int) -> None:
    """Have these threads change the cores without end."""
    for turn in itertools.count(first):
        for core, threads in enumerate(sides):
            pin(threads, core ^ turn % 2)
        await asyncio.sleep(TURN)


def _within(answer: Answer, begin: float, end: float) -> float:
    """The part of an answer's time that lies between these."""
    began = answer.ended - answer.last
    return max(0.0, min(end, answer.ended) - max(begin, began)) / answer.last
