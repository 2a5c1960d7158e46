"""What every command needs at its edge: the loop, files, errors as one line and an exit status."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import typer

from loadtest.core import LoadtestError, UsageError

T = TypeVar("T")


@contextmanager
def reported() -> Iterator[None]:
    """Errors of the package become a line and status 2 (usage) or 3 (no valid run)."""
    try:
        yield
    except LoadtestError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 3) from error


def loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one."""
    try:
        from uvloop import run
    except ImportError:
        run = asyncio.run
    try:
        result: T = run(work)
    except KeyboardInterrupt:  # it was not for us to stop gently
        raise typer.Exit(130) from None
    return result


def on_interrupt(stop: Callable[[], None]) -> None:
    """The first Ctrl-C or SIGTERM calls `stop`, the next one ends the process."""
    running = asyncio.get_running_loop()

    def once() -> None:
        stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            running.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(number, once)


def write_json(file: Path, data: Any) -> None:
    """Write a file of JSON.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error


def say(line: str) -> None:
    """Progress, which is no part of the answer."""
    print(line, file=sys.stderr, flush=True)
