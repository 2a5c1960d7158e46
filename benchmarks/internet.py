"""10,000 accounts, 50,000 requests a second: how many replicas, by how many cells they are in.

    python -m benchmarks.internet [--model h100-bf16]

What its prompts share is shorter than what the router goes by, so each replica sees a fair sample
of what its fleet sees, and one simulated replica stands for all: the rate of one, and the
beginnings of prompts of every account of the fleet. Cells split accounts: a replica of one of n
cells sees an n-th of these.
"""

from __future__ import annotations

import argparse
import json
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.machine import described
from loadtest.core import Record
from loadtest.planner import forecast as forecasts
from loadtest.planner.capacity import bottleneck, capacity
from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Replica
from loadtest.planner.profiles import profile

_FILE = Path(__file__).parents[1] / "docs" / "internet.yaml"
CELLS = (1, 10, 100)


def celled(forecast: Forecast, cells: int) -> Forecast:
    """What one of so many cells sees: the same mix of fewer accounts, thus fewer beginnings."""
    return forecast.model_copy(
        update={"tenants": tuple(_fewer(each, cells) for each in forecast.tenants)}
    )


def _fewer(tenant: forecasts.Tenant, cells: int) -> forecasts.Tenant:
    if tenant.prefixes is None:
        return tenant
    pool = max(1, round(tenant.prefixes.pool / cells))
    return tenant.model_copy(update={"prefixes": tenant.prefixes.model_copy(update={"pool": pool})})


def hits(records: tuple[Record, ...]) -> float:
    """Share of the prompt tokens that came from the cache."""
    whole = sum(each.prompt_tokens for each in records)
    return sum(each.cached_tokens for each in records) / whole


def row(replica: Replica, forecast: Forecast, cells: int, guess: float) -> dict[str, Any]:
    """One replica's capacity in its cell, and what that makes of the whole. All simulated, from a
    predicted model."""
    one = celled(forecast, cells)
    found = capacity(replica, one, 1, guess, 1.3)
    peak = forecast.total(forecast.peak) * forecast.burst
    whole = ceil(peak / found.rate)
    return {
        "cells": cells,
        "requests_per_second_of_a_replica": round(found.rate, 2),
        "replicas": whole,
        "replicas_of_a_cell": ceil(whole / cells),
        "prefix_hits": round(hits(found.kept.records), 3),
        "binding": found.missed.missed[0],
        "bottleneck": bottleneck(found.missed, replica),
    }


def main() -> None:
    """Simulate, print, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="h100-bf16")
    given = parser.parse_args()
    replica, forecast = profile(given.model), forecasts.read(_FILE)
    rows: list[dict[str, Any]] = []
    for cells in CELLS:
        guess = rows[-1]["requests_per_second_of_a_replica"] if rows else 16.0
        rows.append(row(replica, forecast, cells, guess))
        print(json.dumps(rows[-1]), flush=True)
    result = {"model": given.model, "origin": "simulated from a predicted model",
              "machine": described(), "rows": rows}  # fmt: skip
    file = Path(__file__).parent / "results" / "internet.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
