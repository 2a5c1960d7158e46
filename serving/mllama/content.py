"""What the blocks of cross-attention KV hold, so that requests with an image share them. Pure.

Keys and values of an encoder token depend on the image alone: not on the text around it, nor on
where it stands. So a block is known by the images that lie in it and by where each begins, counted
from the block's own start. The same image in another prompt, or later in the same one, has the same
blocks; in a run, where images lie side by side, so have those up to the first that differs.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from serving.mllama.plan import Layout, Write, first_needed

_OFFSET_BYTES = 8


def block_keys(
    layout: Layout, digests: Sequence[bytes], block_size: int, computed: int
) -> list[bytes | None]:
    """The content of each block of a request; None for blocks that nobody reads.

    Nobody reads what lies between runs, and the images of runs that no row from position `computed`
    on can see. Equal keys mean equal content: a key spells out the images, it does not hash them.

    Args:
        layout: where the images lie.
        digests: of each image, all of one length; equal ones mean equal keys and values.
        block_size: slots in a block.
        computed: tokens of the request whose rows are in the prefix cache.
    """
    end = layout.firsts[-1] + layout.lengths[-1]
    keys = [b""] * -(-end // block_size)
    for digest, first, length in zip(digests, layout.firsts, layout.lengths, strict=True):
        for block in range(first // block_size, -(-(first + length) // block_size)):
            offset = first - block * block_size
            keys[block] += digest + offset.to_bytes(_OFFSET_BYTES, "big", signed=True)
    unseen = first_needed(layout, computed) // block_size
    return [key if key and block >= unseen else None for block, key in enumerate(keys)]


def writes(
    layout: Layout, names: Sequence[str], block_size: int, missing: Set[int]
) -> tuple[Write, ...]:
    """What must be stored to fill the `missing` blocks of a request, image by image.

    `names`: of the images, under which their encoder outputs are kept.
    """
    return tuple(
        Write(name, begin - first, begin, end - begin)
        for name, first, length in zip(names, layout.firsts, layout.lengths, strict=True)
        for begin, end in _stretches(first, first + length, block_size, missing)
    )


def _stretches(first: int, end: int, block_size: int, missing: Set[int]) -> list[tuple[int, int]]:
    """The parts of slots [first, end) that lie in missing blocks, neighbours joined."""
    parts: list[tuple[int, int]] = []
    for block in range(first // block_size, -(-end // block_size)):
        if block not in missing:
            continue
        begin, stop = max(first, block * block_size), min(end, (block + 1) * block_size)
        if parts and parts[-1][1] == begin:
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((begin, stop))
    return parts
