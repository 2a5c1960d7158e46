"""A run in Prometheus's text format. Pure.

Labels are named as the server names its own (`account`, `route`, `outcome`, `status`), and metrics
as the server and vLLM name theirs, so that one dashboard can show both sides of a request. `tenant`
is the scenario's, `reason` the kind of error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loadtest.going import Going
from loadtest.histogram import Histogram
from loadtest.scenario import Scenario
from loadtest.series import Tally, total

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROUTES = {"workers-ai": "ai/run", "openai": "ai/v1/chat/completions"}
_TIMES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "itl",
    "time_per_output_token": "tpot",
    "request_duration": "e2e",
}


def exposition(run: Going | None) -> str:
    """All counts of a run so far, or of none."""
    lines = [f"loadtest_requests_in_flight {run.in_flight if run else 0}"]
    if run:
        for name, tallies in run.series.blocks.items():
            lines += _tenant(total(tallies), _labels(run.scenario, name))
    return "\n".join(lines) + "\n"


def _labels(scenario: Scenario, name: str) -> dict[str, str]:
    target = scenario.target
    tenant = next(each for each in scenario.tenants if each.name == name)
    account = tenant.account or target.account or ""
    return {"tenant": name, "account": account, "route": _ROUTES[target.api]}


def _tenant(tally: Tally, labels: Mapping[str, str]) -> Iterator[str]:
    for kind, count in {"": tally.requests - tally.failed, **tally.errors}.items():
        told = {"outcome": _outcome(kind), "status": _status(kind), "reason": kind}
        yield f"loadtest_requests_total{_braced({**labels, **told})} {count}"
    tokens = {"prompt": tally.prompt_tokens, "cached": tally.cached_tokens}
    for what, number in {**tokens, "completion": tally.output_tokens}.items():
        yield f"loadtest_{what}_tokens_total{_braced(labels)} {number}"
    for metric, field in _TIMES.items():
        yield from _histogram(f"loadtest_{metric}_seconds", labels, getattr(tally, field))


def _outcome(kind: str) -> str:
    """As the server counts: what the caller must change is rejected, want of room is a failure."""
    rejected = kind.startswith("http_4") and not kind.startswith("http_429")
    return "ok" if not kind else "rejected" if rejected else "failed"


def _status(kind: str) -> str:
    """Of HTTP, where there was an answer."""
    if kind.startswith("http_"):
        return kind.split("_")[1]
    return "" if kind in ("connect", "tls", "timeout", "overflow") else "200"


def _histogram(name: str, labels: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    count = histogram.count
    for limit in _BUCKETS:
        below = round(count * (1 - histogram.share_above(limit)))
        yield f"{name}_bucket{_braced({**labels, 'le': str(limit)})} {below}"
    yield f"{name}_bucket{_braced({**labels, 'le': '+Inf'})} {count}"
    yield f"{name}_sum{_braced(labels)} {histogram.total / 1e6}"
    yield f"{name}_count{_braced(labels)} {count}"


def _braced(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inner = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    return "{" + inner + "}"
