"""The V2 model runner's side, through its per-model hook. The default runner on GPUs.

Never run on a GPU by us: the V2 runner needs Triton. It shares everything but this file with the
V1 runner, on which the end-to-end tests run; the tests drive this file's planning with the runner's
own types on CPU tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_states.encoder_decoder import EncoderDecoderModelState
from vllm.v1.worker.gpu.model_states.interface import ModelSpecificAttnMetadata

from serving.mllama import orders
from serving.mllama.attention import Step
from serving.mllama.config import request_layout
from serving.mllama.plan import TEXT_ONLY, Layout, Row, StepPlan, Write, plan_step


@dataclass
class PlannedStep(ModelSpecificAttnMetadata):
    """Hands the plan to the metadata builders; only cross-attention ones look at it."""

    step: Step

    def get_extra_common_attn_kwargs(self, kv_cache_group_id: int, num_reqs: int) -> dict[str, Any]:
        """The field of `CommonAttentionMetadata` in which `attention` expects the plan."""
        return {"encoder_seq_lens_cpu": self.step}


class MllamaModelState(EncoderDecoderModelState):
    """vLLM's encoder-decoder state, with our plan in place of one encoder length a request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # vLLM would warm up with made-up encoder inputs of this length; ours have no tiles.
        self.max_encoder_len = 0
        self.layouts: dict[str, Layout] = {}
        self.writes: dict[str, tuple[Write, ...]] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Lay out the images of a request that starts, or starts again after a preemption."""
        if new_req_data.mm_features:
            layout = request_layout(self.model_config.hf_config, new_req_data)
            self.layouts[new_req_data.req_id] = layout
            self.writes[new_req_data.req_id] = orders.of_request(new_req_data)

    def remove_request(self, req_id: str) -> None:
        """Forget a request that ended."""
        self.layouts.pop(req_id, None)
        self.writes.pop(req_id, None)

    def prepare_inputs_embeds(
        self, scheduled_encoder_inputs: dict[str, list[int]], input_batch: InputBatch, *rest: Any
    ) -> None:
        """Encode what the step has to, for itself and for later ones."""
        names, items = self.encoder_runner.prepare_mm_inputs(scheduled_encoder_inputs)
        if items:
            with self.encoder_runner.timed_encoder_operation(scheduled_encoder_inputs.keys()):
                outputs = self.encoder_runner.execute_mm_encoder(items)
            self.encoder_cache.encoder_outputs.update(zip(names, outputs, strict=True))

    def plan(self, batch: InputBatch) -> StepPlan:
        """Plan a step. What requests write is written in the first one after they were added."""
        if self.layouts.keys().isdisjoint(batch.req_ids):
            return TEXT_ONLY
        rows = [
            Row(
                self.layouts.get(request),
                int(computed),
                int(scheduled),
                self.writes.pop(request, ()),
            )
            for request, computed, scheduled in zip(
                batch.req_ids,
                batch.num_computed_tokens_np,
                batch.num_scheduled_tokens,
                strict=False,
            )
        ]
        return plan_step(rows)

    def prepare_attn(
        self,
        input_batch: InputBatch,
        cudagraph_mode: CUDAGraphMode,
        block_tables: tuple[torch.Tensor, ...],
        slot_mappings: torch.Tensor,
        attn_groups: Any,
        kv_cache_config: Any,
        for_capture: bool = False,
        ubatch_idx: int = 0,
    ) -> dict[str, Any]:
        """Metadata of every layer for one step.

        Full CUDA graphs never come here: the cross-attention builder declares that it cannot be
        captured, since a captured step could not switch its cross layers on and off.
        """
        assert cudagraph_mode != CUDAGraphMode.FULL, "Mllama steps cannot be captured whole"
        assert ubatch_idx == 0, "Mllama does not run with dual-batch overlap"
        requests = input_batch.num_reqs
        upper = input_batch.seq_lens_cpu_upper_bound
        return build_attn_metadata(
            attn_groups=attn_groups,
            num_reqs=requests,
            num_tokens=input_batch.num_tokens,
            query_start_loc_gpu=input_batch.query_start_loc,
            query_start_loc_cpu=torch.from_numpy(input_batch.query_start_loc_np),
            max_query_len=int(input_batch.num_scheduled_tokens.max()),
            seq_lens=input_batch.seq_lens,
            max_seq_len=self.max_model_len if for_capture else int(upper[:requests].max()),
            block_tables=block_tables,
            slot_mappings=slot_mappings,
            kv_cache_config=kv_cache_config,
            seq_lens_cpu_upper_bound=upper,
            dcp_local_seq_lens=input_batch.dcp_local_seq_lens,
            model_specific_attn_metadata=PlannedStep(
                Step(self.plan(input_batch), self.encoder_cache.encoder_outputs)
            ),
            for_cudagraph_capture=for_capture,
            rswa_prefix_lens=input_batch.prompt_lens,
        )
