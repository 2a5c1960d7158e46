"""Files that say what a run found: CSV, JUnit; and the summary of a file of records."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from loadtest.core import Record, UsageError
from loadtest.instrument import Measured
from loadtest.records import blocks
from loadtest.series import Series
from loadtest.slo import shown
from loadtest.summary import curves, summarize, timeline

_LONG = 64 << 20  # bytes of records from which processes are worth their start


def from_file(path: Path, duration: float | None = None, parts: int = 0) -> dict[str, Any]:
    """The summary that can be made of records alone, without a word on the instrument.

    A long file is read in `parts`, each by a process; 0 is one for each core.

    Raises:
        UsageError: it cannot be read, or there are no records.
    """
    parts = parts or (os.cpu_count() or 1 if path.is_file() and _long(path) else 1)
    if parts == 1:
        series, last = _added(path, 0, 1, duration)
    else:
        series, last = _shared(path, parts, duration)
    count = sum(tally.requests for tallies in series.blocks.values() for tally in tallies)
    if not count:
        raise UsageError("there are no records")
    measured = Measured(
        series=series,
        open_loop=True,
        window=duration or last or 1e-3,  # up to the last due time
        offered=float(count),
        started=count,
    )
    return {**summarize(measured), "timeline": timeline(measured), "curves": curves(measured)}


def _long(path: Path) -> bool:
    return path.stat().st_size > _LONG


def _added(path: Path, part: int, parts: int, duration: float | None) -> tuple[Series, float]:
    """What a part of a file adds up to, and its last due time."""
    add = _adder()
    series, last = Series.over(duration), 0.0
    for records in blocks(path, part, parts):
        add(series, records)
        last = max(last, max(record.intended for record in records))
    return series, last


def _adder() -> Callable[[Series, Sequence[Record]], None]:
    """In columns where numpy is, which is heavy and need not be there; else one by one."""
    try:
        from loadtest.columns import add
    except ImportError:
        return _one_by_one
    return add


def _one_by_one(series: Series, records: Sequence[Record]) -> None:
    for record in records:
        series.add(record, not record.error)


def _shared(path: Path, parts: int, duration: float | None) -> tuple[Series, float]:
    with ProcessPoolExecutor(parts, get_context("spawn")) as pool:
        jobs = [pool.submit(_packed, path, part, parts, duration) for part in range(parts)]
        whole, last = Series.over(duration), 0.0
        for job in jobs:
            packed, due = job.result()
            whole.merge(msgspec.msgpack.decode(packed, type=Series))
            last = max(last, due)
    return whole, last


def _packed(path: Path, part: int, parts: int, duration: float | None) -> tuple[bytes, float]:
    series, last = _added(path, part, parts, duration)
    return msgspec.msgpack.encode(series.fold()), last


def csv_text(summary: Mapping[str, Any]) -> str:
    """Every figure as a line `name,value`."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("name", "value"))
    for name, value in _flat(summary, ""):
        writer.writerow((name, value))
    return out.getvalue()


def _flat(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    elif not isinstance(value, list):
        yield name, value


def junit(summary: Mapping[str, Any]) -> str:
    """The verdict and each objective as a test case."""
    suite = ET.Element("testsuite", name="loadtest")
    cases = [("the run is valid", summary["verdict"] != "INVALID", "; ".join(summary["reasons"]))]
    for each in summary["slo"]:
        name = f"{each['tenant']}: {each['objective']}" if each["tenant"] else each["objective"]
        value, limit = shown(each["value"], each["unit"]), shown(each["limit"], each["unit"])
        cases.append((name, each["met"], f"it was {value}, the limit {limit}"))
    for name, passed, message in cases:
        case = ET.SubElement(suite, "testcase", classname="loadtest", name=name)
        if not passed:
            ET.SubElement(case, "failure", message=message)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(not passed for _, passed, _ in cases)))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
