"""vLLM's scheduler with one more rule, applied where requests enter."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class _ImagesStartOver:
    """The rule, mixed in front of either of vLLM's schedulers."""

    def add_request(self, request: Request) -> None:
        """Queue a request.

        A request with images starts at token 0, always, after a preemption too: a prefix hit would
        skip the step that encodes its images and writes their KV.
        """
        if request.mm_features:
            request.skip_reading_prefix_cache = True
        super().add_request(request)  # type: ignore[misc]


class MllamaScheduler(_ImagesStartOver, Scheduler):
    """For engines that wait for each step."""


class MllamaAsyncScheduler(_ImagesStartOver, AsyncScheduler):
    """For engines that schedule a step ahead (the default on GPUs)."""


def build_scheduler(*args: Any, vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """The scheduler that fits the engine's mode, which vLLM settles after our config hook ran."""
    ahead = vllm_config.scheduler_config.async_scheduling
    kind = MllamaAsyncScheduler if ahead else MllamaScheduler
    return kind(*args, vllm_config=vllm_config, **kwargs)
