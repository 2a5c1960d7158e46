"""Whether a run can be believed: VALID, SUSPECT or INVALID, with every reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Verdict(IntEnum):
    """In order of badness."""

    VALID = 0
    SUSPECT = 1
    INVALID = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason."""

    verdict: Verdict
    reason: str


def judge(summary: Mapping[str, Any]) -> tuple[Verdict, list[str]]:
    """The worst of all findings, and their reasons."""
    findings = list(_findings(summary))
    worst = max((finding.verdict for finding in findings), default=Verdict.VALID)
    return worst, [f"{finding.verdict.name}: {finding.reason}" for finding in findings]


def _findings(summary: Mapping[str, Any]) -> Iterator[Finding]:
    answered = summary["requests"] - summary["errors"]
    if not answered:
        kinds = ", ".join(summary["errors_by_kind"]) or "nothing was sent"
        yield Finding(Verdict.INVALID, f"no request was answered ({kinds})")
        return
    yield from _delivery(summary)
    yield from _instrument(summary)
    yield from _statistics(summary)
    yield from _calibration(summary)
    yield from _cache(summary)


def _delivery(summary: Mapping[str, Any]) -> Iterator[Finding]:
    offered, achieved = summary["offered"], summary["achieved"]
    share = achieved / offered if offered else 1.0
    unit = "requests/s" if summary["loop"] == "open" else "users"
    text = f"{achieved:g} of {offered:g} {unit} offered were achieved ({share:.1%})"
    if share < 0.95:
        yield Finding(Verdict.INVALID, text)
    elif share < (0.99 if summary["loop"] == "open" else 0.97):
        yield Finding(Verdict.SUSPECT, text)
    overflow = summary["errors_by_kind"].get("overflow", 0)
    if overflow:
        yield Finding(
            Verdict.INVALID, f"{overflow} requests were not sent: the limit in flight was reached"
        )
    instrument = summary["instrument"]
    lost, replaced = instrument["lost_workers"], instrument["replaced_workers"]
    if lost > replaced:
        yield Finding(Verdict.INVALID, f"{lost - replaced} lost workers were not replaced")
    elif lost:
        yield Finding(Verdict.SUSPECT, f"{lost} workers were lost; others took their places")
    if summary["unfinished"]:
        yield Finding(Verdict.SUSPECT, f"stopped with {summary['unfinished']} requests unanswered")


def _instrument(summary: Mapping[str, Any]) -> Iterator[Finding]:
    instrument = summary["instrument"]
    busiest = instrument["cpu_of_busiest_process"]
    if busiest > 0.95:
        yield Finding(Verdict.INVALID, f"the client used {busiest:.0%} of a core")
    elif busiest > 0.8:
        yield Finding(Verdict.SUSPECT, f"the client used {busiest:.0%} of a core")
    scale = summary["ttft_ms"]["p50"] or summary["e2e_ms"]["p50"]
    lag = instrument["event_loop_lag_ms"]["p99"] or 0.0
    if lag > max(20.0, 0.5 * scale):
        yield Finding(Verdict.INVALID, f"the event loop was {lag:.1f} ms late (p99)")
    elif lag > max(5.0, 0.1 * scale):
        yield Finding(Verdict.SUSPECT, f"the event loop was {lag:.1f} ms late (p99)")
    late = summary["send_delay_ms"]["p99"] or 0.0
    if late > max(20.0, 0.1 * scale):
        yield Finding(Verdict.SUSPECT, f"requests were sent {late:.1f} ms after due (p99)")


def _statistics(summary: Mapping[str, Any]) -> Iterator[Finding]:
    answered, steady = summary["requests"] - summary["errors"], summary["steady"]
    if answered < 30:
        yield Finding(Verdict.SUSPECT, f"only {answered} requests were answered")
    e2e = (summary["e2e_ms"]["p50"] or 0.0) / 1e3
    if e2e * 2 > summary["window_s"]:
        yield Finding(
            Verdict.SUSPECT, "the window is shorter than two requests; throughput is too low"
        )
    if not steady["found"] or steady["drift"] > 4:
        yield Finding(Verdict.SUSPECT, "latency kept changing: there was no steady state")
    elif _bent(summary, steady):
        yield Finding(
            Verdict.SUSPECT,
            f"a warm-up of {steady['warm_up_s']:.1f} s bends the figures; see `steady`",
        )
    yield from _tokens(summary, answered)


def _tokens(summary: Mapping[str, Any], answered: int) -> Iterator[Finding]:
    """Usage against frames."""
    if summary["requests_without_usage"] == answered:
        yield Finding(Verdict.SUSPECT, "no usage from the server: tokens are frames")
    share = summary["tokens_per_frame"] or 1.0
    if share < 0.98:
        yield Finding(Verdict.SUSPECT, f"usage has {share:.2f} tokens for each frame with text")
    if share > 1.5:
        yield Finding(
            Verdict.SUSPECT, f"a frame holds {share:.1f} tokens: itl is between frames; see tpot"
        )


def _bent(summary: Mapping[str, Any], steady: Mapping[str, Any]) -> bool:
    """Whether the steady median lies outside the interval of the headline's."""
    for name in ("ttft_ms", "e2e_ms"):
        interval = (summary[name].get("ci95") or {}).get("p50")
        value = steady[name]["p50"]
        if interval and value and not interval[0] <= value <= interval[1]:
            return bool(abs(value - summary[name]["p50"]) > 0.05 * value)
    return False


def _calibration(summary: Mapping[str, Any]) -> Iterator[Finding]:
    found = summary["instrument"].get("calibration")
    if not found:
        return
    if "failed" in found:
        yield Finding(Verdict.SUSPECT, f"no calibration: {found['failed']}")
        return
    error = found["ttft_error_ms"]["p99"]
    scale = summary["ttft_ms"]["p50"] or summary["e2e_ms"]["p50"]
    if error > max(20.0, 0.2 * scale):
        yield Finding(Verdict.INVALID, f"TTFT is off by {error:.1f} ms (p99) against the mock")
    elif error > max(5.0, 0.05 * scale):
        yield Finding(Verdict.SUSPECT, f"TTFT is off by {error:.1f} ms (p99) against the mock")


def _cache(summary: Mapping[str, Any]) -> Iterator[Finding]:
    cache = summary["cache"]
    planned, observed = cache["planned_hit_rate"], cache["observed_hit_rate"]
    if planned is None and observed > 0.5:
        yield Finding(
            Verdict.SUSPECT, f"{observed:.0%} of prompt tokens came from a cache, none was planned"
        )
    if planned is not None and abs(planned - observed) > 0.1:
        yield Finding(
            Verdict.SUSPECT, f"cache hits were {observed:.0%} of prompt tokens, not {planned:.0%}"
        )
