"""vLLM's metrics, counted in fewer steps: what some steps of the engine tell, together."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


class Stats(PrometheusStatLogger):
    """In place of vLLM's own; what it counts is the same.

    It writes when the scheduler reports (`serving.mllama.reports`): what a kill loses is what came
    since, half a second at most. Who scrapes sees no difference.
    """

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
        super().__init__(vllm_config, engine_indexes)
        self._held: list[tuple[Any, ...]] = []
        self._tokens: Counter[int] = Counter()  # of answers, by engine, not yet counted
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
        """See `PrometheusStatLogger`. It may have to wait for the next report."""
        if iteration_stats is not None and _is_midway(iteration_stats):
            gaps = iteration_stats.inter_token_latencies_iter
            self.midway(engine_idx, iteration_stats.num_generation_tokens, gaps)
            iteration_stats = None
        if mm_cache_stats is not None and not mm_cache_stats.queries:
            mm_cache_stats = None
        step = scheduler_stats, iteration_stats, mm_cache_stats
        if any(each is not None for each in step):
            self._held.append((*step, engine_idx))
        if scheduler_stats is not None:
            self.write()

    def midway(self, engine: int, tokens: int, gaps: Sequence[float]) -> None:
        """What `PrometheusStatLogger` would count of a step midway; histograms hold it as well."""
        self._tokens[engine] += tokens
        self.histogram_iteration_tokens[engine].observe(tokens)
        gap = self.histogram_inter_token_latency[engine].observe
        for each in gaps:
            gap(each)

    def write(self) -> None:
        """What is held."""
        held, self._held = self._held, []
        for each in held:
            super().record(*each)
        for engine, tokens in self._tokens.items():
            self.counter_generation_tokens[engine].inc(tokens)
        self._tokens.clear()
        for batch in self._batches:
            if batch.values:
                batch.count()


def _is_midway(step: IterationStats) -> bool:
    """Whether no answer began in it or ended, and none was put off."""
    return not (
        step.finished_requests
        or step.time_to_first_tokens_iter
        or step.prompt_token_stats.total
        or step.max_num_generation_tokens_iter
        or step.n_params_iter
        or step.num_preempted_reqs
        or step.num_corrupted_reqs
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
