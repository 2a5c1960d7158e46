"""The autoscaling policy in Ray Serve: its reports in, `serving.scaling` in the middle.

Serve takes it by the path `serving.cluster.scaling:Policy` and makes it once, in its controller,
where it is asked ten times a second; replicas send what they counted every ten seconds.
"""

from __future__ import annotations

import logging
from typing import Any

from serving.scaling import Costs, Memory, Reading, Rule, Seen, Work, decide

PATH = "serving.cluster.scaling:Policy"
_INTERVAL = 5.0  # seconds between two looks
_STALE = 45.0  # seconds after which a report is missing; a busy replica's may be 20 old


class Policy:
    """Keyword arguments are those of `Rule`, and `costs` those of `Costs`."""

    def __init__(self, costs: dict[str, float], interval: float = _INTERVAL, **rule: float) -> None:
        # Some readers of YAML take 2e-05 for text.
        self._rule = Rule(Costs(**{name: float(each) for name, each in costs.items()}), **rule)
        self._interval = interval
        self._log = logging.getLogger("ray.serve")

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Replicas, from Serve's `AutoscalingContext`, and what is to be remembered."""
        state = ctx.policy_state
        now, target = ctx.current_time, ctx.target_num_replicas
        if now < state.get("at", 0.0) + self._interval:
            return target, state
        seen = Seen(now, target, ctx.current_num_replicas, readings(ctx.raw_metrics or {}, now))
        bounds = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
        found = decide(self._rule, state.get("memory", Memory()), seen, *bounds)
        if found.replicas != target:
            self._log.info(
                f"replicas {target} -> {found.replicas}: text fills {found.text:.2f}, "
                f"pictures {found.pictures:.2f}; queued {found.queued:.1f} s; "
                f"{len(seen.readings)} of {seen.serving} replicas report"
            )
        return found.replicas, {"at": now, "memory": found.memory}


def readings(metrics: dict[str, dict[Any, Any]], now: float) -> list[Reading]:
    """Of the replicas whose series have two recent points: `metrics` by name, then by replica."""
    found = []
    for replica in metrics.get("queued", {}):
        series = {name: each[replica] for name, each in metrics.items() if replica in each}
        points = series["queued"]
        if len(points) > 1 and points[-1].timestamp > now - _STALE:
            found.append(_reading(series, points[-1].timestamp - points[0].timestamp))
    return found


def _reading(series: dict[str, Any], span: float) -> Reading:
    last = {name: points[-1].value for name, points in series.items()}
    came = Work(*(last[n] - series[n][0].value for n in ("input", "output", "tiles")))
    waiting = Work(*(last[f"waiting_{n}"] for n in ("input", "output", "tiles")))
    return Reading(came.over(max(span, 1e-3)), waiting, last["queued"])
