"""The commands that foretell: simulate, plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from loadtest import console, options
from loadtest.core import Record, UsageError
from loadtest.planner.profiles import find
from loadtest.planner.requests import of_scenario
from loadtest.planner.routing import ROUTERS
from loadtest.planner.scaling import OngoingRequests
from loadtest.planner.simulate import Setting, Simulation
from loadtest.records import Writer
from loadtest.scenario import Scenario


def simulate(
    file: Annotated[Path, typer.Argument(help="Scenario (YAML)")],
    replica: Annotated[str, typer.Option("--model", help="A file of `fit`, or a profile's name")],
    replicas: Annotated[int, typer.Option(min=1)] = 1,
    most: Annotated[int, typer.Option(help="Autoscale up to so many; 0: do not")] = 0,
    target: Annotated[float, typer.Option(help="Ongoing requests per replica to aim at")] = 32.0,
    router: Annotated[str, typer.Option(help="|".join(ROUTERS))] = "affinity",
    fail: Annotated[list[float] | None, typer.Option(help="A replica dies at this second")] = None,
    update: Annotated[list[float] | None, typer.Option(help="A rolling update begins")] = None,
    surge: Annotated[int, typer.Option(help="Replicas updated at a time", min=1)] = 1,
    rate: Annotated[str | None, typer.Option(help="Instead of the scenario's load")] = None,
    duration: options.Duration = None,
    slo: options.Slo = None,
    seed: options.Seed = None,
    records: Annotated[Path | None, typer.Option(help="Write a line for each request")] = None,
    gaps: Annotated[bool, typer.Option("--gaps/--no-gaps", help="Times between tokens")] = True,
    json: options.Json = None,
) -> None:
    """What a fleet would do with a scenario; the records are as of a real run."""
    with console.reported():
        if router not in ROUTERS:
            raise UsageError(f"--router is one of {', '.join(ROUTERS)}, not {router!r}")
        load = {"rate": rate, "concurrency": None, "trace": None} if rate else {}
        overrides = {"load": load, "duration": duration, "slo": slo, "seed": seed}
        scenario = options.scenario(file, overrides)
        what = find(replica)
        policy = OngoingRequests(target, replicas, most) if most else None
        setting = Setting(
            replicas=replicas,
            router=router,
            policy=policy,
            failures=tuple(fail or ()),
            updates=tuple(update or ()),
            surge=surge,
            seed=scenario.seed,
            gaps=gaps,
        )
        simulation = Simulation(what, of_scenario(scenario, what.limits.tile_pixels), setting)
        summary = _simulated(simulation, scenario, records)
        if json:
            console.write_json(json, summary)
        print("\n".join(_told(summary)))
    raise typer.Exit(0 if all(each["met"] for each in summary["slo"]) else 1)


def plan(
    file: Annotated[Path, typer.Argument(help="Forecast (YAML): tenants, day, objective, fleet")],
    replica: Annotated[str, typer.Option("--model", help="A file of `fit`, or a profile's name")],
    prices: Annotated[Path | None, typer.Option(help="A table of prices of your own")] = None,
    json: options.Json = None,
    html: options.Html = None,
    gpu: Annotated[
        str | None, typer.Option(help="Of the table of prices, instead of the forecast's")
    ] = None,
    emit: Annotated[Path | None, typer.Option(help="Write configuration into this folder")] = None,
) -> None:
    """Replicas over the day, dollars and configuration for a forecast, with their errors."""
    from loadtest import report
    from loadtest.planner import forecast, money, page
    from loadtest.planner.plan import plan as planned

    with console.reported():
        wanted = forecast.read(file)
        if gpu:
            wanted = wanted.model_copy(update={"fleet": wanted.fleet.on(gpu)})
        found = planned(wanted, find(replica), money.prices(prices))
        print("\n".join(page.lines(found)))
        if json:
            console.write_json(json, found)
        if html:
            report.write(html, page.html(found))
        if emit:
            _emitted(emit, found["emitted"])


def _emitted(folder: Path, parts: dict[str, Any]) -> None:
    """One file for each reader."""
    from loadtest import report

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from error
    files = {"serve": "serve.yaml", "vllm": "vllm.yaml", "helm": "values.yaml"}
    for name, file in files.items():
        report.write(folder / file, yaml.safe_dump(parts[name], sort_keys=False))
    validation = yaml.safe_dump(parts["validation"]["scenario"], sort_keys=False)
    then = "".join(f"# {line}\n" for line in parts["validation"]["then"])
    report.write(folder / "validation.yaml", then + validation)


@dataclass
class _Out:
    """Where simulated records go beside the figures."""

    writer: Writer | None = None

    def __call__(self, record: Record) -> None:
        if self.writer:
            self.writer(record)


def _simulated(simulation: Simulation, scenario: Scenario, file: Path | None) -> dict[str, Any]:
    """Run it; the figures of a real run that a simulation can have."""
    from contextlib import ExitStack

    from loadtest.instrument import Measured
    from loadtest.series import Series
    from loadtest.slo import attained, parse
    from loadtest.summary import summarize

    objectives = parse(scenario.slo) if scenario.slo else ()
    series, due, count = Series.over(scenario.duration), 0.0, 0
    with ExitStack() as stack:
        out = _Out(stack.enter_context(Writer(file)) if file else None)
        for record in simulation.records():
            series.add(record, attained(objectives, record))
            due, count = max(due, record.intended), count + 1
            out(record)
    if not count:
        raise UsageError("nothing became due in this scenario")
    window = scenario.duration or due or 1e-3
    measured = Measured(series=series, open_loop=True, window=window, offered=count, started=count)
    summary = summarize(measured)
    met = [
        {"objective": each.text, "value": each.value(summary), "met": each.met(summary)}
        for each in objectives
    ]
    return {
        "origin": f"simulated from a {simulation.replica.origin} model",
        "model": simulation.replica.name,
        **summary,
        "slo": met,
        "replica_hours": round(simulation.replica_seconds / 3600, 4),
        "busy": round(simulation.busy / max(1e-9, simulation.replica_seconds), 4),
        "most_replicas": max(size for _, size in simulation.sizes),
    }


def _told(summary: dict[str, Any]) -> list[str]:
    ttft, tpot = summary["ttft_ms"], summary["tpot_ms"]
    lines = [
        f"{summary['origin']} ({summary['model']})",
        f"{summary['requests']} requests, {summary['errors']} errors, "
        f"{summary['output_tokens_per_second']:g} output tokens/s",
        f"TTFT p50 {ttft['p50']} ms, p95 {ttft['p95']} ms; per token p95 {tpot['p95']} ms",
        f"{summary['replica_hours']:g} replica hours, busy {summary['busy']:.0%}, "
        f"at most {summary['most_replicas']} replicas",
    ]
    return lines + [
        f"{'met   ' if each['met'] else 'MISSED'}  {each['objective']}" for each in summary["slo"]
    ]
