"""Runs by several processes: one schedule, one report, and a lost worker's share made good."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest import outcome
from loadtest.going import Controls
from loadtest.means import Means
from loadtest.records import Writer, read
from loadtest.scenario import Scenario
from tests.loadtest.conftest import Command, ended, mocked, read_json


async def test_workers_do_one_run_together(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        flags = ("--url", server.target()["url"], "--api", "openai", "--max-tokens", "4")
        done = await loadtest(
            *("run", *flags, "--rate", "60", "--arrivals", "poisson", "--duration", "2"),
            *("--workers", "2", "--records", "r.jsonl", "--json", "s.json", "--calibration", "0"),
        )
        truth = server.mock.truth.requests
    ended(done)
    summary, found = read_json(tmp_path / "s.json"), list(read(tmp_path / "r.jsonl"))
    assert summary["requests"] == len(found) == truth > 80
    assert summary["instrument"]["workers"] == 2
    # The parts are slices of one schedule: no id twice, none missing.
    assert sorted(record.id for record in found) == list(range(truth))


def workers() -> list[psutil.Process]:
    """Those that this process has started."""
    children = psutil.Process().children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "worker" in child.cmdline()]


async def by_workers(scenario: Scenario, count: int, lines: Path, meanwhile: Any) -> dict[str, Any]:
    """The summary of a run by so many workers, during which `meanwhile` happens."""
    with Writer(lines) as writer:
        async with Means(count).ready(writer) as make:
            run = make(scenario, Controls())
            task = asyncio.create_task(outcome.measure(scenario, run.execute, 0))
            try:
                await meanwhile(run)
            finally:
                summary, _ = await task
    assert not workers()
    return summary


async def until(run: Any, moment: float) -> None:
    """Seconds after the start."""
    while run.elapsed < moment:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def killing(after: float) -> Any:
    async def kill(run: Any) -> None:
        await until(run, after)
        workers()[0].kill()

    return kill


async def kill_and_wait(run: Any) -> None:
    """A worker is killed; when another has had its share for some seconds, the run is stopped."""
    await until(run, 1.5)
    workers()[0].kill()
    while not run.replaced:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await until(run, run.elapsed + 3)
    run.controls.stop.set()


@pytest.mark.parametrize(
    "load", [{"rate": "60", "arrivals": "constant"}, {"concurrency": 6}], ids=["open", "closed"]
)
async def test_the_share_of_a_killed_worker_is_made_good(
    load: dict[str, Any], tmp_path: Path
) -> None:
    async with mocked() as server:
        scenario = server.scenario(load=load, duration=50)
        summary = await by_workers(scenario, 2, tmp_path / "r.jsonl", kill_and_wait)
        truth = server.mock.truth.requests
    instrument, records = summary["instrument"], list(read(tmp_path / "r.jsonl"))
    assert (instrument["lost_workers"], instrument["replaced_workers"]) == (1, 1)
    assert summary["verdict"] != "VALID"
    assert any("took their places" in reason for reason in summary["reasons"])
    # What was reported before is kept, what nobody sent is missing from the load achieved.
    assert summary["requests"] == len(records) <= truth
    assert len({record.id for record in records}) == len(records)
    assert 0.1 < summary["achieved"] / summary["offered"] < 0.995
    assert summary["offered"] == pytest.approx(60 if "rate" in load else 6, rel=0.1)
    # Both shares are served at the end as at the beginning.
    late = {record.id % 2 for record in records if record.intended > summary["window_s"] - 2}
    assert late == {0, 1}
    if "rate" in load:
        assert {record.id for record in records} < set(range(3000))


async def test_a_worker_lost_at_the_end_is_not_replaced(tmp_path: Path) -> None:
    async with mocked() as server:
        scenario = server.scenario(load={"rate": "20"}, duration=2)
        summary = await by_workers(scenario, 2, tmp_path / "r.jsonl", killing(1.7))
    assert summary["verdict"] == "INVALID"
    assert any("1 lost workers were not replaced" in reason for reason in summary["reasons"])


async def test_workers_are_watched_changed_and_stopped_as_one(tmp_path: Path) -> None:
    from loadtest.live import exposition, snapshot

    seen: list[dict[str, Any]] = []

    async def meanwhile(run: Any) -> None:
        await until(run, 1.6)
        seen.append(snapshot(run))
        run.controls.change(users=6)
        await until(run, 3.9)
        seen.append(snapshot(run))
        assert 'loadtest_requests_total{tenant="default",account="a"' in exposition(run)
        run.controls.stop.set()

    async with mocked(ttft=0.05) as server:
        scenario = server.scenario(load={"concurrency": 2}, duration=30)
        summary = await by_workers(scenario, 2, tmp_path / "r.jsonl", meanwhile)
    two, six = seen
    assert (two["in_flight"], six["in_flight"]) == (2, 6)
    assert (
        six["tenants"]["default"]["all"]["requests"] > two["tenants"]["default"]["now"]["requests"]
    )
    assert summary["window_s"] < 15


async def test_a_user_that_fails_on_a_worker_ends_the_run(
    loadtest: Command, tmp_path: Path
) -> None:
    (tmp_path / "u.py").write_text(
        "from loadtest.users import User, task\n"
        "class Bad(User):\n"
        "    @task\n"
        "    async def go(self):\n"
        "        await self.ai.stream('Hello', max_tokens=2)\n"
        "        raise KeyError('no')\n"
    )
    async with mocked() as server:
        flags = ("--api", "openai", "--concurrency", "2", "--duration", "20", "--workers", "2")
        done = await loadtest("run", "u.py", "--url", server.target()["url"], *flags)
    assert (done.status, "a user failed: KeyError" in done.err) == (3, True), done.err
