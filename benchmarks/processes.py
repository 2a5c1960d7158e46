"""Servers as process trees: starting and stopping them, and what CPU time each part has used."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from serving.cluster.environment import free_ports

# How long a server may take to stop before it is killed, in seconds.
_PATIENCE = 60.0


def free_port() -> int:
    """One that nobody listens on, nor is given meanwhile."""
    return free_ports(1)[0]


def _used(process: int) -> float:
    """CPU seconds, to the nanosecond: /proc tells them in hundredths.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime(~process << 3 | 2)  # as clock_getcpuclockid(3) makes it on Linux


def pin(threads: Iterable[int], core: int) -> None:
    """Have these run on this core, and what they start from now on."""
    for thread in threads:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {core})


def interrupt_on_sigterm() -> None:
    """Let SIGTERM, too, leave the blocks of the servers and so end them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Server:
    """A command that serves, with all its descendants. Leaving the block ends them."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it; what it prints goes to `log`."""
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tree = self._tree()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        _, left = psutil.wait_procs(tree[1:], timeout=10)
        for process in left:
            process.kill()
        self._process.wait()

    def wait(self, is_ready: Callable[[], bool], limit: float) -> None:
        """Return when `is_ready`.

        Raises:
            RuntimeError: it ended, or was not ready within `limit` seconds. Says its last words.
        """
        deadline = time.monotonic() + limit
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a server did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.5)

    def threads(self) -> list[int]:
        """Ids of all that run in it now."""
        found = []
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                found += [thread.id for thread in process.threads()]
        return found

    def cpu(self, part: Callable[[str], str]) -> dict[str, float]:
        """CPU seconds used so far, by part; `part` names a command line's."""
        spent: dict[str, float] = defaultdict(float)
        for process in self._tree():
            try:
                used, line = _used(process.pid), " ".join(process.cmdline())
            except (psutil.NoSuchProcess, OSError):
                continue
            spent[part(line)] += used
        return dict(spent)

    def used_since(
        self, before: Mapping[str, float], part: Callable[[str], str]
    ) -> dict[str, float]:
        """CPU seconds used since `before`, by part."""
        return {name: used - before.get(name, 0.0) for name, used in self.cpu(part).items()}

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return [self._root]
