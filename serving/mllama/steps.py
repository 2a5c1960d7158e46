"""Steps in which nobody makes others wait long, and first tokens that are handed over first.

A request that comes waits for the step under way and gets its first token at the end of the next
one, so what a step reads of prompts delays everybody's first token, and every answer being written.
vLLM's `max_num_scheduled_tokens` bounds it; here it does so only beside others, and what is left
of a long prompt does not use it up before somebody who comes first. (Chunks beside decodes, bounded
by how long a step may take: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference
with Sarathi-Serve", OSDI 2024.) Pictures, which are encoded whole, one in a step: in the published
model it takes as long as a thousand words.

Who comes before most of those who run, as a tenant's request does that has few of them, waited for
one step already: its prompt is read whole in the next one, and nobody else's picture is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request

from serving.mllama.config import picture_slots


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
        self._pictures = self.max_num_encoder_input_tokens
        vision = kwargs["vllm_config"].model_config.hf_config.vision_config
        self._picture = min(self._pictures, picture_slots(vision))
        self._has_overtaken = False
        self._stuck: Request | None = None

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Plan a step: a long one only for a request that is alone, or comes before most.

        All are long where the operator has not bounded them.
        """
        first = self._next()
        favoured = first if first is not None and self._comes_before_most(first) else None
        self.max_num_scheduled_tokens, self.max_num_encoder_input_tokens = self._budgets(favoured)
        with self._overtaking(first):
            output: SchedulerOutput = super().schedule(throttle_prefills)
        if favoured is not None or self._has_overtaken:
            came_to_nothing = self.waiting and self.waiting.peek_request() is first
            self._stuck = first if came_to_nothing else None
        return output

    def update_from_output(self, *args: Any) -> dict[int, EngineCoreOutputs]:
        """What a step brought, with first tokens before those that somebody reads already."""
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(*args)
        for each in outputs.values():
            each.outputs.sort(key=lambda output: output.prefill_stats is None)
        return outputs

    def _next(self) -> Request | None:
        """Who starts next and may have others give way in this step.

        Never twice in a row if somebody does, nor twice for one who cannot start: who has come may
        need the memory that they hold.
        """
        if self._has_overtaken or not self.waiting:
            return None
        if len(self.running) >= self.max_num_active_reqs:
            return None
        first: Request = self.waiting.peek_request()
        return None if first is self._stuck else first

    def _budgets(self, favoured: Request | None) -> tuple[int, int]:
        """What this step may read of prompts and answers, and what it may encode, in tokens."""
        most = self.scheduler_config.max_num_batched_tokens
        if self._beside_others == most or sum(self.get_request_counts()) == 1:
            return most, self._pictures
        if not self.waiting:
            return self._beside_others, self._picture
        if favoured is not None:
            whole = len(self.running) + favoured.num_tokens
            return max(self._beside_others, min(most, whole)), _pictures(favoured)
        # All pictures of a request are encoded in one step.
        pictures = _pictures(self.waiting.peek_request())
        return self._beside_others, max(self._picture, pictures)

    def _comes_before_most(self, first: Request) -> bool:
        after = sum(each.priority > first.priority for each in self.running)
        return 2 * after > len(self.running)

    @contextmanager
    def _overtaking(self, first: Request | None) -> Iterator[None]:
        """Have prompts half read wait for this step if somebody who comes before them has come."""
        held = self._behind(first) if first is not None else []
        self._has_overtaken = bool(held)
        self.running = [request for request in self.running if request not in held]
        self.max_num_active_reqs -= len(held)
        try:
            yield
        finally:
            self.max_num_active_reqs += len(held)
            self.running += held

    def _behind(self, first: Request) -> list[Request]:
        if not self._has_memory_to_spare():
            return []
        return [
            each
            for each in self.running
            if each.is_prefill_chunk and each.priority > first.priority
        ]

    def _has_memory_to_spare(self) -> bool:
        """Whether a step can do without what would be held: that could not give way in it, and an
        answer that is being written would have to."""
        blocks = len(self.running) + self.max_num_scheduled_tokens // self.block_size + 1
        groups = len(self.kv_cache_config.kv_cache_groups)
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return free >= blocks * groups


def _pictures(request: Request) -> int:
    """Encoder tokens of all its pictures."""
    return sum(map(request.get_num_encoder_embeds, range(len(request.mm_features))))
