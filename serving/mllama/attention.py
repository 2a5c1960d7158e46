"""Cross-attention over paged KV, by any attention backend vLLM has for encoder-decoder models.

A `StepPlan` cuts the step into segments whose rows see the same slots. To the backend each segment
is a request of its own: its query rows, its block-table row shifted to the first visible page, its
visible slots as the sequence length, not causal. So the kernels need no mask. A segment that sees
nothing reads one token of the null block, and its output is masked afterwards: no kernel is asked
for an empty sequence.

The plan comes in as `CommonAttentionMetadata.encoder_seq_lens_cpu`, the field both model runners
fill for cross-attention groups; `runner_v1` and `runner_v2` put a `Step` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.config import CacheConfig, VllmConfig, get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionType,
    CommonAttentionMetadata,
    subclass_attention_backend_with_overrides,
)
from vllm.v1.attention.selector import get_attn_backend
from vllm.v1.kv_cache_interface import KVCacheSpec, get_kv_quant_mode

from serving.mllama.config import max_request_slots
from serving.mllama.kv import MllamaCrossAttentionSpec
from serving.mllama.pages import Page, Paging, pages_per_block, spread
from serving.mllama.plan import ALIGNMENT, StepPlan


@dataclass(frozen=True)
class Step:
    """A plan and where the runner keeps encoder outputs, by the names of images.

    Those that this step encodes come in before the model runs, after the metadata is built.
    """

    plan: StepPlan
    outputs: Mapping[str, torch.Tensor]

    def states(self) -> torch.Tensor:
        """(W, hidden) encoder tokens that the step writes.

        Raises:
            KeyError: an image that the scheduler believed encoded is not.
        """
        parts = [self.outputs[w.image][w.token : w.token + w.count] for w in self.plan.writes]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


@dataclass
class CrossMetadata:
    """One step of cross-attention, on the device. `N` token rows, `W` encoder tokens."""

    backend: Any | None
    """The backend's own metadata over segments; None when no row sees an image."""
    visible: torch.Tensor | None
    """(N, 1) bool: rows that see an image; None when none does."""
    write_slots: torch.Tensor | None
    """(W,) int64 places in the paged KV for this step's encoder tokens; None if it has none."""
    step: Step


@lru_cache
def cross_attention_backend(underlying: type[AttentionBackend]) -> type[AttentionBackend]:
    """A backend like `underlying` whose metadata is built from a `StepPlan`."""

    class Builder(underlying.get_builder_cls()):  # type: ignore[misc]
        # A step either runs the cross layers or skips them; a captured graph cannot choose.
        _cudagraph_support = AttentionCGSupport.NEVER

        def build(
            self,
            common_prefix_len: int,
            common_attn_metadata: CommonAttentionMetadata,
            fast_build: bool = False,
        ) -> CrossMetadata:
            step = common_attn_metadata.encoder_seq_lens_cpu
            assert isinstance(step, Step), "the model runner left no plan"
            plan = step.plan
            table = common_attn_metadata.block_table_tensor
            metadata = CrossMetadata(None, None, None, step)
            if not (plan.sees_images or plan.writes):
                return metadata
            size, paging = self.kv_cache_spec.block_size, self._paging()
            if plan.writes:
                metadata.write_slots = write_slots(plan, table, size, paging)
            if plan.sees_images:
                common = over_segments(plan, common_attn_metadata, size, paging)
                metadata.backend = super().build(0, common, fast_build)
                metadata.visible = visible_rows(plan, table.device)
            return metadata

        def _paging(self) -> Paging:
            """The same for all layers of the group; known once vLLM has laid out the pool."""
            layers = self.vllm_config.compilation_config.static_forward_context
            paging: Paging = layers[self.layer_names[0]].paging
            return paging

    class Impl(underlying.get_impl_cls()):  # type: ignore[misc]
        def forward(
            self,
            layer: torch.nn.Module,
            query: torch.Tensor,
            key: torch.Tensor | None,
            value: torch.Tensor | None,
            kv_cache: torch.Tensor,
            attn_metadata: CrossMetadata | None,
            output: torch.Tensor,
            *scales: torch.Tensor | None,
            **named: torch.Tensor | None,
        ) -> torch.Tensor:
            inner = None if attn_metadata is None else attn_metadata.backend
            return super().forward(
                layer, query, key, value, kv_cache, inner, output, *scales, **named
            )

    return subclass_attention_backend_with_overrides(
        name_prefix="Mllama_",
        attention_backend_cls=underlying,
        overrides={
            "get_builder_cls": lambda: Builder,
            "get_impl_cls": lambda: Impl,
            # We write the KV ourselves, once, before the first layer reads it.
            "forward_includes_kv_cache_update": True,
        },
    )


def over_segments(
    plan: StepPlan, common: CommonAttentionMetadata, page_size: int, paging: Paging
) -> CommonAttentionMetadata:
    """`common` with a request for each of the plan's S segments, over pages instead of blocks.

    `page_size`: slots of a page. It divides `ALIGNMENT`.
    """
    device = common.block_table_tensor.device
    lens = np.maximum(plan.visible, 1)
    starts = np.concatenate(([0], np.cumsum(plan.query_lens))).astype(np.int32)
    out = copy(common)
    out.causal = False
    out.num_reqs = len(lens)
    out.query_start_loc_cpu = torch.from_numpy(starts)
    out.query_start_loc = to_device(starts, device)
    out.seq_lens = to_device(lens, device)
    out.seq_lens_cpu_upper_bound = torch.from_numpy(lens)
    out.max_query_len = int(plan.query_lens.max())
    out.max_seq_len = int(lens.max())
    out.block_table_tensor = shifted_pages(plan, common.block_table_tensor, page_size, paging)
    out.encoder_seq_lens = out.encoder_seq_lens_cpu = None
    return out


def shifted_pages(
    plan: StepPlan, table: torch.Tensor, page_size: int, paging: Paging
) -> torch.Tensor:
    """(S, width) places of the segments' pages, from their first visible one on.

    Segments that see nothing get the null block, 0. `width` is the most pages any one needs.
    """
    blind = plan.visible == 0
    width = max(1, int(-(-plan.visible.max() // page_size)))
    pages = (plan.firsts // page_size)[:, None] + np.arange(width, dtype=np.int32)
    pages = np.minimum(pages, table.shape[1] * paging.pages - 1)
    places = _places(plan.requests[:, None], pages, table, paging)
    return places.masked_fill(to_device(blind, table.device)[:, None], 0)


def _places(
    requests: NDArray[np.int32], pages: NDArray[np.int32], table: torch.Tensor, paging: Paging
) -> torch.Tensor:
    """Where the pages of requests are, elementwise. `table`: (requests, width) their blocks."""
    columns, within = np.divmod(pages, np.int32(paging.pages))
    rows = to_device(requests.astype(np.int64), table.device)
    blocks = table[rows, to_device(columns.astype(np.int64), table.device)]
    return paging.places(blocks, to_device(within, table.device))


def visible_rows(plan: StepPlan, device: torch.device) -> torch.Tensor:
    """(N, 1) bool: which token rows see an image."""
    return to_device(np.repeat(plan.visible > 0, plan.query_lens)[:, None], device)


def write_slots(
    plan: StepPlan, table: torch.Tensor, page_size: int, paging: Paging
) -> torch.Tensor:
    """(W,) int64 places in the paged KV where this step's encoder tokens go."""
    pages, within = np.divmod(plan.write_slots, np.int32(page_size))
    places = _places(plan.write_requests, pages, table, paging).long()
    return places * page_size + to_device(within, table.device)


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class CrossAttention(Attention):
    """The attention core of one cross-attention layer: reads the paged KV, writes it on demand."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        num_kv_heads: int,
        cache_config: CacheConfig,
        prefix: str,
    ) -> None:
        kv_dtype = cache_config.cache_dtype
        underlying = get_attn_backend(
            head_size,
            torch.get_default_dtype(),
            kv_dtype,
            attn_type=AttentionType.ENCODER_DECODER,
        )
        super().__init__(
            num_heads=num_heads,
            head_size=head_size,
            scale=head_size**-0.5,
            num_kv_heads=num_kv_heads,
            cache_config=cache_config,
            prefix=prefix,
            attn_backend=cross_attention_backend(underlying),
            attn_type=AttentionType.ENCODER_DECODER,
        )
        config = get_current_vllm_config()
        self.pages = pages_per_block(config.model_config.hf_config.text_config)
        for index in range(1, self.pages):
            Page(self, f"{prefix}.page{index}", config)
        self.paging = Paging()
        self._bound: list[torch.Tensor] = []

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        """Take the first page of all blocks; those of the `Page`s follow."""
        self._bound = []
        self.add_pages(kv_cache)

    def add_pages(self, kv_cache: torch.Tensor) -> None:
        """Take the next page of all blocks. After the last one the layer sees all of them."""
        self._bound.append(kv_cache)
        if len(self._bound) == self.pages:
            self.kv_cache, self.paging = spread(self._bound)
            self._bound = []

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec | None:
        """Pages like those of self-attention, or none in a text-only deployment."""
        slots = max_request_slots(vllm_config)
        if slots == 0:
            return None
        if ALIGNMENT % vllm_config.cache_config.block_size:
            raise ValueError(f"Mllama needs a KV block size that divides {ALIGNMENT}")
        return MllamaCrossAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=self.num_kv_heads,
            head_size=self.head_size,
            dtype=self.kv_cache_torch_dtype,
            kv_quant_mode=get_kv_quant_mode(self.kv_cache_dtype),
            max_slots=slots,
            pages=self.pages,
        )

    def metadata(self) -> CrossMetadata | None:
        """This step's metadata; None while vLLM profiles, and in a text-only deployment."""
        steps = get_forward_context().attn_metadata
        return steps.get(self.layer_name) if isinstance(steps, dict) else None

    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        """Store (W, kv_heads, head_size) keys and values at (W,) places of the paged KV."""
        self.impl.do_kv_cache_update(self, key, value, self.kv_cache, slots)
