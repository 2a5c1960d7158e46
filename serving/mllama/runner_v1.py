"""The V1 model runner's side: give the attention builder its plan.

The runner asks `_get_encoder_seq_lens` for two values per cross-attention group and hands them to
the metadata builder untouched. For our layers the second one becomes the `Step`. What the step
writes comes with the scheduler's output, which the runner shows to
`_process_encoder_cache_scheduler_output` before. Where tokens of text would lie in the KV of images
the runner need not work out: `may_reinitialize_input_batch` makes the tables that would. Here and
in `lora_cpu` functions of vLLM are replaced; runners of other models pass through unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec, KVCacheConfig
from vllm.v1.worker.block_table import SlotMappingMode
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from serving.mllama import orders
from serving.mllama.attention import Step
from serving.mllama.config import request_layout
from serving.mllama.kv import MllamaCrossAttentionSpec
from serving.mllama.plan import TEXT_ONLY, Layout, Row, StepPlan, plan_step

_original = GPUModelRunner._get_encoder_seq_lens
_original_process = GPUModelRunner._process_encoder_cache_scheduler_output
_original_tables = GPUModelRunner.may_reinitialize_input_batch


def install() -> None:
    """Wrap the runner's methods; a second call changes nothing."""
    GPUModelRunner._get_encoder_seq_lens = _get_encoder_seq_lens
    GPUModelRunner._process_encoder_cache_scheduler_output = _process
    GPUModelRunner.may_reinitialize_input_batch = _make_tables


def _make_tables(runner: Any, kv_cache_config: KVCacheConfig) -> None:
    _original_tables(runner, kv_cache_config)
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    with_tables = [spec for spec in specs if not isinstance(spec, EncoderOnlyAttentionSpec)]
    for spec, table in zip(with_tables, runner.input_batch.block_table.block_tables, strict=True):
        if isinstance(spec, MllamaCrossAttentionSpec):
            table.slot_mapping_mode = SlotMappingMode.NONE


def _process(runner: Any, scheduler_output: Any) -> None:
    _original_process(runner, scheduler_output)
    runner.mllama_writes = orders.of_step(scheduler_output)


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
    step = Step(_plan(runner, num_scheduled_tokens), runner.encoder_cache)
    return runner.encoder_seq_lens.gpu[:num_reqs], step


def _plan(runner: Any, scheduled: dict[str, int]) -> StepPlan:
    """Plan the step over the runner's batch rows. `scheduled`: tokens, by request."""
    if not any(runner.requests[request].mm_features for request in scheduled):
        return TEXT_ONLY
    batch = runner.input_batch
    rows: list[Row] = [Row(None, 0, 0)] * len(scheduled)
    for request, tokens in scheduled.items():
        index = batch.req_id_to_index[request]
        computed = int(batch.num_computed_tokens_cpu[index])
        layout = _layout(runner, runner.requests[request])
        rows[index] = Row(layout, computed, tokens, runner.mllama_writes.get(request, ()))
    return plan_step(rows)


def _layout(runner: Any, request: Any) -> Layout | None:
    """The request's images; worked out at its first step and kept with it."""
    if not request.mm_features:
        return None
    layout: Layout | None = getattr(request, "mllama_layout", None)
    if layout is None:
        layout = request_layout(runner.model_config.hf_config, request)
        request.mllama_layout = layout
    return layout
