"""The plan as configuration: Ray Serve, vLLM, the chart's values, and a run that checks it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loadtest.planner.forecast import Forecast
from loadtest.planner.model import Replica
from serving.scaling import Costs

# Catalogues of deploy/catalog by the profile they are for.
_CATALOGS = {
    "h100-bf16": "80gb-bf16",
    "a100-80g-bf16": "80gb-bf16",
    "h100-fp8": "h100-fp8",
    "l40s-fp8": "l40s-fp8",
}
_QUEUED = 4  # times the batch may run and wait


@dataclass(frozen=True, slots=True)
class Size:
    """What configuration needs to know. `ongoing` requests at a replica that is at its limit,
    `seconds` of an engine for tokens and tiles, and the share of it that may be busy."""

    least: int
    most: int
    ongoing: float
    seconds: Costs


def configuration(size: Size, replica: Replica, forecast: Forecast, rate: float) -> dict[str, Any]:
    """By who reads it."""
    seqs = replica.limits.seqs
    # Ray's own rule is too late with more than half of the batch: benchmarks/autoscaling.py.
    target = max(1, min(int(size.ongoing / forecast.burst), seqs // 2))
    # A quiet replica is kept as long as it would take to have it back several times over.
    quiet = max(600, round(5 * replica.cold_start))
    catalog = _CATALOGS.get(replica.name)
    seconds = asdict(size.seconds)
    return {
        "serve": {
            "autoscaling_config": {
                "min_replicas": size.least,
                "max_replicas": size.most,
                # What Serve's own rule would aim at, were it not for the policy.
                "target_ongoing_requests": target,
                "upscale_delay_s": 0,
                "downscale_delay_s": 0,
                "policy": {
                    "policy_function": "serving.cluster.scaling:Policy",
                    "policy_kwargs": {"costs": seconds, "quiet": quiet},
                },
            },
            "max_ongoing_requests": max(4096, 2 * _QUEUED * seqs),
            "max_surge_percent": round(100 * forecast.fleet.surge),
        },
        "vllm": {
            "max_num_seqs": seqs,
            "max_num_batched_tokens": replica.limits.budget,
            "max_num_scheduled_tokens": replica.limits.beside or replica.limits.budget,
            "max_num_queued_reqs": _QUEUED * seqs,
        },
        "helm": {
            **({"model": {"catalog": catalog}} if catalog else {}),
            "replicas": {
                "min": size.least,
                "max": size.most,
                "targetOngoingRequests": target,
                "engineSeconds": dict(seconds),
                "surgePercent": round(100 * forecast.fleet.surge),
                "downscaleDelaySeconds": quiet,
            },
        },
        "validation": _validation(replica, forecast, rate),
    }


def _validation(replica: Replica, forecast: Forecast, rate: float) -> dict[str, Any]:
    """A scenario against one replica at 80% of its capacity, and what to do with its records."""
    scenario = forecast.scenario(0.8 * rate, 600.0)
    # A profile has no file of its own.
    model = f"{replica.name} -o replica.json" if replica.origin == "predicted" else "MODEL.json"
    return {
        "scenario": {
            "target": {"url": "http://127.0.0.1:8000/client/v4", "api": "workers-ai"},
            **scenario.model_dump(mode="json", exclude_defaults=True, exclude={"target"}),
        },
        "then": [
            "loadtest run validation.yaml --records validation.jsonl",
            f"loadtest validate {model} validation.jsonl --scenario validation.yaml",
        ],
    }
