"""How much work the planner's simulator is: CPU seconds and memory for so many requests.

    python -m benchmarks.planner --requests 1000000 --replicas 1000

A day of traffic on a fleet of the H100 profile, a quarter of it with pictures. Fewer hours put the
same requests closer together. Records are added up as they come, not written.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from loadtest.planner.profiles import profile
from loadtest.planner.requests import of_scenario
from loadtest.planner.simulate import Setting, Simulation
from loadtest.scenario import build
from loadtest.series import Series

NAME = "planner"
_SIZE = ("requests", "replicas", "hours", "gaps")
_WHOLE = 10_000_000  # requests that are to take less than ten minutes
_TENANTS = [
    {"name": "chat", "share": 3, "prompt_tokens": "lognormal(400, 0.6)", "output_tokens": "150"},
    {"name": "scans", "prompt_tokens": 60, "images": 1, "sizes": ["1120x1120"]},
]  # fmt: skip


def main() -> None:
    """Simulate, print, file beside what other sizes took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--gaps", action="store_true", help="records with times between tokens")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    head = report.start(NAME, {}, False, given.note)
    size = {each: getattr(given, each) for each in _SIZE}
    file = Path(__file__).parent / "results" / f"{NAME}.json"
    before = json.loads(file.read_text())["rounds"] if file.exists() else []
    rounds = [each for each in before if any(each[name] != size[name] for name in _SIZE)]
    rounds.append({**size, **simulated(given), "date": head["date"]})
    rounds.sort(key=lambda each: (-each["hours"], each["requests"]))
    report.finish(head, [_row(each) for each in rounds], {}, rounds)


def simulated(given: argparse.Namespace) -> dict[str, Any]:
    """What it took."""
    duration = 3600 * given.hours
    mean = given.requests / duration
    scenario = build(
        {
            "target": {"url": "http://127.0.0.1:8000/v1"},
            "load": {"rate": f"sine({0.2 * mean:.9g}, {1.8 * mean:.9g}, {duration:.9g})"},
            "duration": duration,
            "tenants": _TENANTS,
        }
    )
    replica = profile("h100-bf16")
    begun, wall = time.process_time(), time.perf_counter()
    # No router knows 1,000 replicas' beginnings; these requests have none in common.
    simulation = Simulation(
        replica, of_scenario(scenario), Setting(given.replicas, "two", gaps=given.gaps)
    )
    series, count = Series.over(duration), 0
    for record in simulation.records():
        series.add(record)
        count += 1
    cpu = time.process_time() - begun
    return {
        "simulated": count,
        "cpu_s": round(cpu, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "requests_per_cpu_s": round(count / cpu),
        "busy": round(simulation.busy / simulation.replica_seconds, 4),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def _row(each: dict[str, Any]) -> dict[str, str]:
    whole = each["requests"] == _WHOLE and each["hours"] == 24
    return {
        "requests": f"{each['requests']:,} in {each['hours']:.4g} h",
        "replicas": f"{each['replicas']:,}",
        "busy": f"{each['busy']:.1%}",
        "requests per CPU second": f"{each['requests_per_cpu_s']:,}",
        "CPU, s": f"{each['cpu_s']:.0f}",
        "wall, s": f"{each['wall_s']:.0f}",
        "target": "< 600" if whole else "",
        "memory, MiB": f"{each['peak_rss_mib']}",
        "its target": "< 4096" if whole else "",
        "when": each["date"],
    }


if __name__ == "__main__":
    main()
