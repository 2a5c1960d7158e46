"""A summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.slo import shown

_ROWS = {
    "ttft_ms": "time to first token",
    "itl_ms": "between tokens",
    "tpot_ms": "per output token",
    "e2e_ms": "end to end",
    "service_ttft_ms": "first token, from sending",
    "service_e2e_ms": "end to end, from sending",
}
_COLUMNS = ("p50", "p90", "p95", "p99", "mean")


def lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """The answer first, then what it rests on."""
    yield str(summary["verdict"])
    yield from (f"  - {reason}" for reason in summary["reasons"])
    yield ""
    unit = "requests/s" if summary["loop"] == "open" else "users"
    yield (
        f"offered {summary['offered']:g} {unit}, achieved {summary['achieved']:g}; "
        f"{summary['requests']} requests in {summary['window_s']:g} s, {summary['errors']} errors"
    )
    yield from (f"  {count} x {kind}" for kind, count in summary["errors_by_kind"].items())
    yield f"{summary['output_tokens_per_second']:g} output tokens/s {interval(summary)}".rstrip()
    yield ""
    yield f"{'milliseconds':<28}" + "".join(f"{name:>11}" for name in _COLUMNS) + "   95% of p95"
    for key, title in _ROWS.items():
        if summary[key]["count"]:
            yield _row(title, summary[key])
    yield ""
    yield from _objectives(summary)
    yield from _tenants(summary)
    yield from _server(summary)
    yield _instrument(summary["instrument"])


def interval(summary: Mapping[str, Any]) -> str:
    """The interval of the throughput."""
    found = summary["output_tokens_per_second_ci95"]
    return f"(95%: {found[0]:g} to {found[1]:g})" if found else ""


def _row(title: str, times: Mapping[str, Any]) -> str:
    cells = "".join(f"{times[name]:>11.1f}" for name in _COLUMNS)
    found = (times.get("ci95") or {}).get("p95")
    return f"{title:<28}{cells}" + (f"   {found[0]:.1f} to {found[1]:.1f}" if found else "")


def _objectives(summary: Mapping[str, Any]) -> Iterator[str]:
    for each in summary["slo"]:
        who = f" ({each['tenant']})" if each["tenant"] else ""
        value = shown(each["value"], each["unit"])
        yield f"{'met   ' if each['met'] else 'MISSED'}  {each['objective']}{who}: {value}"


def _tenants(summary: Mapping[str, Any]) -> Iterator[str]:
    if len(summary["tenants"]) < 2:
        return
    for name, part in summary["tenants"].items():
        ttft = part["ttft_ms"]["p95"]
        shown = "-" if ttft is None else f"{ttft:.1f} ms"
        yield (
            f"{name}: {part['requests']} requests, {part['errors']} errors, "
            f"{part['output_tokens']} tokens, first token p95 {shown}"
        )


def _server(summary: Mapping[str, Any]) -> Iterator[str]:
    """Where the mean time to the first token went, as far as the server's own metrics tell."""
    if "server" not in summary:
        return
    split = summary["server"]
    parts = {
        "network": "network_ms",
        "admission": "admission_ms",
        "proxy": "proxy_ms",
        "queue": "queue_ms",
        "vision": "vision_ms",
        "prefill": "prefill_ms",
        "other": "other_ms",
    }
    if split["network_ms"] is None:
        parts = {"network and proxy": "network_and_proxy_ms", **parts}
    told = [f"{name} {split[key]:.1f}" for name, key in parts.items() if split[key] is not None]
    known = ", ".join(told) if told else "the server's metrics do not tell"
    yield f"first token, mean ms: {known}"


def _instrument(instrument: Mapping[str, Any]) -> str:
    lag, parse = instrument["event_loop_lag_ms"], instrument["stamp_to_parse_ms"]
    parts = [
        f"instrument: loop late {lag['p99'] or 0:.2f} ms p99",
        f"stamp to parse {parse['p99'] or 0:.3f} ms p99",
        f"connections reused {instrument['connection_reuse']:.0%}",
        f"CPU {instrument['cpu_of_busiest_process']:.0%} of a core",
    ]
    found = instrument["calibration"]
    if found and "ttft_error_ms" in found:
        error = found["ttft_error_ms"]
        parts.append(
            f"against the mock TTFT off by {error['p50'] or 0:.2f} (p50), "
            f"{error['p99'] or 0:.2f} ms (p99)"
        )
    return "; ".join(parts)
