"""One run by many processes: what each is told, what each sends back, how it is put together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from loadtest.core import RunError
from loadtest.instrument import Measured
from loadtest.records import Writer
from loadtest.runner import Run, Share
from loadtest.scenario import Scenario, build, revealed

LEAD = 0.5  # seconds from the last worker being ready to the start
_READY = 30.0  # seconds in which it must be


class Job(msgspec.Struct, frozen=True):
    """One worker's part. `records` is a file of its own; `start` seconds since the epoch, by the
    worker's clock, 0 if it is told later."""

    scenario: dict[str, Any]
    run: str
    index: int
    count: int
    start: float = 0.0
    records: str | None = None


def split(scenario: Scenario, run: str, count: int, records: Path | None) -> list[Job]:
    """The jobs of `count` workers."""
    data = revealed(scenario)
    files = [f"{records}.{index}" if records else None for index in range(count)]
    return [Job(data, run, i, count, 0.0, file) for i, file in enumerate(files)]


async def work(job: Job) -> Measured:
    """Do one job in this process."""
    share = Share(job.run, job.index, job.count, job.start or None)
    if job.records is None:
        return await Run(build(job.scenario), share).execute()
    with Writer(Path(job.records)) as writer:
        return await Run(build(job.scenario), share, [writer]).execute()


async def worker() -> None:
    """The hidden command: a job and a start on stdin, the result on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    os.write(1, b"ready\n")
    start = float(sys.stdin.readline())
    measured = await work(msgspec.structs.replace(job, start=start))
    sys.stdout.buffer.write(msgspec.json.encode(measured.fold()) + b"\n")


async def on_processes(scenario: Scenario, run: str, count: int, records: Path | None) -> Measured:
    """Run on `count` processes of this machine.

    Raises:
        RunError: not one of them came back.
    """
    jobs = split(scenario, run, count, records)
    processes = [await _spawn(job) for job in jobs]
    try:
        await asyncio.gather(*map(_ready, processes), return_exceptions=True)
        start = time.time() + LEAD
        found = await asyncio.gather(
            *(_result(process, start) for process in processes), return_exceptions=True
        )
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
    _gather(records, jobs)
    return together([each for each in found if isinstance(each, Measured)], count)


def together(parts: Sequence[Measured], count: int) -> Measured:
    """The whole run; workers that did not come back are counted as lost.

    Raises:
        RunError: all are.
    """
    if not parts:
        raise RunError("all workers were lost")
    whole, *rest = parts
    for part in rest:
        whole.merge(part)
    whole.lost = count - len(parts)
    # What the lost ones were to offer is owed.
    whole.offered *= count / len(parts)
    return whole


async def _spawn(job: Job) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 30,
    )
    _tell(process, msgspec.json.encode(job))
    return process


async def _ready(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_READY):
        await _line(process)


async def _result(process: asyncio.subprocess.Process, start: float) -> Measured:
    _tell(process, str(start).encode())
    return msgspec.json.decode(await _line(process), type=Measured)


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    if process.stdin is not None and not process.stdin.is_closing():
        process.stdin.write(line + b"\n")


async def _line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise RunError("a worker has no output")
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise RunError("a worker was lost")
    return line


def _gather(records: Path | None, jobs: Sequence[Job]) -> None:
    """Put the workers' files of records into one."""
    if records is None:
        return
    with records.open("wb") as whole:
        for job in jobs:
            part = Path(job.records or "")
            if part.is_file():
                with part.open("rb") as lines:
                    while block := lines.read(1 << 20):
                        whole.write(block)
                part.unlink()
