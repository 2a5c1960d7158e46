"""Steps in which nobody makes others wait long, and first tokens that are handed over first.

A request that comes waits for the step under way and gets its first token at the end of the next
one, so what a step reads of prompts delays everybody's first token, and every answer being written.
vLLM's `max_num_scheduled_tokens` bounds it; here it does so only beside others, and what is left
of a long prompt does not use it up before somebody who comes first. (Chunks beside decodes, bounded
by how long a step may take: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference
with Sarathi-Serve", OSDI 2024.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request


class ShortSteps(Scheduler):
    """A rule for all requests, mixed in front of either of vLLM's schedulers."""

    max_num_scheduled_tokens: int
    running: list[Request]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raises: ValueError: a step has no room for all the answers there may be."""
        super().__init__(*args, **kwargs)
        self._beside_others = self.max_num_scheduled_tokens
        if self._beside_others < self.max_num_running_reqs:
            raise ValueError(
                f"max_num_scheduled_tokens, {self._beside_others}, must be no less than "
                f"max_num_seqs with the places kept: {self.max_num_running_reqs}"
            )
        self._has_overtaken = False
        self._stuck: Request | None = None

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Plan a step: a long one only for a request that is alone."""
        alone = sum(self.get_request_counts()) == 1
        most = self.scheduler_config.max_num_batched_tokens
        self.max_num_scheduled_tokens = most if alone else self._beside_others
        with self._overtaking():
            output: SchedulerOutput = super().schedule(throttle_prefills)
        return output

    def update_from_output(self, *args: Any) -> dict[int, EngineCoreOutputs]:
        """What a step brought, with first tokens before those that somebody reads already."""
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(*args)
        for each in outputs.values():
            each.outputs.sort(key=lambda output: output.prefill_stats is None)
        return outputs

    @contextmanager
    def _overtaking(self) -> Iterator[None]:
        """Have prompts half read wait for this step if somebody who comes before them has come.

        Never twice in a row, nor twice for one who cannot start: who has come may need the memory
        that they hold.
        """
        held = [] if self._has_overtaken else self._behind_the_next()
        self._has_overtaken = bool(held)
        if not held:
            yield
            return
        first = self.waiting.peek_request()
        self.running = [request for request in self.running if request not in held]
        self.max_num_active_reqs -= len(held)
        try:
            yield
        finally:
            self.max_num_active_reqs += len(held)
            self.running += held
            came_to_nothing = self.waiting and self.waiting.peek_request() is first
            self._stuck = first if came_to_nothing else None

    def _behind_the_next(self) -> list[Request]:
        if not self.waiting or len(self.running) >= self.max_num_active_reqs:
            return []
        first = self.waiting.peek_request()
        if first is self._stuck or not self._has_memory_to_spare():
            return []
        return [
            each
            for each in self.running
            if each.is_prefill_chunk and each.priority > first.priority
        ]

    def _has_memory_to_spare(self) -> bool:
        """Whether a step can do without what would be held: that could not give way in it, and an
        answer that is being written would have to."""
        blocks = len(self.running) + self._beside_others // self.block_size + 1
        groups = len(self.kv_cache_config.kv_cache_groups)
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return free >= blocks * groups
