"""Files that say what a run found: one HTML page with its plots, CSV, JUnit."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from loadtest.core import UsageError
from loadtest.instrument import Measured
from loadtest.plots import lines_plot
from loadtest.records import blocks
from loadtest.series import Series
from loadtest.summary import curves, summarize, timeline
from loadtest.text import lines

_LONG = 64 << 20  # bytes of records from which processes are worth their start
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
pre{background:#f6f6f4;padding:1rem;overflow:auto}
figure{display:inline-block;margin:0 1rem 1rem 0}
figcaption{font-weight:600}.VALID{color:#176d33}.SUSPECT{color:#8a5a00}.INVALID{color:#a3161a}
table{border-collapse:collapse}
td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}
svg text{font:11px system-ui,sans-serif;fill:#555}
"""


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
    from loadtest import columns  # numpy is slow to import

    series, last = Series.over(duration), 0.0
    for records in blocks(path, part, parts):
        columns.add(series, records)
        last = max(last, max(record.intended for record in records))
    return series, last


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


def html(summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]], dist: Any) -> str:
    """One page without any other file."""
    title = f"{summary.get('verdict', 'Records')}: load test"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in summary.get("reasons", ()))
    text = "\n".join(lines(summary)) if "instrument" in summary else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}</style><h1 class={summary.get('verdict', '')}>{escape(title)}</h1>"
        f"<p>{escape(str(summary.get('finished', '')))}</p><ul>{reasons}</ul>"
        f"<pre>{escape(text)}</pre>{_figures(points, dist)}{_table(summary)}</html>"
    )


def _figures(points: Sequence[Mapping[str, Any]], dist: Any) -> str:
    def over_time(*names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [(each["at"], each[name]) for each in points if each[name] is not None]
            for name in names
        }

    plots = {
        "Output tokens per second": (over_time("tokens"), "s", ""),
        "Time to first token, ms": (over_time("ttft_p50", "ttft_p95"), "s", "ms"),
        "Between tokens p95, ms": (over_time("itl_p95"), "s", "ms"),
        "Requests and errors per second": (over_time("requests", "errors"), "s", ""),
        "Requests in flight": (over_time("in_flight"), "s", ""),
        **{f"Share of {name} below": ({name: dist[name]}, "ms", "") for name in dist},
    }
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{lines_plot(*plot)}</figure>"
        for title, plot in plots.items()
    )


def _table(summary: Mapping[str, Any]) -> str:
    columns = ("count", "mean", "p50", "p90", "p95", "p99", "max")
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(
        f"<tr><th>{escape(key)}</th>"
        + "".join(f"<td>{'-' if v[c] is None else f'{v[c]:g}'}</td>" for c in columns)
        + "</tr>"
        for key, v in summary.items()
        if key.endswith("_ms") and isinstance(v, Mapping)
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


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
        cases.append((name, each["met"], f"it was {each['value']}, the limit {each['limit']}"))
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
