"""A run by the actors of a Ray cluster."""

from __future__ import annotations

import asyncio

import pytest

from loadtest import outcome
from tests.loadtest.conftest import mocked


@pytest.mark.slow
async def test_actors_do_one_run_together() -> None:
    from loadtest.swarm import on_ray

    async with mocked() as server:
        scenario = server.scenario(load={"rate": "40"}, duration=3)
        measured = await asyncio.to_thread(on_ray, scenario, outcome.new_run(), 2, "local")
        truth = server.mock.truth.requests
    summary = await outcome.conclude(scenario, measured, 0)
    assert summary["requests"] == truth > 60
    assert (summary["instrument"]["workers"], summary["instrument"]["lost_workers"]) == (2, 0)
