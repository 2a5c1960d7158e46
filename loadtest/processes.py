"""Workers that are processes of this machine: orders on stdin, reports on stdout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec

from loadtest.jobs import Job, Order, Report, Work
from loadtest.team import LostError

_EVERY = 1.0  # seconds between reports
_LINE = 1 << 30  # bytes of the longest
_READY = b"ready"
_encode = msgspec.json.Encoder().encode
_order = msgspec.json.Decoder(Order)


class Process:
    """A `Hand`."""

    offset = 0.0

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def hired(cls, job: Job) -> Process:
        """Start one and wait until it is ready.

        Raises:
            LostError: it ended instead.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest", "worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE,
        )
        hand = cls(process)
        try:
            hand._write(_encode(job))
            if await hand._line() != _READY:
                raise LostError
        except BaseException:
            await hand.dismiss()
            raise
        return hand

    async def tell(self, order: Order) -> None:
        """See `Hand`."""
        self._write(_encode(order))

    async def report(self) -> Report:
        """See `Hand`."""
        return msgspec.json.decode(await self._line(), type=Report)

    async def dismiss(self) -> None:
        """See `Hand`."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            raise LostError
        stdin.write(line + b"\n")

    async def _line(self) -> bytes:
        if self._process.stdout is None:
            raise LostError
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise LostError
        return line[:-1]


async def worker() -> None:
    """The hidden command: a job and orders on stdin, reports on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    lines = await _stdin()
    work = Work(msgspec.json.decode(await lines.readline(), type=Job))
    await work.prepare()
    _say(_READY)
    work.obey(_order.decode(await lines.readline()))
    orders = asyncio.create_task(_obeyed(work, lines))
    try:
        while True:
            report = await work.report(_EVERY)
            _say(_encode(report))
            if report.done:
                return
    finally:
        orders.cancel()


async def _obeyed(work: Work, lines: asyncio.StreamReader) -> None:
    """Whatever more is ordered; without a parent there is nobody to work for."""
    while line := await lines.readline():
        work.obey(_order.decode(line))
    os._exit(1)


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_LINE)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
