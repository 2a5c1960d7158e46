"""What the load harness costs and how far it is off, against a server that stamps its own truth.

128 streams of 64 tokens at 20 ms in a closed loop. Client and server are processes of their own;
CPU and memory of the client are what the kernel says when it ends, its start included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import processes, report
from benchmarks.rounds import Spread, orders
from loadtest.core import Record
from loadtest.records import Writer

NAME = "harness"
STREAMS, TOKENS = 128, 64
SIDES = ("raw", "httpx")
BARS = {
    "CPU ms / 1,000 tokens": "≤ 50",
    "TTFT p50 error, ms": "≤ 1",
    "TTFT p99 error, ms": "≤ 5",
    "ITL p99 error, ms": "≤ 0.5",
    "offered load": "100 %",
    "resident, MB": "≤ 100",
}


def main() -> None:
    """The command."""
    options = _options()
    settings = {"streams": STREAMS, "tokens": TOKENS, "seconds": options.seconds}
    head = report.start(NAME, settings, options.quick, options.note)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = [
            {side: _load(side, options.seconds, folder) for side in order}
            for order in orders(SIDES, options.rounds)
        ]
        starts = [_start(folder) for _ in range(options.rounds)]
        records = _report(folder, options.records)
    summary = {
        side: {key: Spread.of([each[side][key] for each in seen]).json() for key in BARS}
        for side in SIDES
    }
    rows = [_row(side, [each[side] for each in seen]) for side in SIDES]
    rows.append({"transport": "target", **BARS})
    remarks = [
        f"start-up, with one request: {Spread.of(starts).text()} CPU seconds; target ≤ 1",
        f"{options.records:,} records of {TOKENS} tokens reported in {records['seconds']:.1f} s "
        f"({records['cpu_seconds']:.1f} s of CPU) and {records['megabytes']:.0f} MB; "
        "target for a million < 20 s, < 500 MB",
    ]
    found = {"transports": summary, "start_cpu_seconds": Spread.of(starts).json()}
    report.finish(head, rows, {**found, "records": records}, seen, remarks)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="one short round, few records")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.records = 1, 4.0, 50_000
    return options


def _load(side: str, seconds: float, folder: Path) -> dict[str, float]:
    """One run of one transport: what it said, what was true, what it cost."""
    port, out = processes.free_port(), folder / "summary.json"
    command = ["mock", "--port", str(port), "--ttft", "uniform(50ms, 450ms)", "--itl", "20ms"]
    with processes.Server(_command(*command), {}, folder / "mock.log") as server:
        server.wait(lambda: _truth(port) is not None, 20)
        cpu, memory = _measured(_client(port, out, side, "--duration", str(seconds)))
        truth = _truth(port) or {}
    said = json.loads(out.read_text())
    if said["requests"] != truth["requests"] or said["output_tokens"] != truth["tokens"]:
        raise RuntimeError("client and server counted differently")
    return {
        "CPU ms / 1,000 tokens": 1e6 * cpu / said["output_tokens"],
        "TTFT p50 error, ms": said["ttft_ms"]["p50"] - truth["ttft_ms"]["p50"],
        "TTFT p99 error, ms": said["ttft_ms"]["p99"] - truth["ttft_ms"]["p99"],
        "ITL p99 error, ms": said["itl_ms"]["p99"] - truth["itl_ms"]["p99"],
        "offered load": 100 * said["achieved"] / said["offered"],
        "resident, MB": memory,
    }


def _start(folder: Path) -> float:
    """CPU seconds of a run of one request."""
    port = processes.free_port()
    with processes.Server(_command("mock", "--port", str(port)), {}, folder / "mock.log") as server:
        server.wait(lambda: _truth(port) is not None, 20)
        flags = ("--requests", "1", "--duration", "5")
        return _measured(_client(port, folder / "one.json", "raw", *flags))[0]


def _report(folder: Path, count: int) -> dict[str, float]:
    """Reporting many records: seconds of wall clock and of CPU, MB resident."""
    rng, path = random.Random(0), folder / "records.jsonl"
    with Writer(path) as writer:
        for index in range(count):
            at, gaps = index / 500, [rng.randrange(15_000, 25_000) for _ in range(TOKENS - 1)]
            first = at + rng.uniform(0.05, 0.45)
            writer(
                Record(
                    id=index,
                    intended=at,
                    sent=at,
                    first_token=first,
                    end=first + sum(gaps) / 1e6,
                    gaps=gaps,
                    frames=TOKENS,
                    status=200,
                    output_tokens=TOKENS,
                    prompt_tokens=128,
                )
            )
    began = time.monotonic()
    cpu, memory = _measured(_command("report", str(path), "--html", str(folder / "page.html")))
    seconds = time.monotonic() - began
    return {"count": count, "seconds": seconds, "cpu_seconds": cpu, "megabytes": memory}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtest", *arguments]


def _client(port: int, out: Path, side: str, *more: str) -> list[str]:
    concurrency = "1" if "--requests" in more else str(STREAMS)
    return _command(
        *("run", "--url", f"http://127.0.0.1:{port}/v1", "--api", "openai", "--model", "m"),
        *("--concurrency", concurrency, "--max-tokens", str(TOKENS), "--transport", side),
        *("--calibration", "0", "--headless", "--json", str(out), *more),
    )


def _measured(command: list[str]) -> tuple[float, float]:
    """CPU seconds and the most MB resident of a command that must not fail to run."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: it calls itself invalid, which the figures show
        raise RuntimeError(f"{command[3]} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _truth(port: int) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/truth", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def _row(side: str, figures: list[dict[str, float]]) -> dict[str, str]:
    spreads = {key: Spread.of([each[key] for each in figures]) for key in BARS}
    return {"transport": side, **{key: spread.text() for key, spread in spreads.items()}}


if __name__ == "__main__":
    processes.interrupt_on_sigterm()
    main()
