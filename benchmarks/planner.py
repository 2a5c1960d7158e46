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

from benchmarks.report import machine
from loadtest.planner.profiles import profile
from loadtest.planner.requests import of_scenario
from loadtest.planner.simulate import Setting, Simulation
from loadtest.scenario import build
from loadtest.series import Series

_TENANTS = [
    {"name": "chat", "share": 3, "prompt_tokens": "lognormal(400, 0.6)", "output_tokens": "150"},
    {"name": "scans", "prompt_tokens": 60, "images": 1, "sizes": ["1120x1120"]},
]  # fmt: skip


def main() -> None:
    """Simulate, print, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--gaps", action="store_true", help="records with times between tokens")
    given = parser.parse_args()
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
    head = {**vars(given), "machine": machine()}
    replica = profile("h100-bf16")
    begun, wall = time.process_time(), time.perf_counter()
    setting = Setting(given.replicas, "two", gaps=given.gaps)
    simulation = Simulation(replica, of_scenario(scenario), setting)
    series, count = Series.over(duration), 0
    for record in simulation.records():
        series.add(record)
        count += 1
    cpu = time.process_time() - begun
    result = {
        **head,
        "simulated": count,
        "cpu_s": round(cpu, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "requests_per_cpu_s": round(count / cpu),
        "busy": round(simulation.busy / simulation.replica_seconds, 4),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    print(json.dumps(result, indent=1))
    file = Path(__file__).parent / "results" / "planner.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps([*kept, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
