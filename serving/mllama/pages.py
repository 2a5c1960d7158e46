"""Cross-attention blocks as large as those of all self-attention layers together.

A block of vLLM's pool is one page in each layer of a group, and its groups have the same number of
layers: there would be four groups of self-attention for one of cross-attention, whose tables are
kept, sent and read separately in every step. So a cross-attention layer here takes `pages` pages of
a block instead of one, the further ones through a `Page` each, which vLLM counts as a layer. Then
both groups are of one size, there are two of them, and no memory is wasted.

To the attention kernels a page is a block. `spread` makes one view of all pages that belong to a
layer; `Paging` says which place in it a page of a block has.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.kv_cache_interface import KVCacheSpec


def pages_per_block(text: Any) -> int:
    """Pages of a block that one cross-attention layer takes. `text`: MllamaTextConfig.

    As many as there are self-attention layers to one of cross-attention, rounded down. What is left
    of a block is less than half of it, and vLLM then makes one group of the self-attention layers;
    with less than one and a half layers to one it does so by itself, in between it makes two.
    """
    cross = len(text.cross_attention_layers)
    return max(1, (text.num_hidden_layers - cross) // max(1, cross))


@dataclass(frozen=True)
class Paging:
    """Which place page `p` of block `b` has: `b x block_step + p x page_step`."""

    pages: int = 1
    """Pages of a block."""
    block_step: int = 1
    page_step: int = 0

    def places(self, blocks: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
        """Of pages of blocks, elementwise, in the type of `blocks`."""
        return blocks * self.block_step + pages * self.page_step


def spread(pages: list[torch.Tensor]) -> tuple[torch.Tensor, Paging]:
    """One view of all pages of a layer's blocks, first dimension pages, and where each is in it.

    Args:
        pages: views (blocks, heads, tokens, content) of one storage: the first page of all blocks,
            the second, and so on, at equal distances.

    Raises:
        ValueError: the distances differ.
    """
    first, *others = pages
    if not others:
        return first, Paging()
    starts = [page.storage_offset() for page in pages]
    far, near = starts[1] - starts[0], first.stride(0)
    if starts != [starts[0] + index * far for index in range(len(pages))] or far <= 0:
        raise ValueError("vLLM laid the KV pages of a cross-attention layer at uneven distances")
    unit = gcd(far, near)
    paging = Paging(len(pages), near // unit, far // unit)
    last = (len(first) - 1) * paging.block_step + len(others) * paging.page_step
    shape, strides = (last + 1, *first.shape[1:]), (unit, *first.stride()[1:])
    return first.as_strided(shape, strides), paging


class Page(AttentionLayerBase):
    """A further page of each of a layer's blocks. To vLLM, a layer that is never called."""

    def __init__(self, owner: Any, name: str, vllm_config: VllmConfig) -> None:
        self.owner, self.impl, self.num_heads = owner, owner.impl, owner.num_heads
        vllm_config.compilation_config.static_forward_context[name] = self

    @property
    def paging(self) -> Paging:
        """The layer's."""
        paging: Paging = self.owner.paging
        return paging

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        """Hand the pages to the layer."""
        self.owner.add_pages(kv_cache)

    def get_attn_backend(self) -> type[AttentionBackend]:
        """The layer's, so that vLLM puts both into one group."""
        backend: type[AttentionBackend] = self.owner.get_attn_backend()
        return backend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec | None:
        """The layer's."""
        spec: KVCacheSpec | None = self.owner.get_kv_cache_spec(vllm_config)
        return spec
