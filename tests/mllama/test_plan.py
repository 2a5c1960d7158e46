"""The step plan against transformers' own cross-attention mask, and its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from serving.mllama.plan import (
    ALIGNMENT,
    Row,
    Write,
    lay_out,
    plan_step,
    segments,
    slots_for,
    tiles_of,
)

IMAGE = 9
TOKENS_A_TILE = 37


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Token ids with images among them, and the tiles of each image."""
    pieces = draw(st.lists(st.sampled_from([0, 0, 0, IMAGE]), min_size=1, max_size=60))
    tiles = draw(
        st.lists(st.integers(1, 4), min_size=pieces.count(IMAGE), max_size=pieces.count(IMAGE))
    )
    return pieces, tiles


def layout_of(tokens: list[int], tiles: list[int]):
    """The layout of a prompt's images; None without images."""
    positions = [i for i, token in enumerate(tokens) if token == IMAGE]
    return lay_out(positions, [t * TOKENS_A_TILE for t in tiles]) if tiles else None


@given(prompts(), st.integers(1, 17))
def test_rows_see_what_transformers_says_whatever_the_chunks(prompt, chunk) -> None:
    """Chunk by chunk, every row sees exactly the images its row of the reference mask names."""
    tokens, tiles = prompt
    layout = layout_of(tokens, tiles)
    seen = np.zeros((len(tokens), len(tiles)), dtype=bool)
    for start in range(0, len(tokens), chunk):
        count = min(chunk, len(tokens) - start)
        row = start
        for segment in segments(layout, start, count):
            for image in range(len(tiles)):
                inside = segment.first <= layout.firsts[image] < segment.first + segment.visible
                seen[row : row + segment.rows, image] = inside
            row += segment.rows
        assert row == start + count
    if tiles:
        mask = convert_sparse_cross_attention_mask_to_dense(
            [get_cross_attention_token_mask(tokens, IMAGE)], [tiles], 4, len(tokens)
        )[0].astype(bool)
        assert (seen == mask.any(-1)).all()


@given(prompts())
def test_a_run_is_contiguous_and_images_fit_what_was_reserved(prompt) -> None:
    """Runs start at block boundaries, images never overlap, and all lie within their slots."""
    tokens, tiles = prompt
    layout = layout_of(tokens, tiles)
    if layout is None:
        return
    end = 0
    for first, run, length in zip(layout.firsts, layout.runs, layout.lengths, strict=True):
        assert first >= end
        assert first in (run, end)
        assert run % ALIGNMENT == 0
        end = first + length
    assert end <= sum(slots_for(t, TOKENS_A_TILE) for t in tiles)


@given(prompts(), st.integers(0, 80), st.integers(1, 5))
def test_generated_rows_keep_the_view_of_the_prompts_last_row(prompt, beyond, count) -> None:
    """Decoding is one segment a step, with the last row's view."""
    tokens, tiles = prompt
    layout = layout_of(tokens, tiles)
    (last,) = segments(layout, len(tokens) - 1, 1)
    (later,) = segments(layout, len(tokens) + beyond, count)
    assert (later.first, later.visible) == (last.first, last.visible)


@pytest.mark.parametrize("tokens", [5, 37, 101, 128, 145, 1025, 1601])
def test_slots_tell_the_number_of_tiles(tokens: int) -> None:
    """The reservation can be undone for every number of tiles."""
    for tiles in range(1, 17):
        assert tiles_of(slots_for(tiles, tokens), tokens) == tiles


def test_slots_of_the_published_model() -> None:
    """1,601 tokens a tile: 4 tiles waste 2 %, one tile 4 %."""
    assert [slots_for(tiles, 1601) for tiles in (1, 2, 3, 4)] == [1664, 3328, 4864, 6528]
    with pytest.raises(ValueError, match="no whole number of tiles"):
        tiles_of(1601, 1601)


def test_images_and_image_tokens_must_agree() -> None:
    """A prompt with another number of image tokens than images has no layout."""
    with pytest.raises(ValueError, match=r"2 <\|image\|> tokens for 1 images"):
        lay_out([3, 4], [37])


def test_a_step_writes_what_its_requests_bring() -> None:
    """Two requests start in one step, between a text one and a decoding one."""
    starts = lay_out([2], [3])
    two_runs = lay_out([0, 5], [2, 1])
    rows = [
        Row(None, 0, 4),
        Row(starts, 0, 5, (Write("a", 0, 0, 3),)),
        Row(two_runs, 9, 1),
        Row(two_runs, 0, 6, (Write("b", 1, 1, 1), Write("c", 0, 128, 1))),
    ]
    plan = plan_step(rows)
    assert [write.image for write in plan.writes] == ["a", "b", "c"]
    assert plan.write_requests.tolist() == [1, 1, 1, 3, 3]
    assert plan.write_slots.tolist() == [0, 1, 2, 1, 128]
    assert plan.requests.tolist() == [0, 1, 1, 2, 3, 3]
    assert plan.query_lens.tolist() == [4, 2, 3, 1, 5, 1]
    assert plan.visible.tolist() == [0, 0, 3, 1, 2, 1]
    assert plan.firsts.tolist() == [0, 0, 0, 128, 0, 128]
    assert plan.sees_images


def test_a_text_step_sees_no_image() -> None:
    """Then the cross-attention layers are skipped."""
    assert not plan_step([Row(None, 0, 4), Row(None, 7, 1)]).sees_images
