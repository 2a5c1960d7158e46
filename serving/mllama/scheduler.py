"""vLLM's scheduler, for which a request's images are not a part of its tokens.

vLLM's encoder-decoder path encodes a request's inputs in its first step and never looks for them
elsewhere. Here the first step of a request, and the first after a preemption, finds out what is
missing: blocks that hold an image already are shared (`kv`), encoder outputs that are still there
are written again, and only the rest is encoded. All this is apart from the prefix cache: text that
was computed with the same images before it is not computed again even if their KV has to be
written anew, since rows do not depend on where that lies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from serving.mllama.config import request_layout
from serving.mllama.content import block_keys, writes
from serving.mllama.identity import hash_by_position, image_digest, image_name
from serving.mllama.kv import MllamaCrossAttentionManager
from serving.mllama.orders import Orders, attach
from serving.mllama.plan import Layout, Write
from serving.mllama.reports import RareReports
from serving.mllama.steps import ShortSteps

# Inputs to encode, tokens to schedule, compute budget left; then inputs that come from elsewhere,
# and inputs that an earlier one of the same request brings.
_Encoding = tuple[list[int], int, int, list[int], list[int]]


class GivingWay(Scheduler):
    """A rule for all requests, mixed in front of either of vLLM's schedulers."""

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Have a request give way, and forget the blocks that it was to fill in this very step.

        vLLM makes blocks known when it schedules the tokens that fill them. By priority, a request
        may be chosen to give way after that, and others would find what was never computed.
        """
        managers = self.kv_cache_manager.coordinator.single_type_managers
        blocks = self.kv_cache_manager.get_blocks(request.request_id).blocks
        for manager, held in zip(managers, blocks, strict=True):
            if manager.kv_cache_spec.prefix_cacheable:
                unfilled = held[request.num_computed_tokens // manager.block_size :]
                self.kv_cache_manager.evict_blocks({block.block_id for block in unfilled})
        super()._preempt_request(request, *args, **kwargs)


class SharedImages(GivingWay):
    """The rules for requests with images."""

    def __init__(self, *args: Any, vllm_config: VllmConfig, **kwargs: Any) -> None:
        super().__init__(*args, vllm_config=vllm_config, **kwargs)
        self._config = vllm_config.model_config.hf_config
        managers = self.kv_cache_manager.coordinator.single_type_managers
        (self._images,) = (m for m in managers if isinstance(m, MllamaCrossAttentionManager))
        self._writes: dict[str, tuple[Write, ...]] = {}

    def add_request(self, request: Request) -> None:
        """Queue a request, its images by names of ours and its prefix hashed with them in place."""
        if request.mm_features:
            request.mm_features = [
                replace(feature, identifier=image_name(feature, request.cache_salt))
                for feature in request.mm_features
            ]
            hash_by_position(request, self._layout(request))
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Plan a step, and say which KV of images it writes."""
        self._writes = {}
        output: SchedulerOutput = super().schedule(throttle_prefills)
        started = {
            name: w for name, w in self._writes.items() if name in output.num_scheduled_tokens
        }
        attach(output, Orders(started))
        for new in output.scheduled_new_reqs:
            # vLLM takes the pixels away when the prefix cache covers an input's placeholder.
            new.mm_features = self.requests[new.req_id].mm_features
        return output

    def _try_schedule_encoder_inputs(
        self,
        request: Request,
        num_computed_tokens: int,
        num_new_tokens: int,
        encoder_compute_budget: int,
        shift_computed_tokens: int = 0,
    ) -> _Encoding:
        """Reserve the blocks of a request that starts, and encode what has to be written.

        A request starts with all its images or, when they exceed the step's budget, not yet.
        """
        nothing: _Encoding = ([], num_new_tokens, encoder_compute_budget, [], [])
        if num_new_tokens == 0 or self._images.holds(request.request_id):
            return nothing
        images = self._reserve(request, num_computed_tokens)
        encoding = self._encode(request, images, encoder_compute_budget)
        if encoding is None:
            self._images.release(request.request_id)
            self.encoder_cache_manager.free(request)
            return [], 0, encoder_compute_budget, [], []
        inputs, again, spent = encoding
        return inputs, num_new_tokens, encoder_compute_budget - spent, [], again

    def _reserve(self, request: Request, computed: int) -> list[int]:
        """Hold what is there of the request's images; returns those of which a part is missing."""
        layout, size = self._layout(request), self._images.kv_cache_spec.block_slots
        names = [feature.identifier for feature in request.mm_features]
        digests = [image_digest(name, request.lora_request) for name in names]
        keys = block_keys(layout, digests, size, computed)
        missing = self._images.reserve(request.request_id, keys)
        self._writes[request.request_id] = writes(layout, names, size, missing)
        wanted = {write.image for write in self._writes[request.request_id]}
        return [image for image, name in enumerate(names) if name in wanted]

    def _encode(
        self, request: Request, images: list[int], budget: int
    ) -> tuple[list[int], list[int], int] | None:
        """Images to encode, those that are the same as one of these, and the slots of the former.

        None: the step, or the cache of encoder outputs, has no room for all of them.
        """
        cache = self.encoder_cache_manager
        inputs: list[int] = []
        again: list[int] = []
        spent = 0
        for image in images:
            name = request.mm_features[image].identifier
            if any(request.mm_features[other].identifier == name for other in inputs):
                again.append(image)
            elif not cache.check_and_update_cache(request, image):
                if not cache.can_allocate(request, image, budget - spent, spent):
                    return None
                inputs.append(image)
                spent += request.get_num_encoder_embeds(image)
        return inputs, again, spent

    def _layout(self, request: Any) -> Layout:
        layout: Layout | None = getattr(request, "mllama_layout", None)
        if layout is None:
            layout = request.mllama_layout = request_layout(self._config, request)
        return layout


def build_scheduler(*args: Any, vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """The scheduler that fits the engine's mode, which vLLM settles after our config hook ran."""
    mode = AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler
    rules = SharedImages if vllm_config.model_config.is_encoder_decoder else GivingWay
    kind = type("MllamaScheduler", (RareReports, ShortSteps, rules, mode), {})
    return kind(*args, vllm_config=vllm_config, **kwargs)
