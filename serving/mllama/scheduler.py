"""vLLM's scheduler with two rules for requests with images, added where requests enter."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.utils.math_utils import cdiv
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class _ImageRules:
    """Rules of admission, mixed in front of either of vLLM's schedulers."""

    def add_request(self: Any, request: Request) -> None:
        """Queue a request.

        A request with images starts at token 0, always, after a preemption too: a prefix hit would
        skip the step that encodes its images and writes their KV.
        """
        if request.mm_features:
            request.skip_reading_prefix_cache = True
        super().add_request(request)  # type: ignore[misc]
        if not self._can_ever_run(request):
            # Finishes it with an error at the next step, instead of leaving it at the head of the
            # queue for ever.
            self.encoder_cache_mismatch_reqs.add(request.request_id)

    def _can_ever_run(self: Any, request: Request) -> bool:
        """Whether prompt and images fit an empty KV cache and the encoder's budget of one step."""
        slots = sum(feature.mm_position.length for feature in request.mm_features or ())
        if slots > self.max_num_encoder_input_tokens:
            return False
        needed = 0
        for group in self.kv_cache_config.kv_cache_groups:
            spec = group.kv_cache_spec
            tokens = request.num_prompt_tokens if spec.prefix_cacheable else slots
            needed += cdiv(tokens, spec.block_size)
        # One block is the null block.
        return needed <= self.kv_cache_config.num_blocks - 1


class MllamaScheduler(_ImageRules, Scheduler):
    """For engines that wait for each step."""


class MllamaAsyncScheduler(_ImageRules, AsyncScheduler):
    """For engines that schedule a step ahead (the default on GPUs)."""


def build_scheduler(*args: Any, vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """The scheduler that fits the engine's mode, which vLLM settles after our config hook ran."""
    ahead = vllm_config.scheduler_config.async_scheduling
    kind = MllamaAsyncScheduler if ahead else MllamaScheduler
    return kind(*args, vllm_config=vllm_config, **kwargs)
