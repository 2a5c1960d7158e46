"""A plan for people: lines for a terminal, and one page without any other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from loadtest.html import STYLE
from loadtest.plots import lines_plot


def shown(figure: Mapping[str, Any] | None, money: bool = False) -> str:
    """`12 (10 to 15), simulated`."""
    if figure is None:
        return "none found"
    sign = "$" if money else ""
    text = sign + _plain(figure["value"])
    if "low" in figure:
        text += f" ({sign}{_plain(figure['low'])} to {sign}{_plain(figure['high'])})"
    return f"{text}, {figure['origin']}"


def _plain(value: float) -> str:
    """Without powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.5g}"


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """The answer first, then what it rests on."""
    yield from _answer(plan["fleet"], plan["cost"], plan["hosted"])
    yield ""
    yield from (f"WARNING: {warning}" for warning in plan["warnings"])
    yield from _grounds(plan)
    for name, each in plan["cost"]["per_million"].items():
        unit = "tiles" if name == "image" else "tokens"
        marginal, full = shown(each["marginal"], True), shown(each["full"], True)
        yield f"A million {name} {unit}: marginal {marginal}; full {full}"
    for row in plan["sensitivity"]:
        ratio = row["capacity_ratio"]["value"]
        yield f"If {row['what']}: capacity x {ratio:.2f}, to serve the peak {_count(row)}"
    if plan["uncertainty"]:
        worst = plan["uncertainty"][0]
        lost = f"one standard error: {worst['capacity_lost']['value']:.0%} of the capacity"
        yield f"Most uncertain: the cost '{worst['cost']}' ({lost})"
        yield f"Measure next: {plan['measure_next']}"


def _count(row: Mapping[str, Any]) -> str:
    return shown(row["replicas_at_peak"])


def _answer(fleet: Any, cost: Any, hosted: Any) -> Iterator[str]:
    yield f"Replicas at the peak: {shown(fleet['peak'])}"
    yield f"During an update: {shown(fleet['during_an_update'])}"
    yield f"A month, following the day: {shown(cost['month_following_the_day'], True)}"
    yield f"A month, always at peak size: {shown(cost['month_at_peak_size'], True)}"
    yield f"The same at {hosted['name']}: {shown(hosted['month'], True)}"
    yield f"As cheap as {hosted['name']} from {_times(hosted)}"


def _grounds(plan: Mapping[str, Any]) -> Iterator[str]:
    capacity, model, check = plan["capacity"], plan["model"], plan["check"]
    yield f"Model of a replica: {model['name']}, {model['origin']}; what is simulated rests on it"
    yield f"Requests/s of one replica: {shown(capacity['requests_per_second'])}"
    yield f"Objective: {plan['slo']}"
    yield f"Beyond it misses: {capacity['binding']}; bottleneck: {capacity['bottleneck']}"
    yield f"A fleet's replica against one alone: {shown(capacity['scaling_efficiency'])}"
    yield f"The peak, simulated: {_verdict(check['at_peak'])}"
    yield f"The same while the spare replicas die: {_verdict(check['with_spare_lost'])}"


def _times(hosted: Mapping[str, Any]) -> str:
    found = hosted["break_even"]["times_the_load"]
    return f"{found['value']:.3g} times the load" if found else "no load up to 2000 times this one"


def _verdict(found: Mapping[str, Any]) -> str:
    return "met" if found["met"] else "MISSED: " + "; ".join(found["missed"])


def html(plan: Mapping[str, Any]) -> str:
    """The page."""
    hours = plan["hours"]
    replicas = {
        name: [(hour["hour"], hour["replicas"][side]) for hour in hours]
        for name, side in (("planned", "value"), ("at least", "low"), ("at most", "high"))
    }
    rate = {"requests/s": [(hour["hour"], hour["rate"]["value"]) for hour in hours]}
    emitted = yaml.safe_dump(dict(plan["emitted"]), sort_keys=False)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Capacity plan</title>"
        f"<style>{STYLE}</style><h1>Capacity plan</h1>"
        f"<pre>{escape(chr(10).join(lines(plan)))}</pre>"
        f"<figure><figcaption>Replicas over the day</figcaption>{lines_plot(replicas, 'h', '')}"
        f"</figure><figure><figcaption>Requests per second</figcaption>"
        f"{lines_plot(rate, 'h', '')}</figure>"
        f"<h2>Tenants</h2>{_tenants(plan['tenants'])}"
        f"<h2>Uncertainty</h2>{_uncertainty(plan['uncertainty'])}"
        f"<h2>Configuration</h2><pre>{escape(emitted)}</pre></html>"
    )


def _tenants(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("tenant", "requests a month", "a month", "hosted"),
        [
            (row["name"], shown(row["requests_a_month"]), shown(row["month"], True),
             shown(row["hosted_month"], True))
            for row in rows
        ],
    )  # fmt: skip


def _uncertainty(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("cost", "standard error", "share of the capacity it may take"),
        [(row["cost"], shown(row["standard_error"]), shown(row["capacity_lost"])) for row in rows],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"
