"""What is so now and was not counted: read once in a while, put where all metrics are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from serving.telemetry.shelf import Shelf
from serving.telemetry.vocabulary import Metric

PERIOD = 1.0
"""Seconds."""
Value = tuple[Metric, float] | tuple[Metric, float, str]
"""A gauge, what it shows, and the value of its label if it has one."""
Reading = Callable[[], Iterable[Value]]

_log = logging.getLogger("serving.telemetry")


class Sampler:
    """Sets gauges from a thread of its own."""

    def __init__(self, shelf: Shelf, reading: Reading, period: float = PERIOD) -> None:
        """`reading` is called in the thread every `period` seconds."""
        self._shelf = shelf
        self._reading = reading
        self._period = period
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        """The thread."""
        while True:
            try:
                for metric, value, *labels in self._reading():
                    self._shelf.gauge(metric, *labels).set(value)
                self._shelf.keep()
            except Exception:
                _log.exception("a gauge cannot be read")
            if self._closing.wait(self._period):
                return
