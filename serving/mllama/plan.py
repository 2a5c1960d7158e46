"""Which rows of a step see which cross-attention slots. Pure: no vLLM, no device.

A *slot* is the place of one encoder token (a patch, or a tile's class token) in the
cross-attention KV of a request, numbered from 0 within the request. Images are laid out in prompt
order. Images at consecutive positions form a *run* and lie side by side, so that a row sees one
contiguous stretch of slots; every run starts at a multiple of `ALIGNMENT`, hence of a page of the
paged KV.

Visibility (Meta's `llama-models`, `multimodal/model.py`, and transformers'
`get_cross_attention_token_mask` agree on it): a row at or after image `i`, and before the next
image of another run, sees the run of `i` from its first image up to `i`. A row before the first
image sees nothing. Generated tokens keep the view of the prompt's last row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 128
"""Slots. A multiple of every page size in use (16, 32, 64, 128), which is the KV block size."""


def slots_for(tiles: int, tile_tokens: int) -> int:
    """Slots to reserve for an image of `tiles` tiles with `tile_tokens` encoder tokens each.

    Strictly growing in `tiles`, so that `tiles_of` can undo it, also for tiles smaller than
    `ALIGNMENT`. At least what the image needs wherever its run starts.
    """
    return tiles * ALIGNMENT if tile_tokens < ALIGNMENT else align(tiles * tile_tokens)


def tiles_of(slots: int, tile_tokens: int) -> int:
    """The number of tiles for which `slots_for` gives `slots`.

    Raises:
        ValueError: `slots` is no such number.
    """
    tiles = slots // max(tile_tokens, ALIGNMENT)
    if tiles < 1 or slots_for(tiles, tile_tokens) != slots:
        raise ValueError(f"{slots} slots hold no whole number of tiles of {tile_tokens} tokens")
    return tiles


def align(slots: int) -> int:
    """Round up to a multiple of `ALIGNMENT`."""
    return -(-slots // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the images of one request lie. Parallel tuples, one entry an image, in prompt order."""

    positions: tuple[int, ...]
    """Position of each `<|image|>` token in the prompt, ascending."""
    lengths: tuple[int, ...]
    """Encoder tokens of each image."""
    firsts: tuple[int, ...]
    """First slot of each image."""
    runs: tuple[int, ...]
    """First slot of the run each image belongs to."""


def lay_out(positions: Sequence[int], lengths: Sequence[int]) -> Layout:
    """Place images whose `<|image|>` tokens are at `positions`, with `lengths` encoder tokens.

    Raises:
        ValueError: there are not as many positions as lengths.
    """
    if len(positions) != len(lengths):
        raise ValueError(f"{len(positions)} <|image|> tokens for {len(lengths)} images")
    firsts: list[int] = []
    runs: list[int] = []
    end = 0
    for index, (position, length) in enumerate(zip(positions, lengths, strict=True)):
        continues = index > 0 and position == positions[index - 1] + 1
        runs.append(runs[-1] if continues else align(end))
        firsts.append(end if continues else runs[-1])
        end = firsts[-1] + length
    return Layout(tuple(positions), tuple(lengths), tuple(firsts), tuple(runs))


def layout_of(
    prompt: Sequence[int], image_token: int, slots: Sequence[int], tile_tokens: int
) -> Layout:
    """The layout of a prompt's images from its token ids and the slots reserved for each.

    Raises:
        ValueError: the image tokens or the slots fit no images of `tile_tokens` tokens a tile.
    """
    positions = [position for position, token in enumerate(prompt) if token == image_token]
    return lay_out(positions, [tiles_of(each, tile_tokens) * tile_tokens for each in slots])


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one request that see the same slots. `visible` 0: they see nothing."""

    rows: int
    first: int
    visible: int


def segments(layout: Layout | None, start: int, count: int) -> list[Segment]:
    """Cut the rows at positions `[start, start + count)` where their view changes."""
    if layout is None or count == 0:
        return [Segment(count, 0, 0)]
    cuts = [p for p in layout.positions if start < p < start + count]
    edges = [start, *cuts, start + count]
    return [Segment(end - begin, *_view(layout, begin)) for begin, end in pairwise(edges)]


def first_needed(layout: Layout, computed: int) -> int:
    """The first slot that any row at position `computed` or later can see."""
    return _view(layout, computed)[0]


def _view(layout: Layout, position: int) -> tuple[int, int]:
    """First slot and number of slots that the row at `position` sees."""
    image = bisect_right(layout.positions, position) - 1
    if image < 0:
        return 0, 0
    first = layout.runs[image]
    return first, layout.firsts[image] + layout.lengths[image] - first


@dataclass(frozen=True, slots=True)
class Write:
    """Consecutive encoder tokens of an image on their way into the slots of a request."""

    image: str
    """The image's name, under which the runner keeps its encoder output."""
    token: int
    """First of the image's encoder tokens to write."""
    slot: int
    """Slot that receives it; the others follow."""
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a step: `scheduled` tokens after the `computed` ones. Text only: no layout."""

    layout: Layout | None
    computed: int
    scheduled: int
    writes: tuple[Write, ...] = ()
    """What the step stores for the request: in the first one that no other request has stored."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the cross-attention layers do in one step, as arrays of S segments and W writes."""

    requests: NDArray[np.int32]
    """(S,) row of the batch each segment belongs to."""
    query_lens: NDArray[np.int32]
    """(S,) token rows of each segment; they add up to the step's tokens."""
    firsts: NDArray[np.int32]
    """(S,) first visible slot, a multiple of `ALIGNMENT`."""
    visible: NDArray[np.int32]
    """(S,) visible slots; 0 for segments that see nothing."""
    writes: tuple[Write, ...]
    """What is stored, in batch order; W encoder tokens in all."""
    write_requests: NDArray[np.int32]
    """(W,) row of the batch whose KV receives each encoder token, in the order of `writes`."""
    write_slots: NDArray[np.int32]
    """(W,) slot that receives each encoder token."""

    @property
    def sees_images(self) -> bool:
        """Whether any row of the step sees an image; if not, the layers are identities."""
        return bool(self.visible.any())


def plan_step(rows: Sequence[Row]) -> StepPlan:
    """Plan one step. `rows`: the requests in batch order."""
    cut = [
        (index, segment)
        for index, row in enumerate(rows)
        for segment in segments(row.layout, row.computed, row.scheduled)
    ]
    return StepPlan(
        requests=np.array([index for index, _ in cut], dtype=np.int32),
        query_lens=np.array([segment.rows for _, segment in cut], dtype=np.int32),
        firsts=np.array([segment.first for _, segment in cut], dtype=np.int32),
        visible=np.array([segment.visible for _, segment in cut], dtype=np.int32),
        writes=tuple(write for row in rows for write in row.writes),
        write_requests=_joined([np.full(_count(row), i) for i, row in enumerate(rows)]),
        write_slots=_joined(
            [np.arange(w.slot, w.slot + w.count) for row in rows for w in row.writes]
        ),
    )


def _count(row: Row) -> int:
    return sum(write.count for write in row.writes)


def _joined(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *arrays]).astype(np.int32)


TEXT_ONLY = plan_step([])
"""The plan of a step whose requests have no images: nothing to see, so no rows to tell apart."""
