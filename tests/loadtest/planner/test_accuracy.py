"""The judgement of benchmarks/accuracy.py, on runs whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from benchmarks.accuracy import LIMITS, judged, remarks, table
from benchmarks.runs import BLOCKS, Block
from loadtest.core import Record
from loadtest.planner.requests import Load, Request
from loadtest.planner.simulate import Setting, Simulation
from tests.loadtest.planner.test_fit import TRUTH as COSTLY

TRUTH = msgspec.structs.replace(COSTLY, limits=LIMITS)
BORNE = 6.0  # requests a second of one replica


def asked(block: Block, turn: int) -> Iterator[Request]:
    rng, at = random.Random(f"{block.name} {turn}"), 0.0
    images = 0.5 if block.mix == "pictures" else 0.2
    while at < 120:
        at += rng.expovariate(block.load * BORNE * block.replicas * (0.7 if images > 0.4 else 1))
        tiles = 4 * (rng.random() < images)
        tenant = "vision" if tiles else "chat"
        lengths = rng.randrange(20, 400), rng.randrange(4, 80)
        yield Request(tenant, at, *lengths, tiles, account="one")


def seen(block: Block, turn: int) -> list[Record]:
    setting = Setting(block.replicas, seed=turn + 7)
    return list(Simulation(TRUTH, Load(asked(block, turn)), setting).records())


def test_a_true_model_is_found_to_be_one() -> None:
    runs = {block: [seen(block, turn) for turn in range(2)] for block in BLOCKS}
    result = {"unsound": [], "closed_loop": [], **judged(runs)}
    assert result["capacity"]["error"] == pytest.approx(0.0, abs=0.1)
    late = {
        row["block"]: row["error"]
        for row in result["rows"]
        if row["requests"] == "all" and row["quantity"] == "service_ttft p95"
    }
    assert set(late) == {block.name for block in BLOCKS}
    assert max(map(abs, late.values())) < 0.15
    shown = table(result)
    assert [row["load"].removesuffix(", fitted") for row in shown] == [each.name for each in BLOCKS]
    held = {row["load"] for row in shown if row["target of TTFT p95"]}
    assert held == {"40%", "55%", "pictures, 40%", "pictures, 55%", "two, 55%"}
    assert "target ±10%" in remarks(result)[0]
