"""One tenant offers twenty times its share: what another notices, and what it costs all together.

The whole stack (`serving up`), two tenants of equal weight. A tenant's share is half of what the
engine does when more than enough is offered, which is measured at the beginning of each round. The
quiet tenant sends streams at random moments, as many as are a part of its share; the loud one keeps
`FLOOD` requests under way, twenty times what its half of the engine runs at once, from a process of
its own that gives way to all others: on a machine that client and servers share, what the quiet
tenant notices shall be the servers' doing. In turn, a few seconds each:

    alone    the quiet one by itself, at each of its rates
    shares   the same beside the loud one, each with an account of its own
    modest   beside a neighbour that keeps as many under way as half of the engine runs
    fcfs     beside the loud one through one account, within which it is first come, first served
    jain     four tenants that always have somebody waiting, one of them with five times the others'

All send what this service is for, a question on a picture, to a small model in which the picture
takes what it takes in the published one: about as long as a thousand words, or as some of the
steps in which 32 answers grow by a token. `words` are two of the sides again with nothing but
short questions: reading one takes less than a step, so that waiting for the step under way, which
nobody can help, is most of what is measured.

Percentiles are of all rounds together, as a p99 needs hundreds of requests. `shares` over `modest`
is what the flood costs the quiet tenant; `modest` over `alone` what it costs to share an engine
at all: whoever comes waits for the step under way, and a step of many takes longer than of one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from heapq import heapreplace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import load, peer, report
from benchmarks.checkpoint import TINY
from benchmarks.load import Answer
from benchmarks.processes import interrupt_on_sigterm
from benchmarks.rounds import Spread, orders
from benchmarks.tenants import Kind, Tenant, serving

NAME = "fairness"
SHAPE = replace(TINY, tile=224)
KINDS = {
    "pictures": Kind(words=40, tokens=64, side=2 * SHAPE.tile),  # four tiles
    "words": Kind(words=12, tokens=32),
}
SLOTS = 32
STEP = 128  # tokens that a step computes beside others
PARTS = (0.1, 0.5, 0.9)  # of its share, that the quiet tenant sends
HALF = 0.5  # the one at which neighbours are compared
FLOOD = 20 * SLOTS // 2
EQUALS = (60, 60, 60, 300)
# How many requests the other tenant keeps under way.
NEIGHBOUR = {"alone": 0, "modest": SLOTS // 2, "shares": FLOOD, "fcfs": FLOOD}
_SATURATED, _LONGEST = 5.0, 60.0  # seconds that answers are counted for, and less than that
_ENOUGH = 20  # answers that say how fast they come
_FEWEST = 40  # of the quiet tenant's requests on a side in a round: all rounds' make a percentile
_LEAD, _FOR = 0.15, 0.8  # of a side's time: the neighbour's start, and how long the quiet one sends
_NICENESS = 10


@dataclass(frozen=True)
class Side:
    """What is measured at a time: which neighbour, what part of its share the quiet one sends."""

    kind: str
    part: float = 0.0
    sends: str = "pictures"

    @property
    def name(self) -> str:
        """For results."""
        said = f"{self.kind} {self.part:.0%}" if self.part else self.kind
        return said if self.sends == "pictures" else f"{said}, {self.sends}"


SIDES = (
    *(Side(kind, part) for part in PARTS for kind in ("alone", "shares")),
    Side("modest", HALF),
    Side("fcfs", HALF),
    *(Side(kind, HALF, "words") for kind in ("alone", "shares")),
    Side("jain"),
)


def main() -> None:
    """The command."""
    options = _options()
    if options.loud:
        _be_loud()
        return
    settings = {
        "kinds": {name: asdict(kind) for name, kind in KINDS.items()},
        "shape": asdict(SHAPE),
        "max_num_seqs": SLOTS,
        "max_num_scheduled_tokens": STEP,
        "loud_at_once": FLOOD,
        "jain_at_once": EQUALS,
        "seconds": options.seconds,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = {"max_num_seqs": SLOTS, "max_num_scheduled_tokens": STEP}
        port, tenants = serving(stack, folder, engine, len(EQUALS), SHAPE)
        loud = peer.Peer([f"benchmarks.{NAME}", "--loud"], {}, folder / "loud.log")
        stack.callback(loud.close)
        found = uvloop.run(_rounds(Bench(port, tenants, loud, options.seconds), options.rounds))
    _report(head, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each side")
    parser.add_argument("--quick", action="store_true", help="one round of 6 seconds a side")
    parser.add_argument("--note", default="")
    parser.add_argument("--loud", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 6.0
    return options


def _be_loud() -> None:
    """The loud tenant's process: floods as it is told to, and gives way to whoever is measured."""
    os.nice(_NICENESS)
    out = peer.claim_stdout()

    def flood(asked: dict[str, Any]) -> dict[str, int]:
        tenant = Tenant(asked["account"], asked["token"])
        requests = tenant.requests(asked["seed"], KINDS[asked["sends"]])
        many, seconds = asked["many"], asked["seconds"]
        answers = uvloop.run(load.flood(asked["port"], requests, many, seconds))
        return {"tokens": _tokens(answers), "answers": len(answers)}

    peer.answer_all(out, flood)


@dataclass(frozen=True)
class Bench:
    """The stack, its tenants, and the process that is loud on their behalf."""

    port: int
    tenants: list[Tenant]
    loud: peer.Peer
    seconds: float

    async def flood(
        self, tenant: Tenant, sends: str, many: int, seconds: float, seed: int
    ) -> dict[str, int]:
        """Keep so many requests under way; what was answered."""
        asked = {"port": self.port, "account": tenant.account, "token": tenant.token}
        asked |= {"sends": sends, "many": many, "seconds": seconds, "seed": seed}
        found: dict[str, int] = await asyncio.to_thread(self.loud.ask, asked)
        return found


async def _rounds(bench: Bench, rounds: int) -> dict[str, Any]:
    """The figures of each side in each round, by name; a tenant's share in streams a second."""
    shares, found = [], []
    for index, order in enumerate(orders([side.name for side in SIDES], rounds)):
        share = {sends: await _share(bench, sends) for sends in KINDS}
        sides: dict[str, Any] = {}
        for name in order:
            await _idle(bench)
            (side,) = (each for each in SIDES if each.name == name)
            sides[name] = await _measured(side, bench, share[side.sends] * side.part, index)
        print(json.dumps(sides), flush=True)
        shares.append(share)
        found.append(sides)
    return {"shares": shares, "rounds": found}


async def _share(bench: Bench, sends: str) -> float:
    """Half of what the engine does, by the answers after a start of as long as they are counted.

    The first flood is not counted: a cold engine would make the start look longer than it is.
    """
    await _idle(bench)
    seconds = _SATURATED
    while seconds < _LONGEST:
        counted = []
        for times in (1, 1, 2):
            seed, lasts = len(counted), times * seconds
            found = await bench.flood(bench.tenants[0], sends, FLOOD, lasts, seed)
            counted.append(found["answers"])
            await _idle(bench)
        if (answers := counted[2] - counted[1]) >= _ENOUGH:
            return answers / seconds / 2
        seconds *= 2
    raise RuntimeError(f"a flood of {sends} gets {answers} answers in {seconds / 2:.0f} s")


async def _measured(side: Side, bench: Bench, rate: float, index: int) -> dict[str, Any]:
    """The figures of one side."""
    if side.kind == "jain":
        return {"jain": await _jain(bench, index)}
    quiet, seconds = bench.tenants[0], _lasts(bench.seconds, rate)
    seed = 10 * index + SIDES.index(side) + 10
    gaps = _gaps(seconds, rate, index)
    requests = list(itertools.islice(quiet.requests(seed, KINDS[side.sends]), len(gaps)))
    other = bench.tenants[0 if side.kind == "fcfs" else 1]
    many = NEIGHBOUR[side.kind]
    flood = None
    if many:
        asked = bench.flood(other, side.sends, many, seconds, seed + 1000)
        flood = asyncio.create_task(asked)
    await asyncio.sleep(seconds * _LEAD)  # the queue is full when the quiet one begins
    late: list[float] = []
    watch = asyncio.create_task(_watch(late))
    until = time.perf_counter() + seconds * (1 - _LEAD)  # when the neighbour stops
    answers = await load.paced(bench.port, requests, gaps)
    watch.cancel()
    tokens = _tokens([answer for answer in answers if answer.ended <= until])
    tokens += (await flood)["tokens"] if flood else 0
    return {
        **_latency(answers),
        "tokens_per_second": tokens / seconds,
        "client_late_ms": round(1000 * _percentile(late, 0.99), 2),
    }


def _lasts(seconds: float, rate: float) -> float:
    """How long a side takes: so many seconds, or longer, for enough of the quiet one's requests."""
    return max(seconds, (_FEWEST + 0.5) / rate / _FOR)


def _gaps(seconds: float, rate: float, index: int) -> list[float]:
    """Seconds before each of the quiet one's requests, on a side that takes so long."""
    return list(itertools.islice(load.poisson(rate, index), int(seconds * rate * _FOR)))


async def _watch(late: list[float]) -> None:
    """How late this process's own clock is."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        late.append(time.perf_counter() - began - 0.005)


async def _jain(bench: Bench, index: int) -> float:
    """1 when all got the same, 1/n when one got it all."""
    floods = (
        load.flood(
            bench.port,
            tenant.requests(3000 + 10 * index + n, KINDS["pictures"]),
            many,
            bench.seconds,
        )
        for n, (tenant, many) in enumerate(zip(bench.tenants, EQUALS, strict=True))
    )
    served = [_tokens(each) for each in await asyncio.gather(*floods)]
    return float(sum(served) ** 2 / (len(served) * sum(each**2 for each in served)))


async def _idle(bench: Bench) -> None:
    """Wait until a request is answered as if nobody else were there."""
    for seed in range(20):
        request = itertools.islice(bench.tenants[0].requests(5000 + seed, KINDS["words"]), 1)
        (answer,) = (await load.burst(bench.port, list(request), 1, 60)).answers
        if answer.last < 0.5:
            return
        await asyncio.sleep(0.5)


def _latency(answers: list[Answer]) -> dict[str, Any]:
    """Times to the first token, in ms, in order."""
    times = sorted(round(1000 * answer.first, 1) for answer in answers if answer.status == 200)
    return {"ttft_ms": times, "failed": len(answers) - len(times)}


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _tokens(answers: list[Answer]) -> int:
    return sum(max(0, answer.completion_tokens) for answer in answers if answer.status == 200)


def _report(head: dict[str, Any], found: dict[str, Any]) -> None:
    """The ratios: of all rounds' requests together, and within the rounds from least to most."""
    rounds = found["rounds"]

    def ttft(share: float, side: str, over: str) -> Spread:
        within = [_of(side, share, [each]) / _of(over, share, [each]) for each in rounds]
        return Spread(_of(side, share, rounds) / _of(over, share, rounds), min(within), max(within))

    def name(kind: str, part: float = HALF, sends: str = "pictures") -> str:
        return Side(kind, part, sends).name

    figures = {
        f"quiet TTFT p{share:.0f}, beside the loud / alone, at {part:.0%} of its share": (
            ttft(share / 100, name("shares", part), name("alone", part)),
            "≤ 1.5" if share == 99 else "",
        )
        for share in (99, 50)
        for part in PARTS
    }
    rates = [[each[name(s)]["tokens_per_second"] for s in ("shares", "fcfs")] for each in rounds]
    figures |= {
        "p99, beside a neighbour within its share / alone, at 50%": (
            ttft(0.99, name("modest"), name("alone")),
            "",
        ),
        "p99, within one account (FCFS) / alone, at 50%": (
            ttft(0.99, name("fcfs"), name("alone")),
            "",
        ),
        **{
            f"p{share}, short questions only, beside the loud / alone, at 50%": (
                ttft(share / 100, name("shares", HALF, "words"), name("alone", HALF, "words")),
                "",
            )
            for share in (99, 50)
        },
        "Jain's index over four tenants": (
            Spread.of([each["jain"]["jain"] for each in rounds]),
            "≥ 0.95",
        ),
        "tokens a second, shares / FCFS": (
            Spread.of([shares / fcfs for shares, fcfs in rates]),
            "≥ 0.97",
        ),
    }
    rows = [
        {"figure": name, "measured": spread.text(), "target": target}
        for name, (spread, target) in figures.items()
    ]
    summary = {name: spread.json() for name, (spread, _) in figures.items()}
    report.finish(head, rows, summary, found, _remarks(found, head["settings"]["seconds"]))


def _of(side: str, share: float, rounds: list[dict[str, Any]]) -> float:
    """A percentile of a side's TTFT over these rounds, in ms."""
    return _percentile([time for each in rounds for time in each[side]["ttft_ms"]], share)


def _halved(shares: Sequence[Mapping[str, float]], part: float, seconds: float) -> float:
    """The p99 (ms) of what these requests would wait for a slot, had they half of the engine.

    Exactly half: so many slots for themselves, each as fast as it is when all are taken.
    """
    waits = []
    for index, share in enumerate(shares):
        rate, takes = share["pictures"] * part, SLOTS / 2 / share["pictures"]
        now, free = 0.0, [0.0] * (SLOTS // 2)
        for gap in _gaps(_lasts(seconds, rate), rate, index):
            now += gap
            waits.append(max(0.0, free[0] - now))
            heapreplace(free, max(now, free[0]) + takes)
    return 1000 * _percentile(waits, 0.99)


def _remarks(found: dict[str, Any], seconds: float) -> list[str]:
    rounds, shares = found["rounds"], found["shares"]
    sides = [side.name for side in SIDES if side.kind != "jain"]
    times = ", ".join(
        f"{side} {_of(side, 0.5, rounds):.0f} / {_of(side, 0.99, rounds):.0f}"
        f" ({sum(len(each[side]['ttft_ms']) for each in rounds)})"
        for side in sides
    )
    failed = sum(each[side]["failed"] for each in rounds for side in sides)
    late = max(each[side]["client_late_ms"] for each in rounds for side in sides)
    pictures, words = (Spread.of([share[sends] for share in shares]).text(1) for sends in KINDS)
    halved = " / ".join(f"{_halved(shares, part, seconds):.0f}" for part in PARTS)
    return [
        f"a share, in streams a second: {pictures}, of short questions {words};"
        f" {failed} of the quiet tenant's failed",
        "had the quiet tenant exactly half of the slots, each at the speed of a full engine, the"
        f" wait for a slot alone would have a p99 of {halved} ms at"
        f" {' / '.join(f'{part:.0%}' for part in PARTS)} of its share",
        f"quiet TTFT p50 / p99, ms (requests): {times}",
        f"the quiet tenant's client was late by itself, p99 of the worst side: {late:.1f} ms",
    ]


if __name__ == "__main__":
    main()
