"""What is so now and was not counted: read once a second, put where all replicas' metrics are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from serving.telemetry.shelf import Shelf
from serving.telemetry.vocabulary import Metric

PERIOD = 1.0
"""Seconds."""
Reading = Callable[[], Mapping[Metric, float]]

_log = logging.getLogger("serving.telemetry")


class Sampler:
    """Sets gauges from a thread of its own."""

    def __init__(self, shelf: Shelf, reading: Reading) -> None:
        """`reading` is called in the thread: it reads numbers and waits for nothing."""
        self._shelf = shelf
        self._reading = reading
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
                for metric, value in self._reading().items():
                    self._shelf.gauge(metric).set(value)
                self._shelf.keep()
            except Exception:
                _log.exception("a gauge cannot be read")
            if self._closing.wait(PERIOD):
                return
