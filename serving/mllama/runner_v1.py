"""The V1 model runner's side: give the attention builder its plan.

The runner asks `_get_encoder_seq_lens` for two values per cross-attention group and hands them to
the metadata builder untouched. For our layers the second one becomes the `StepPlan`. Here and in
`lora_cpu` a function of vLLM is replaced; runners of other models pass through unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from serving.mllama.config import request_layout
from serving.mllama.kv import MllamaCrossAttentionSpec
from serving.mllama.plan import Layout, Row, StepPlan, plan_step

_original = GPUModelRunner._get_encoder_seq_lens


def install() -> None:
    """Wrap the runner's method; a second call changes nothing."""
    GPUModelRunner._get_encoder_seq_lens = _get_encoder_seq_lens


def _get_encoder_seq_lens(
    runner: Any,
    num_scheduled_tokens: dict[str, int],
    kv_cache_spec: Any,
    num_reqs: int,
    for_cudagraph_capture: bool = False,
) -> tuple[torch.Tensor | None, Any]:
    if not isinstance(kv_cache_spec, MllamaCrossAttentionSpec):
        return _original(
            runner, num_scheduled_tokens, kv_cache_spec, num_reqs, for_cudagraph_capture
        )
    plan = _plan(runner, num_scheduled_tokens)
    return runner.encoder_seq_lens.gpu[:num_reqs], plan


def _plan(runner: Any, scheduled: dict[str, int]) -> StepPlan:
    """Plan the step over the runner's batch rows. `scheduled`: tokens, in scheduler order."""
    batch = runner.input_batch
    rows: list[Row] = [Row(None, 0, 0)] * len(scheduled)
    encoded = []
    for request, tokens in scheduled.items():
        index = batch.req_id_to_index[request]
        computed = int(batch.num_computed_tokens_cpu[index])
        rows[index] = Row(_layout(runner, runner.requests[request]), computed, tokens)
        if rows[index].starts:
            encoded.append(index)
    return plan_step(rows, encoded)


def _layout(runner: Any, request: Any) -> Layout | None:
    """The request's images; worked out at its first step and kept with it."""
    if not request.mm_features:
        return None
    layout: Layout | None = getattr(request, "mllama_layout", None)
    if layout is None:
        layout = request_layout(runner.model_config.hf_config, request)
        request.mllama_layout = layout
    return layout
