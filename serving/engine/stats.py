"""vLLM's metrics, counted in fewer steps: what some steps of the engine tell, together."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

_HOLD = 0.1
"""Seconds: so much a kill may lose. Who scrapes sees no difference."""


class Stats(PrometheusStatLogger):
    """In place of vLLM's own; what it counts is the same."""

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
        super().__init__(vllm_config, engine_indexes)
        self._held: list[tuple[Any, ...]] = []
        self._written = 0.0
        self._batches = [
            _Batch(histogram)
            for made in vars(self).values()
            if isinstance(made, dict)
            for histogram in made.values()
            if isinstance(histogram, self._histogram_cls)
        ]

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """See `PrometheusStatLogger`. While there is more to come, that may have to wait for it."""
        self._held.append((scheduler_stats, iteration_stats, mm_cache_stats, engine_idx))
        now = time.monotonic()
        if now - self._written >= _HOLD or _is_idle(scheduler_stats):
            self._written = now
            self.write()

    def write(self) -> None:
        """What is held."""
        held, self._held = self._held, []
        for each in held:
            super().record(*each)
        for batch in self._batches:
            if batch.values:
                batch.count()


def _is_idle(stats: SchedulerStats | None) -> bool:
    """Whether this was the last step for now."""
    return stats is None or not (
        stats.num_running_reqs or stats.num_waiting_reqs or stats.num_skipped_waiting_reqs
    )


class _Batch:
    """What a histogram observes, until it is counted: of many tokens' times a value or two."""

    def __init__(self, histogram: Any) -> None:
        self.values: list[float] = []
        self._histogram = histogram
        histogram.observe = self.values.append

    def count(self) -> None:
        """Put it where it is kept; every bucket is written once."""
        histogram, found = self._histogram, dict[int, int]()
        for value in self.values:
            index = bisect_left(histogram._upper_bounds, value)
            found[index] = found.get(index, 0) + 1
        for index, times in found.items():
            histogram._buckets[index].inc(times)
        histogram._sum.inc(sum(self.values))
        self.values.clear()
