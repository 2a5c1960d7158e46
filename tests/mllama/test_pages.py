"""Cross-attention blocks of several pages: two KV groups, and every page in a place of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mllama.checkpoints import SHAPES, configuration

BLOCKS, HEADS, TOKENS, CONTENT = 5, 2, 3, 4
# Of layers (pages), blocks, heads and tokens, from the outermost in: as vLLM's layouts have them.
ORDERS = {"layers outside": "LBHN", "blocks outside": "BLHN", "heads outside": "LHBN"}


def pool(order: str, layers: int) -> torch.Tensor:
    """(layers, blocks, heads, tokens, content) of a storage in this order, behind something."""
    sizes = {"L": layers, "B": BLOCKS, "H": HEADS, "N": TOKENS}
    shape = [*(sizes[axis] for axis in order), CONTENT]
    count = torch.Size(shape).numel()
    there = torch.zeros(7 + count)[7:].view(shape)
    return there.permute(*(order.index(axis) for axis in "LBHN"), 4)


@settings(deadline=None)  # the first example imports vLLM
@given(
    st.sampled_from(sorted(ORDERS)),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([0, 2]),
)
def test_every_page_is_where_paging_says(order: str, pages: int, first: int, behind: int) -> None:
    """Whatever the layout, and whichever layers of the pool the pages are."""
    from serving.mllama.pages import spread

    layers = pool(ORDERS[order], first + pages + behind)
    layers.copy_(torch.arange(layers.numel()).view(layers.shape))
    mine = [layers[first + page] for page in range(pages)]
    view, paging = spread(mine)
    for page, content in enumerate(mine):
        places = paging.places(torch.arange(BLOCKS), torch.full((BLOCKS,), page))
        assert torch.equal(view[places], content)


def test_pages_at_uneven_distances_are_refused() -> None:
    """A pool laid out in another way than expected must not be read."""
    from serving.mllama.pages import spread

    layers = pool("LBHN", 4)
    with pytest.raises(ValueError, match="uneven"):
        spread([layers[0], layers[1], layers[3]])


PUBLISHED = {"11B": (40, range(3, 40, 5)), "90B": (100, range(3, 100, 5))}
TESTED = {name: (shape.layers, shape.cross) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", [*PUBLISHED, *TESTED])
def test_there_are_two_groups_and_the_widest_block_is_full(name: str) -> None:
    """By vLLM's own grouping: all of self-attention, and all of cross-attention."""
    from vllm.v1.core.kv_cache_utils import get_kv_cache_groups
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from serving.mllama.kv import MllamaCrossAttentionSpec
    from serving.mllama.pages import pages_per_block

    count, cross = (PUBLISHED | TESTED)[name]
    text = SimpleNamespace(num_hidden_layers=count, cross_attention_layers=list(cross))
    common: dict[str, Any] = {
        "block_size": 16,
        "num_kv_heads": 8,
        "head_size": 128,
        "dtype": torch.bfloat16,
    }
    pages = pages_per_block(text)
    specs: dict[str, Any] = {}
    for layer in range(count):
        if layer in cross:
            spec = MllamaCrossAttentionSpec(**common, max_slots=6528, pages=pages)
            specs |= {f"layers.{layer}.cross_attn.page{page}": spec for page in range(pages)}
        else:
            specs[f"layers.{layer}.self_attn"] = FullAttentionSpec(**common)
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        attention_config=SimpleNamespace(hisparse_config=None),
        cache_config=SimpleNamespace(
            get_resolved_kv_cache_layout=lambda: SimpleNamespace(is_block_outermost=False)
        ),
        speculative_config=None,
    )
    groups = get_kv_cache_groups(config, specs)
    assert [len(group.layer_names) for group in groups] == [
        count - len(cross),
        pages * len(cross),
    ]
    assert groups[1].layer_names == [layer for layer in specs if "cross" in layer]


def test_the_configuration_decides_how_many_pages() -> None:
    """As many as self-attention layers to one of cross-attention, and at least one."""
    from serving.mllama.pages import pages_per_block

    wanted = {"gqa2": 2, "gqa4": 4, "mha": 1}
    for name, pages in wanted.items():
        assert pages_per_block(configuration(SHAPES[name]).text_config) == pages
    none = SimpleNamespace(num_hidden_layers=4, cross_attention_layers=[])
    assert pages_per_block(none) == 4
