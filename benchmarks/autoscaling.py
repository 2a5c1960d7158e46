"""The service's autoscaling rule against Ray Serve's, on the same simulated traces.

    python -m benchmarks.autoscaling [--quick]

One L40S profile (a prediction; what counts here is which rule does better on the same replicas), a
quarter of the requests with pictures. Ray's rule with the two targets one would give it: half of
`max_num_seqs`, as the chart does, and what `loadtest plan` says. Missing reports: as dropped
(Serve counts no requests) and as those of replicas with direct ingress (Serve keeps the last).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from benchmarks import report
from loadtest.core import Record
from loadtest.planner.capacity import capacity
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Replica
from loadtest.planner.profiles import profile
from loadtest.planner.requests import of_scenario
from loadtest.planner.scaling import OngoingRequests, Policy, QueueAndBacklog
from loadtest.planner.shares import engine_seconds
from loadtest.planner.simulate import Setting, Simulation
from loadtest.scenario import build
from serving.scaling import Rule

NAME = "autoscaling"
LIMIT = 2.0  # seconds to the first token, of 95% of a minute's requests
ERRORS = 0.01
MOST = 12
_FLAP = 1800.0  # seconds after a move down in which one up is a flap
_HOUR = 3600.0
CHAT = {"prompt_tokens": "lognormal(400, 0.6)", "output_tokens": "lognormal(150, 0.5)"}
SCANS = {"prompt_tokens": 60, "output_tokens": 80, "images": 1, "sizes": ["1120x1120"]}
TENANTS = [{"name": "chat", "share": 3, **CHAT}, {"name": "scans", **SCANS}]


@dataclass(frozen=True, slots=True)
class Trace:
    """`rate` in replicas' capacities; `tenants` that differ from the planned mix, if any."""

    name: str
    rate: str
    hours: float
    cold_start: float = 180.0
    blind: tuple[tuple[float, float], ...] = ()
    tenants: list[dict[str, Any]] | None = None


def traces(day: float) -> list[Trace]:
    """A day of so many hours."""
    loss = ((day * _HOUR * 0.25, day * _HOUR * 0.25 + 2400.0),)
    sine = f"sine(0.8, 5.5, {day * _HOUR:g})"
    return [
        Trace("burst", "spike(1, 4.5, 1800, 1200)", 2.0),
        Trace("diurnal", sine, day),
        Trace("metric loss", sine, day, blind=loss),
        Trace("slow start", "spike(1, 4.5, 1800, 2400)", 2.0, cold_start=600.0),
        Trace("more pictures", "2", 2.0, tenants=[TENANTS[0], {**TENANTS[1], "share": 3}]),
    ]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan of the mix says of one replica."""

    replica: Replica
    rate: float
    ongoing: float
    rule: Rule


def planned() -> Planned:
    """Its capacity, by the same probes as `loadtest plan`."""
    replica = profile("l40s-bf16")
    forecast = Forecast.model_validate(
        {
            "slo": f"ttft p95 < {LIMIT}s, errors < {ERRORS:.0%}",
            "tenants": [{**each, "rate": each.pop("share", 1)} for each in map(dict, TENANTS)],
        }
    )
    found = capacity(replica, forecast)
    rule = Rule(engine_seconds(found, replica, forecast), quiet=600.0)
    return Planned(replica, found.rate, found.kept.ongoing / forecast.burst, rule)


def policies(plan: Planned, trace: Trace) -> Iterator[tuple[str, Policy]]:
    """The rules, by name; all may have as many replicas."""
    half = plan.replica.limits.seqs / 2
    yield "work that comes and waits", QueueAndBacklog(plan.rule, 1, MOST)
    for name, target in (("planned target", plan.ongoing), ("half of max_num_seqs", half)):
        yield f"Ray's, {name}", OngoingRequests(target, 1, MOST)
        if trace.blind:
            last = OngoingRequests(target, 1, MOST, fail_static=True)
            yield f"Ray's, {name}, last reports kept", last


def run(plan: Planned, trace: Trace, policy: Policy, seed: int = 0) -> dict[str, Any]:
    """Minutes missed, GPU hours, moves."""
    scenario = build(
        {
            "target": {"url": "http://127.0.0.1:8000/v1"},
            "load": {"rate": _scaled(trace.rate, plan.rate)},
            "duration": _HOUR * trace.hours,
            "tenants": trace.tenants or TENANTS,
            "seed": seed,
        }
    )
    replica = msgspec.structs.replace(plan.replica, cold_start=trace.cold_start)
    first = 2  # that serve at the beginning
    setting = Setting(first, policy=policy, blind=trace.blind, gaps=False, seed=seed)
    simulation = Simulation(replica, of_scenario(scenario), setting)
    missed, count = _missed(simulation.records())
    return {
        "slo_minutes_missed": missed,
        "gpu_hours": round(simulation.replica_seconds / _HOUR, 2),
        "moves": len(simulation.decided),
        "flaps": flaps(simulation.decided),
        "most": max(size for _, size in simulation.sizes),
        "least_wanted": min((wanted for _, _, wanted in simulation.decided), default=first),
        "requests": count,
    }


def _scaled(rate: str, factor: float) -> str:
    """The capacities of a rate's expression as requests a second: its first two numbers."""
    name, _, inside = rate.rstrip(")").rpartition("(")
    numbers = [float(each) for each in inside.split(",")]
    scaled = [n * factor if i < 2 else n for i, n in enumerate(numbers)]
    text = ", ".join(f"{each:g}" for each in scaled)
    return f"{name}({text})" if name else text


def flaps(decided: list[tuple[float, int, int]]) -> int:
    """Replicas let go and wanted again within half an hour."""
    return sum(
        b < a and d > c and after - before < _FLAP
        for (before, a, b), (after, c, d) in pairwise(decided)
    )


def _missed(records: Iterator[Record]) -> tuple[int, int]:
    """Minutes in which the objective is missed, and requests."""
    minutes: dict[int, list[float]] = {}
    count = 0
    for record in records:
        late = record.first_token is None or record.error
        ttft = float("inf") if late else record.first_token - record.intended
        minutes.setdefault(int(record.intended // 60), []).append(ttft)
        count += 1
    missed = 0
    for found in minutes.values():
        slow = sum(each > LIMIT for each in found) / len(found)
        lost = sum(each == float("inf") for each in found) / len(found)
        missed += slow > 0.05 or lost > ERRORS
    return missed, count


def main() -> None:
    """Simulate, print, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a day of six hours")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    hours = 6.0 if given.quick else 24.0
    head = report.start(NAME, {"hours_of_a_day": hours, "most": MOST}, given.quick, given.note)
    plan = planned()
    rows = []
    for trace in traces(hours):
        for name, policy in policies(plan, trace):
            row = {"trace": trace.name, "rule": name, **run(plan, trace, policy)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    summary = {"capacity": plan.rate, "rule": msgspec.to_builtins(plan.rule)}
    report.finish(head, [_row(each) for each in rows], summary, rows)


def _row(each: dict[str, Any]) -> dict[str, str]:
    return {
        "trace": each["trace"],
        "rule": each["rule"],
        "minutes missed": str(each["slo_minutes_missed"]),
        "GPU hours": f"{each['gpu_hours']:.1f}",
        "flaps": str(each["flaps"]),
        "moves": str(each["moves"]),
        "most replicas": str(each["most"]),
    }


if __name__ == "__main__":
    main()
