"""The commands that answer a question with more than one run: search, sweep, report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loadtest import console, options
from loadtest.core import UsageError


@options.spelled_out
def search(
    *,
    asked: options.Asked,
    file: Annotated[Path | None, typer.Argument(help="Scenario (YAML)")] = None,
    url: options.Url = None,
    by: options.By = "rate",
    first: Annotated[float, typer.Option("--from", help="First load tried", min=0.01)] = 1.0,
    most: Annotated[float, typer.Option("--to", help="Largest load tried")] = 1024.0,
    precision: Annotated[float, typer.Option(help="0.1: to 10%", min=0.01)] = 0.1,
    duration: options.Duration = "30s",
    json: options.Json = None,
) -> None:
    """The largest rate, or number of users, that meets an objective."""
    from loadtest.probe import probe
    from loadtest.search import search as find

    with console.reported():
        scenario = asked.scenario(file, url, load=_load(by, first), duration=duration)
        if not scenario.slo:
            raise UsageError("a search needs --slo")
        whole = by == "concurrency"
        ask = partial(probe, scenario)
        found = console.loop(find(ask, first, most, precision, whole, console.say))
        if json:
            console.write_json(json, {"by": by, "slo": scenario.slo, **found})
        print(_found(found, by, scenario.slo))


@options.spelled_out
def sweep(
    *,
    asked: options.Asked,
    loads: Annotated[str, typer.Option(help="1,2,4,8")],
    file: Annotated[Path | None, typer.Argument(help="Scenario (YAML)")] = None,
    url: options.Url = None,
    by: options.By = "concurrency",
    duration: options.Duration = "30s",
    json: options.Json = None,
) -> None:
    """The same work at several loads, in turn."""
    from loadtest import probe

    with console.reported():
        numbers = _numbers(loads)
        scenario = asked.scenario(file, url, load=_load(by, numbers[0]), duration=duration)
        found = console.loop(probe.sweep(scenario, numbers))
        print(f"{by:>12}{'tokens/s':>11}{'TTFT p50':>11}{'p95 ms':>9}{'ITL p95':>10}  verdict")
        for each in found:
            print(_row(each))
        if json:
            console.write_json(json, {"by": by, "runs": found})


def report(
    file: Annotated[Path, typer.Argument(help="Records (.jsonl or .parquet)")],
    summary: Annotated[Path | None, typer.Option(help="The run's own summary")] = None,
    records: options.Records = None,
    html: options.Html = None,
    csv: options.Csv = None,
    json: options.Json = None,
) -> None:
    """Figures and plots from a file of records, of any length."""
    from loadtest import html as pages
    from loadtest import report as files
    from loadtest.records import copy

    with console.reported():
        own = _own(summary)
        found = files.from_file(file, own.get("window_s"))
        points, curves = found.pop("timeline"), found.pop("curves")
        if records:
            copy(file, records)
        whole = {**found, **own}
        if json:
            console.write_json(json, whole)
        if csv:
            files.write(csv, files.csv_text(whole))
        if html:
            files.write(html, pages.page(whole, points, curves))
        print(
            f"{whole['requests']} requests, {whole['errors']} errors, "
            f"{whole['output_tokens']} tokens, TTFT p95 {whole['ttft_ms']['p95']} ms, "
            f"ITL p95 {whole['itl_ms']['p95']} ms"
        )


def _own(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"not a summary: {file}") from error
    return found


def _load(by: str, first: float) -> dict[str, Any]:
    """The other kinds of load, that a file may have, make room."""
    if by == "concurrency":
        return {"concurrency": max(1, round(first)), "rate": None, "trace": None}
    if by == "rate":
        return {"rate": f"{first:g}", "concurrency": None, "trace": None}
    raise UsageError(f"--by is rate or concurrency, not {by!r}")


def _numbers(text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError as error:
        raise UsageError(f"loads are numbers with commas: {text!r}") from error
    if min(found) <= 0:
        raise UsageError("loads are above zero")
    return found


def _found(found: dict[str, Any], by: str, slo: str) -> str:
    low, high = found["largest_met"], found["smallest_missed"]
    unit = "users" if by == "concurrency" else "requests/s"
    bounds = f"between {low:g} and {high:g}" if high is not None else f"at least {low:g}"
    cliff = "; beyond it lies a cliff" if found["cliff"] else ""
    spent = f"{found['probes']} probes, {found['seconds']:g} s"
    return f"{bounds} {unit} meet '{slo}'{cliff} ({spent})"


def _row(each: dict[str, Any]) -> str:
    cells = (each["ttft_ms"]["p50"], each["ttft_ms"]["p95"], each["itl_ms"]["p95"])
    shown = ["-" if value is None else f"{value:.1f}" for value in cells]
    return (
        f"{each['load']:>12g}{each['output_tokens_per_second']:>11.1f}"
        f"{shown[0]:>11}{shown[1]:>9}{shown[2]:>10}  {each['verdict']}"
    )
