"""vLLM's metrics, counted in fewer steps: the times between tokens are as many as the tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


class Stats(PrometheusStatLogger):
    """In place of vLLM's own; what it counts is the same."""

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """See `PrometheusStatLogger`. Of a batch all tokens come at once: a bucket or two."""
        if iteration_stats is not None:
            gaps = iteration_stats.inter_token_latencies_iter
            iteration_stats.inter_token_latencies_iter = []
            histogram = self.histogram_inter_token_latency[engine_idx]
            found = Counter(bisect_left(histogram._upper_bounds, gap) for gap in gaps)
            for index, count in found.items():
                histogram._buckets[index].inc(count)
            histogram._sum.inc(sum(gaps))
        super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)
