"""What a run found as one HTML page with its plots, without any other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from loadtest.plots import lines_plot
from loadtest.slo import shown
from loadtest.text import lines

_TITLES = {"ttft": "Time to first token", "itl": "Between tokens", "e2e": "End to end"}
_NAMES = {"ttft_p50": "p50", "ttft_p95": "p95"}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{font-size:1.1rem;margin:1.5rem 0 .3rem}pre{background:#f6f6f4;padding:1rem;overflow:auto}
figure{display:inline-block;margin:0 1rem 1rem 0;max-width:100%}svg{max-width:100%}
figcaption{font-weight:600}.VALID{color:#176d33}.SUSPECT{color:#8a5a00}.INVALID{color:#a3161a}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}
tr>:first-child{text-align:left}th{font-weight:600}details{margin:1rem 0}
dl{display:flex;flex-wrap:wrap;gap:.8rem 2.2rem;margin:1rem 0}dt{color:#666;font-size:.85rem}
section{margin-top:1.5rem}
dd{margin:0;font-size:1.35rem}
svg text{font:11px system-ui,sans-serif;fill:#555}
"""


def page(summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]], dist: Any) -> str:
    """One page without any other file."""
    verdict = summary.get("verdict", "")
    title = f"{verdict}: load test" if verdict else "Load test, from records"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in summary.get("reasons", ()))
    text = "\n".join(lines(summary)) if "instrument" in summary else ""
    parts = (
        f"<h1 class='{verdict}'>{escape(title)}</h1>",
        f"<p>{escape(str(summary.get('finished', '')))}</p><ul>{reasons}</ul>",
        _headline(summary),
        _objectives(summary),
        f"<section>{_figures(points, dist)}</section>",
        _times(summary),
        _server(summary),
        _tenants(summary),
        f"<details><summary>As the terminal had it</summary><pre>{escape(text)}</pre></details>"
        if text
        else "",
        _scenario(summary),
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>"
    )


def _headline(summary: Mapping[str, Any]) -> str:
    cells = {
        "requests": f"{summary['requests']:,}",
        "errors": f"{summary['error_rate']:.2%}",
        "output tokens/s": _number(summary["output_tokens_per_second"]),
        "first token p95": _milliseconds(summary["ttft_ms"]["p95"]),
        "between tokens p95": _milliseconds(summary["itl_ms"]["p95"]),
        "end to end p95": _milliseconds(summary["e2e_ms"]["p95"]),
    }
    return (
        "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in cells.items()) + "</dl>"
    )


def _objectives(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            each["objective"],
            each["tenant"] or "all",
            shown(each["value"], each["unit"]),
            "met" if each["met"] else "MISSED",
        )
        for each in summary.get("slo", ())
    ]
    return _table("Objectives", ("objective", "tenant", "value", ""), rows)


def _figures(points: Sequence[Mapping[str, Any]], dist: Any) -> str:
    def over_time(*names: str) -> dict[str, list[tuple[float, float]]]:
        return {
            _NAMES.get(name, name): [
                (each["at"], each[name]) for each in points if each[name] is not None
            ]
            for name in names
        }

    plots = {
        "Output tokens per second": (over_time("tokens"), "s", ""),
        "Time to first token": (over_time("ttft_p50", "ttft_p95"), "s", "ms"),
        "Between tokens, p95": (over_time("itl_p95"), "s", "ms"),
        "Requests and errors per second": (over_time("requests", "errors"), "s", ""),
        "Requests in flight": (over_time("in_flight"), "s", ""),
        **{
            f"{_TITLES[name]}: share below": ({name: dist[name]}, "ms", "")
            for name in dist
            if dist[name]
        },
    }
    return "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{lines_plot(*plot)}</figure>"
        for title, plot in plots.items()
    )


def _times(summary: Mapping[str, Any]) -> str:
    columns = ("count", "mean", "p50", "p90", "p95", "p99", "max")
    found = {
        key.removesuffix("_ms"): value
        for key, value in summary.items()
        if key.endswith("_ms") and isinstance(value, Mapping) and value["count"]
    }
    rows = [
        (key, *(_number(v[c]) for c in columns), _between((v.get("ci95") or {}).get("p95")))
        for key, v in found.items()
    ]
    return _table("Milliseconds", ("", *columns, "95% of p95"), rows)


def _server(summary: Mapping[str, Any]) -> str:
    split = summary.get("server", {})
    rows = [
        (key.removesuffix("_ms").replace("_", " "), _number(value))
        for key, value in split.items()
        if key.endswith("_ms") and value is not None
    ]
    return _table("First token, mean, by the server's own metrics", ("part", "ms"), rows)


def _tenants(summary: Mapping[str, Any]) -> str:
    tenants = summary["tenants"]
    if len(tenants) < 2:
        return ""
    rows = [
        (
            name,
            *(_number(each[key]) for key in ("requests", "errors", "output_tokens")),
            *(_number(each[key]["p95"]) for key in ("ttft_ms", "itl_ms", "e2e_ms")),
        )
        for name, each in tenants.items()
    ]
    head = ("tenant", "requests", "errors", "output tokens", "ttft p95", "itl p95", "e2e p95")
    return _table("Tenants", head, rows)


def _scenario(summary: Mapping[str, Any]) -> str:
    if "scenario" not in summary:
        return ""
    text = msgspec.json.format(msgspec.json.encode(summary["scenario"])).decode()
    return f"<details><summary>Scenario</summary><pre>{escape(text)}</pre></details>"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<h2>{title}</h2><table><tr>{top}</tr>{body}</table>"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 or value == round(value) else f"{value:.4g}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{_number(value)} ms"


def _between(interval: Sequence[float] | None) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""
