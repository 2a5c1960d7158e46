"""What a scheduler tells its front end of itself: some times a second, not with every step.

Encoding it, sending it and reading it cost either side more than what a step says of its requests,
and whoever scrapes sees how things are once in some seconds. What the scheduler counts it hands
over with the next report, and the last step before it falls idle has one: nothing is lost.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import SchedulerStats

SETTING = "stats_seconds"
"""Of vLLM's `additional_config`: so long at least from a report to the next, by default nothing.

vLLM's own `LLM` counts a step's tokens only with a report; `AsyncLLM` counts them anyway."""


class RareReports(Scheduler):
    """A rule for all steps, mixed in front of either of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = kwargs["vllm_config"].additional_config
        self._pause = settings.get(SETTING, 0.0) if isinstance(settings, dict) else 0.0
        self._reported = 0.0

    def make_stats(self, *of_step: Any, **more_of_step: Any) -> SchedulerStats | None:
        """See `Scheduler`. What is of a step alone is told at once."""
        now = time.monotonic()
        is_alone = any(each is not None for each in (*of_step, *more_of_step.values()))
        if not is_alone and now - self._reported < self._pause and any(self.get_request_counts()):
            return None
        self._reported = now
        stats: SchedulerStats | None = super().make_stats(*of_step, **more_of_step)
        return stats
