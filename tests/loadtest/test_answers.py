"""search, sweep, compare, report, workers, the page: against the mock."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow.parquet
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest import scrape
from loadtest.compare import compare
from loadtest.core import Record, UsageError
from loadtest.histogram import Histogram, merged
from loadtest.intervals import drift, quantile_interval, warm_up
from loadtest.outcome import conduct
from loadtest.records import Writer, read
from loadtest.report import from_file
from loadtest.search import Judge, Probe, search
from loadtest.slo import parse
from tests.loadtest.conftest import Command, ended, mocked, read_json


def records(count: int = 400, slower: float = 1.0, seed: int = 1, **more: Any) -> list[Record]:
    rng = random.Random(seed)
    made = []
    for index in range(count):
        at, wait = index / 40, slower * rng.lognormvariate(-2, 0.3)
        end = at + wait + 0.03
        made.append(
            Record(
                id=index,
                intended=at,
                sent=at,
                first_token=at + wait,
                end=end,
                gaps=[10_000, 20_000],
                frames=3,
                status=200,
                output_tokens=3,
                **more,
            )
        )
    return made


def probing(capacity: float) -> Callable[[float], Awaitable[Probe]]:
    """A server that meets the objective up to `capacity`."""

    async def probe(load: float) -> Probe:
        values = {"ttft p95 < 1s": 0.3 if load <= capacity else 3.0}
        return Probe(load, load <= capacity, "early", 10, 1.0, values, "VALID")

    return probe


@pytest.mark.parametrize(
    ("capacity", "whole", "low", "high"),
    [(37, False, 33, 40), (37, True, 34, 40), (1, True, 1, 2), (0.4, False, 0.3, 0.5)],
)
async def test_search_brackets_the_capacity(
    capacity: float, whole: bool, low: float, high: float
) -> None:
    found = await search(probing(capacity), 8, 1024, 0.1, whole)
    assert low <= found["largest_met"] <= capacity < found["smallest_missed"] <= high * 1.1
    assert found["probes"] == len(found["trail"]) < 12
    assert found["cliff"]


async def test_search_ends_at_the_most_it_may_try() -> None:
    found = await search(probing(1e9), 1, 50, 0.1, False)
    assert (found["largest_met"], found["smallest_missed"], found["cliff"]) == (50, None, False)


@pytest.mark.parametrize(
    ("slower", "patience", "decided"),
    [(4.0, 5.0, False), (0.1, 5.0, True), (0.1, 1e9, None), (1.25, 5.0, None)],
)
def test_a_probe_ends_when_it_is_decided(
    slower: float, patience: float, decided: bool | None
) -> None:
    stopped: list[bool] = []
    judge = Judge(parse("ttft p90 < 250ms"), patience, lambda: stopped.append(True))
    for record in records(slower=slower):
        judge(record)
    assert (judge.decided, bool(stopped)) == (decided, decided is not None)


async def test_search_by_command(loadtest: Command, tmp_path: Path) -> None:
    # One at a time, each 0.1 s: 10 requests a second, and no more.
    async with mocked(ttft=0.1, itl=0.0, capacity=1) as server:
        done = await loadtest(
            *("search", "--url", server.target()["url"], "--api", "openai", "--max-tokens", "1"),
            *("--slo", "ttft p90 < 900ms, errors < 10%", "--from", "3", "--to", "48"),
            *("--duration", "2.4s", "--precision", "1", "--json", "found.json"),
        )
    assert done.status == 0, done.out + done.err
    found = read_json(tmp_path / "found.json")
    assert found["largest_met"] < found["smallest_missed"] <= 48
    assert done.out.startswith("between ")


async def test_a_search_that_cannot_be_met_says_so(loadtest: Command) -> None:
    async with mocked(ttft=0.05) as server:
        done = await loadtest(
            *("search", "--url", server.target()["url"], "--api", "openai", "--max-tokens", "1"),
            *("--slo", "ttft p50 < 1ms", "--by", "concurrency", "--from", "1", "--duration", "2s"),
        )
    assert (done.status, "not even 1 meets" in done.err) == (3, True), done.err


async def test_sweep_shows_each_load(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        done = await loadtest(
            *("sweep", "--loads", "1,4", "--url", server.target()["url"]),  # /v1: openai
            *("--max-tokens", "5", "--duration", "1s", "--json", "s.json"),
        )
    one, four = read_json(tmp_path / "s.json")["runs"]
    assert (one["load"], four["load"]) == (1, 4)
    assert four["output_tokens_per_second"] > 1.3 * one["output_tokens_per_second"]
    assert done.out.count("VALID") + done.out.count("SUSPECT") == 2


@pytest.mark.parametrize(
    ("slower", "seed", "verdict"),
    [(1.0, 1, "same"), (1.25, 1, "worse"), (0.8, 1, "better"), (1.3, 2, "worse")],
)
def test_compare_tells_better_from_worse(slower: float, seed: int, verdict: str) -> None:
    found = compare([(records(), records(slower=slower, seed=seed))], tolerance=0.05)
    ttft = next(each for each in found["changes"] if each["quantity"] == "ttft p50")
    assert found["paired"]
    assert ttft["verdict"] == verdict
    assert ttft["low"] <= ttft["ratio"] <= ttft["high"]
    assert 0 < ttft["detectable"] < 0.5 or slower in (1.0, 1.25, 0.8)


def test_compare_counts_more_errors_as_worse() -> None:
    broken = records(count=200, error="http_500") + records()[200:]
    assert compare([(records(), broken)], 0.05)["errors"]["verdict"] == "worse"


def test_compare_needs_something_to_compare() -> None:
    with pytest.raises(UsageError, match="only 5"):
        compare([(records(5), records(5))], 0.05)


async def test_compare_by_command(loadtest: Command, tmp_path: Path) -> None:
    for name, slower in (("a", 1.0), ("b", 1.5)):
        with Writer(tmp_path / f"{name}.jsonl") as writer:
            for record in records(slower=slower):
                writer(record)
    assert (await loadtest("compare", "a.jsonl", "a.jsonl")).status == 0
    worse = await loadtest("compare", "a.jsonl", "b.jsonl")
    assert (worse.status, worse.out.startswith("**worse**")) == (1, True)
    assert (await loadtest("compare", "a.jsonl", "missing.jsonl")).status == 2


async def test_compare_drives_both_in_turn(loadtest: Command, tmp_path: Path) -> None:
    async with mocked(ttft=0.02) as fast, mocked(ttft=0.04) as slow:
        flags = ("--api", "openai", "--max-tokens", "3", "--rate", "40", "--blocks", "3")
        urls = [server.target()["url"] for server in (fast, slow)]
        worse = await loadtest(
            *("compare", *urls, *flags, "--duration", "1s", "--json", "c.json"),
            *("--tolerance", "0.5"),
        )
        asked = [server.mock.truth.requests for server in (fast, slow)]
    if worse.status == 3:  # this machine was too busy, three times in a row
        assert "event loop" in worse.err, worse.err
        return
    assert worse.status == 1, worse.out + worse.err
    assert asked[0] > 100 < asked[1]
    found = read_json(tmp_path / "c.json")
    assert (found["verdict"], found["blocks"], found["paired"]) == ("worse", 3, True)
    ttft = found["changes"][0]
    assert ttft["low"] > 1.5
    assert 0 < ttft["detectable"] < 1
    first = {}
    for line in worse.err.splitlines():
        block, side = line.split(": ")[0].split(", ")
        first.setdefault(block, side)
    assert first == {"block 1": "A", "block 2": "B", "block 3": "A"}


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("http://127.0.0.1:9/v1", "r.jsonl"), "not one of each"),
        (("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"), "exactly one of"),
        (("http://127.0.0.1:9/v1", "missing.yaml"), "exactly one of"),
    ],
)
async def test_compare_needs_two_of_a_kind(
    sides: tuple[str, str], said: str, loadtest: Command
) -> None:
    done = await loadtest("compare", *sides, "--api", "openai")
    assert (done.status, said in done.err) == (2, True), done.err


async def test_an_invalid_run_is_no_comparison(loadtest: Command) -> None:
    async with mocked() as server:
        flags = ("--api", "openai", "--rate", "20", "--duration", "1s")
        done = await loadtest("compare", server.target()["url"], "http://127.0.0.1:9/v1", *flags)
    assert (done.status, " in block 1: INVALID" in done.err) == (3, True), done.err


async def test_a_report_without_numpy_says_the_same(loadtest: Command, tmp_path: Path) -> None:
    with Writer(tmp_path / "r.jsonl") as writer:
        for record in records():
            writer(record)
    assert (await loadtest("report", "r.jsonl", "--json", "with.json")).status == 0
    (tmp_path / "numpy.py").write_text("raise ImportError")
    assert (await loadtest("report", "r.jsonl", "--json", "without.json")).status == 0
    quick, plain = read_json(tmp_path / "with.json"), read_json(tmp_path / "without.json")
    for figures in (quick, plain):
        del figures["output_tokens_per_second_ci95"]  # sums of floats in another order
    assert quick == plain
    fit = await loadtest("fit", "r.jsonl", "--out", "m.json")
    assert (fit.status, "needs numpy" in fit.err) == (2, True), fit.err


async def test_records_say_what_the_run_said(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        scenario = server.scenario(load={"rate": "50"}, duration=2)
        with Writer(tmp_path / "r.jsonl") as writer:
            summary, _ = await conduct(scenario, [writer], calibration=0)
    for parts in (1, 3):
        again = from_file(tmp_path / "r.jsonl", 2.0, parts)
        for key in ("requests", "output_tokens", "ttft_ms", "itl_ms", "prompt_tokens"):
            assert again[key] == summary[key], (key, parts)
        tokens = "output_tokens_per_second"
        assert again[tokens] == pytest.approx(summary[tokens])


async def test_records_can_be_parquet(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        done = await loadtest(
            *("run", "--url", server.target()["url"], "--api", "openai", "--concurrency", "2"),
            *("--duration", "1", "--max-tokens", "4", "--calibration", "0"),
            *("--records", "r.parquet"),
        )
        requests = server.mock.truth.requests
    ended(done)
    columns = pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pydict()
    assert len(columns["id"]) == requests > 10
    assert {len(gaps) for gaps in columns["gaps"]} == {3}
    assert (await loadtest("report", "r.parquet", "--records", "r.jsonl")).status == 0
    assert list(read(tmp_path / "r.jsonl")) == list(read(tmp_path / "r.parquet"))
    assert (await loadtest("compare", "r.jsonl", "r.parquet")).out.startswith("**same**")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    broken = await loadtest("report", "bad.parquet")
    assert (broken.status, "cannot read" in broken.err) == (2, True), broken.err


async def test_parquet_without_pyarrow_says_what_to_install(
    loadtest: Command, tmp_path: Path
) -> None:
    hidden = tmp_path / "pyarrow"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError")
    flags = ("--url", "http://127.0.0.1:9/v1", "--api", "openai", "--rate", "1", "--duration", "1")
    done = await loadtest("run", *flags, "--records", "r.parquet")
    assert (done.status, "pip install" in done.err) == (2, True), done.out + done.err


async def test_a_run_leaves_its_files(loadtest: Command, tmp_path: Path) -> None:
    async with mocked() as server:
        done = await loadtest(
            *("run", "--url", server.target()["url"], "--api", "openai", "--rate", "40"),
            *("--duration", "1", "--max-tokens", "4", "--calibration", "0", "--headless"),
            *("--slo", "ttft p95 < 1ms", "--html", "r.html", "--csv", "r.csv", "--junit", "r.xml"),
        )
    ended(done, 1)
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") >= 6
    assert "http://" not in page.replace(server.target()["url"], "")
    figures = dict(csv.reader((tmp_path / "r.csv").read_text().splitlines()))
    assert int(figures["output_tokens"]) == 4 * int(figures["requests"])
    suite = ET.parse(tmp_path / "r.xml").getroot()
    missed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert suite.get("tests") == "2"
    assert missed[-1] == "ttft p95 < 1ms"
    assert suite.get("failures") == str(len(missed))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_metrics_are_pushed_to_a_gateway(workers: str, loadtest: Command) -> None:
    pushed: list[str] = []

    async def gateway(request: Request) -> Response:
        pushed.append((await request.body()).decode())
        return Response()

    app = Starlette(routes=[Route("/metrics/job/loadtest", gateway, methods=["PUT"])])
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running._serve([listener]))
    async with mocked() as server:
        done = await loadtest(
            *("run", "--url", server.target()["url"], "--api", "openai", "--concurrency", "2"),
            *("--requests", "20", "--duration", "20", "--calibration", "0", "--workers", workers),
            *("--push", f"http://127.0.0.1:{listener.getsockname()[1]}/metrics/job/loadtest"),
        )
    running.should_exit = True
    await task
    ended(done)
    samples = {
        (sample.name, sample.labels.get("outcome"), sample.labels.get("route")): sample.value
        for family in text_string_to_metric_families(pushed[-1])
        for sample in family.samples
    }
    route = "ai/v1/chat/completions"
    assert samples["loadtest_requests_total", "ok", route] == 20
    assert samples["loadtest_time_to_first_token_seconds_count", None, route] == 20


async def test_a_terminal_shows_the_run_while_it_goes(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    async with mocked() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest", "run", "--url", server.target()["url"]),
            *("--concurrency", "2", "--duration", "2.5", "--calibration", "0", "--max-tokens", "4"),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        shown = await asyncio.to_thread(_all_of, ours)
        await process.wait()
    assert "2 in flight" in shown
    for column in ("tenant", "requests", "errors", "tokens", "TTFT p95 ms", "ITL p95 ms"):
        assert column in shown
    assert "default" in shown


def _all_of(terminal: int) -> str:
    """What is written to it until the other side is closed."""
    found = b""
    try:
        while more := os.read(terminal, 65536):
            found += more
    except OSError:  # so Linux says that it is
        pass
    os.close(terminal)
    return found.decode(errors="replace")


async def test_the_rate_of_an_open_loop_changes_on_the_way() -> None:
    from loadtest.going import Controls

    controls = Controls()
    async with mocked() as server:
        asyncio.get_running_loop().call_later(1.0, controls.change, None, "80")
        load = {"rate": "10", "arrivals": "constant"}
        summary, _ = await conduct(server.scenario(load=load, duration=2), [], controls, 0)
    assert summary["requests"] == pytest.approx(80, abs=30)


async def test_ttft_is_split_by_the_servers_own_metrics() -> None:
    async with mocked(ttft=0.05, capacity=2) as server:
        target = {"metrics": f"http://127.0.0.1:{server.port}/metrics"}
        scenario = server.scenario(load={"concurrency": 4}, requests=24, duration=20, target=target)
        summary, _ = await conduct(scenario, calibration=0)
    split = summary["server"]
    assert split["engine_ttft_ms"] == pytest.approx(summary["service_ttft_ms"]["mean"], abs=30)
    assert split["queue_ms"] > 30  # two of four wait for the others
    assert split["queue_ms"] + split["other_ms"] == pytest.approx(split["engine_ttft_ms"], abs=0.1)


METRICS = """# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1",replica="0"} 7
vllm:time_to_first_token_seconds_sum{engine="0",replica="0"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",replica="0"} 10
vllm:time_to_first_token_seconds_sum{engine="0",replica="1"} 1.0
vllm:time_to_first_token_seconds_count{engine="0",replica="1"} 10
vllm:request_queue_time_seconds_sum 0.4
vllm:request_queue_time_seconds_count 20
vllm:request_prefill_time_seconds_sum 2.0
vllm:request_prefill_time_seconds_count 20
serving_time_to_first_token_seconds_sum{route="run",replica="0"} 3.6
serving_time_to_first_token_seconds_count{route="run",replica="0"} 20
serving_queue_seconds_sum{replica="0"} 0.2
serving_queue_seconds_count{replica="0"} 20
"""


def test_every_part_that_the_server_tells_has_its_share_of_ttft() -> None:
    split = scrape.split({}, scrape.parse(METRICS), 185.0)
    assert split["engine_ttft_ms"] == 150
    told = {"network": 5, "admission": 10, "proxy": 20, "queue": 20, "prefill": 100, "other": 30}
    assert {name: split[f"{name}_ms"] for name in told} == told
    assert sum(told.values()) == 185
    assert split["vision_ms"] is None
    # Five of the twenty had pictures, 80 ms of work each.
    pictures = "serving_vision_seconds_sum 0.4\nserving_vision_seconds_count 5\n"
    seen = scrape.split({}, scrape.parse(METRICS + pictures), 185.0)
    assert (seen["vision_ms"], seen["prefill_ms"], seen["other_ms"]) == (20, 80, 30)
    # What was counted before the run does not count.
    twice = scrape.parse(METRICS.replace(" 20\n", " 40\n").replace(" 0.4\n", " 1.2\n"))
    assert scrape.split(scrape.parse(METRICS), twice, 1.0)["queue_ms"] == 40


async def test_metrics_that_cannot_be_read_stop_the_run_before_it_begins(loadtest: Command) -> None:
    async with mocked() as server:
        done = await loadtest(
            *("run", "--url", server.target()["url"], "--api", "openai", "--concurrency", "1"),
            *("--duration", "1", "--metrics", "http://127.0.0.1:9/metrics"),
        )
        assert server.mock.truth.requests == 0
    assert (done.status, "cannot read the metrics" in done.err) == (2, True)


def test_a_warm_up_is_found_and_a_drift_noticed() -> None:
    rng = random.Random(3)
    steady = [rng.gauss(100, 3) for _ in range(60)]
    assert warm_up(steady) is not None
    assert (warm_up(steady) or 0) < 15
    assert warm_up([400 - 60 * i for i in range(5)] + steady) in range(4, 16)
    rising = [100 + 2 * i + rng.gauss(0, 3) for i in range(60)]
    assert abs(drift(steady)) < 3 < drift(rising)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_of_quantiles_cover_the_truth(share: float) -> None:
    rng, hits = random.Random(9), 0
    true = {0.5: 1.0, 0.95: 5.180}[share]  # of a lognormal with median 1 and sigma 1
    for _ in range(60):
        blocks = [Histogram(buckets={}) for _ in range(32)]
        for block in blocks:
            for _ in range(12):
                block.add(rng.lognormvariate(0, 1))
        found = quantile_interval(merged(blocks), blocks, share)
        assert found is not None
        hits += found[0] <= true <= found[1]
    assert hits >= 51  # 95% of 60 are 57; fewer than 51 would come once in a thousand times


async def test_quick_needs_nothing_but_a_url() -> None:
    from loadtest.quick import answer

    async with mocked() as server:
        result, lines = await answer(server.scenario(load={"concurrency": 1}, duration=0.6))
    assert [each["scenario"]["load"]["concurrency"] for each in result["loads"]] == [1, 4, 16]
    assert lines[-2].startswith("One user waits ")
    assert lines[-1].startswith("16 users together get ")
