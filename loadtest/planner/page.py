"""A plan for people: lines for a terminal, and one page without any other file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from loadtest.html import STYLE
from loadtest.plots import lines_plot


def _plain(value: float) -> str:
    """Without powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def _dollars(value: float) -> str:
    """Whole ones of many, cents of few."""
    digits = ",.0f" if value >= 100 else ",.2f" if value >= 1 else ".3g"
    return f"${value:{digits}}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def shown(figure: Mapping[str, Any] | None, text: Callable[[float], str] = _plain) -> str:
    """`12 (10 to 15), simulated`."""
    return "none found" if figure is None else f"{_spanned(figure, text)}, {figure['origin']}"


def _spanned(figure: Mapping[str, Any], text: Callable[[float], str]) -> str:
    if "low" not in figure:
        return text(figure["value"])
    return f"{text(figure['value'])} ({text(figure['low'])} to {text(figure['high'])})"


def headline(plan: Mapping[str, Any]) -> str:
    """The plan in a sentence."""
    cost, hosted = plan["cost"], plan["hosted"]
    replicas = _spanned(plan["fleet"]["peak"], _plain)
    month = _spanned(cost["month_following_the_day"], _dollars)
    return (
        f"{replicas} replicas on {cost['gpu']['name']} bear this forecast's busiest hour; a month, "
        f"following the day, is {month}. At {hosted['name']} it would be "
        f"{_dollars(hosted['month']['value'])}."
    )


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """The answer first, then what it rests on."""
    yield headline(plan)
    for index, (_, facts) in enumerate(_parts(plan)):
        if index == 1:
            yield ""
            yield from (f"WARNING: {warning}" for warning in plan["warnings"])
        yield from (f"{name}: {value}" for name, value in facts)


def _parts(plan: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings, with names and values below each."""
    return [
        ("The answer", list(_answer(plan["fleet"], plan["cost"], plan["hosted"]))),
        ("What it rests on", list(_grounds(plan))),
        ("Prices", list(_prices(plan["cost"]["per_million"]))),
        ("What if", list(_otherwise(plan))),
    ]


def _prices(per_million: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, each in per_million.items():
        unit = "tiles" if name == "image" else "tokens"
        marginal, full = shown(each["marginal"], _dollars), shown(each["full"], _dollars)
        yield f"A million {name} {unit}", f"marginal {marginal}; full {full}"


def _otherwise(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for row in plan["sensitivity"]:
        ratio = row["capacity_ratio"]["value"]
        yield f"If {row['what']}", f"capacity x {ratio:.2f}; replicas at the peak: {_count(row)}"
    if plan["uncertainty"]:
        worst = plan["uncertainty"][0]
        lost = f"one standard error: {worst['capacity_lost']['value']:.0%} of the capacity"
        yield "Most uncertain", f"the cost '{worst['cost']}' ({lost})"
        yield "Measure next", plan["measure_next"]


def _count(row: Mapping[str, Any]) -> str:
    return shown(row["replicas_at_peak"])


def _answer(fleet: Any, cost: Any, hosted: Any) -> Iterator[tuple[str, str]]:
    yield "Replicas at the peak", shown(fleet["peak"])
    yield "Of them to spare, for replicas that fail", shown(fleet["spare"])
    yield "During an update", shown(fleet["during_an_update"])
    start = fleet["cold_start_s"]
    yield (
        f"More become needed while one starts ({start['value']:g} s, {start['origin']})",
        shown(fleet["needed_while_one_starts"]),
    )
    yield "An hour of the peak", shown(cost["peak_hour"], _dollars)
    yield "A month, following the day", shown(cost["month_following_the_day"], _dollars)
    yield "A month, always at peak size", shown(cost["month_at_peak_size"], _dollars)
    yield f"The same at {hosted['name']}", shown(hosted["month"], _dollars)
    yield f"As cheap as {hosted['name']} from", _times(hosted)


def _grounds(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    capacity, model, check = plan["capacity"], plan["model"], plan["check"]
    rests = "what is simulated rests on it"
    yield "Model of a replica", f"{model['name']}, {model['origin']}; {rests}"
    yield "Requests/s of one replica", shown(capacity["requests_per_second"])
    yield "Objective", plan["slo"]
    yield "Beyond it misses", f"{capacity['binding']}; bottleneck: {capacity['bottleneck']}"
    yield "A fleet's replica against one alone", shown(capacity["scaling_efficiency"])
    yield "The peak, simulated", _verdict(check["at_peak"])
    yield "The same while all replicas are updated", _verdict(check["during_an_update"])
    lost = f"{check['lost']['value']:.1%} of the requests of {check['seconds']:.0f} s are lost"
    yield "The same while the spare replicas die", f"{_verdict(check['with_spare_lost'])}; {lost}"


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
        f"<style>{STYLE}td,th{{text-align:left}}</style><h1>Capacity plan</h1>"
        f"<p><b>{escape(headline(plan))}</b></p>"
        f"{_facts(plan, slice(0, 1))}{_warnings(plan)}{_LEGEND}"
        f"<figure><figcaption>Replicas over the day</figcaption>{lines_plot(replicas, 'h', '')}"
        f"</figure><figure><figcaption>Requests per second</figcaption>"
        f"{lines_plot(rate, 'h', '')}</figure>"
        f"{_facts(plan, slice(1, None))}"
        f"<h2>Tenants</h2>{_tenants(plan['tenants'])}"
        f"<h2>Uncertainty</h2>{_uncertainty(plan['uncertainty'])}"
        f"<h2>Configuration</h2><pre>{escape(emitted)}</pre></html>"
    )


_LEGEND = (
    "<p>Each figure says how it is known: <b>measured</b>; <b>simulated</b>; <b>interpolated</b>, "
    "computed from what was measured or simulated; <b>assumed</b>, taken from the forecast or a "
    "table; of a model <b>predicted</b>, worked out from data sheets. In brackets: an interval.</p>"
)


def _facts(plan: Mapping[str, Any], which: slice) -> str:
    """Parts of the plan as tables."""
    return "".join(
        f"<h2>{heading}</h2>{_table(('', ''), rows)}" for heading, rows in _parts(plan)[which]
    )


def _warnings(plan: Mapping[str, Any]) -> str:
    return "".join(f"<p class=INVALID>{escape(each)}</p>" for each in plan["warnings"])


def _tenants(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("tenant", "requests a month", "a month", "hosted"),
        [
            (row["name"], shown(row["requests_a_month"]), shown(row["month"], _dollars),
             shown(row["hosted_month"], _dollars))
            for row in rows
        ],
    )  # fmt: skip


def _uncertainty(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("cost", "standard error", "share of the capacity it may take"),
        [
            (row["cost"], shown(row["standard_error"], _percent),
             shown(row["capacity_lost"], _percent))
            for row in rows
        ],
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"
