"""The V1 model runner's side: give the attention builder its plan.

The runner asks `_get_encoder_seq_lens` for two values per cross-attention group and hands them to
the metadata builder untouched. For our layers the second one becomes the `StepPlan`. This is the
one place where a function of vLLM is replaced; runners of other models pass through unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from serving.mllama.config import tile_tokens
from serving.mllama.kv import MllamaCrossAttentionSpec
from serving.mllama.plan import Layout, Row, StepPlan, lay_out, plan_step, tiles_of

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
        layout = _layout(runner, runner.requests[request])
        rows[index] = Row(layout, computed, tokens)
        if layout is not None and computed == 0:
            encoded.append(index)
    return plan_step(rows, encoded)


def _layout(runner: Any, request: Any) -> Layout | None:
    """The request's images; worked out at its first step and kept with it."""
    if not request.mm_features:
        return None
    layout: Layout | None = getattr(request, "mllama_layout", None)
    if layout is None:
        config = runner.model_config.hf_config
        layout = layout_of(config, request.prompt_token_ids, request.mm_features)
        request.mllama_layout = layout
    return layout


def layout_of(config: Any, prompt: list[int], features: Any) -> Layout:
    """Lay out a prompt's images from its tokens and vLLM's placeholder of each image."""
    tokens = tile_tokens(config.vision_config)
    positions = [i for i, token in enumerate(prompt) if token == config.image_token_index]
    lengths = [tiles_of(f.mm_position.length, tokens) * tokens for f in features]
    return lay_out(positions, lengths)
