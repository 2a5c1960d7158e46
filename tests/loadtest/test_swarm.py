"""A run by the actors of a Ray cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest import outcome
from loadtest.going import Controls
from loadtest.means import Means
from loadtest.records import Writer, read
from tests.loadtest.conftest import mocked


@pytest.mark.slow
async def test_actors_do_one_run_together_and_replace_a_lost_one(tmp_path: Path) -> None:
    import ray

    async with mocked() as server:
        scenario = server.scenario(load={"rate": "40"}, duration=12)
        with Writer(tmp_path / "r.jsonl") as writer:
            async with Means(2, "local").ready(writer) as make:
                run = make(scenario, Controls())
                task = asyncio.create_task(outcome.measure(scenario, run.execute, 0))
                while run.elapsed < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                ray.kill(run._parts[0].hand._actor)
                summary, _ = await task
        truth = server.mock.truth.requests
    records = list(read(tmp_path / "r.jsonl"))
    assert summary["requests"] == len(records) <= truth
    assert len({record.id for record in records}) == len(records) > 200
    instrument = summary["instrument"]
    assert instrument["workers"] == 2
    assert (instrument["lost_workers"], instrument["replaced_workers"]) == (1, 1)
    assert {record.id % 2 for record in records if record.intended > 10} == {0, 1}
