"""What blocks hold: equal keys mean equal content, and writes fill exactly what is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.mllama.content import block_keys, writes
from serving.mllama.plan import Layout, lay_out, segments

SIZE = 32
TOKENS_A_TILE = 37


@st.composite
def requests(draw: st.DrawFn) -> tuple[Layout, list[str]]:
    """Where images lie, some side by side, and their names; a name also tells the tiles."""
    names = draw(st.lists(st.sampled_from(["a1", "b1", "c2", "d4"]), min_size=1, max_size=5))
    gaps = draw(st.lists(st.sampled_from([1, 1, 7]), min_size=len(names), max_size=len(names)))
    positions = [sum(gaps[: index + 1]) for index in range(len(names))]
    return lay_out(positions, [int(name[1]) * TOKENS_A_TILE for name in names]), names


def keys_of(layout: Layout, names: list[str], computed: int = 0) -> list[bytes | None]:
    """The keys of a request's blocks."""
    return block_keys(layout, [name.encode() for name in names], SIZE, computed)


def contents(layout: Layout, names: list[str]) -> dict[int, tuple[str, int]]:
    """The image and the token of it in each slot."""
    return {
        first + token: (name, token)
        for name, first, length in zip(names, layout.firsts, layout.lengths, strict=True)
        for token in range(length)
    }


def held(layout: Layout, names: list[str], block: int) -> list[tuple[str, int] | None]:
    """What a block holds, slot by slot."""
    slots = contents(layout, names)
    return [slots.get(slot) for slot in range(block * SIZE, (block + 1) * SIZE)]


@given(requests(), requests())
def test_blocks_of_the_same_key_hold_the_same(one, other) -> None:
    """In any two requests, and the other way round: what is the same has the same key."""
    for block, key in enumerate(keys_of(*one)):
        for second, its in enumerate(keys_of(*other)):
            if key and its:
                assert (key == its) == (held(*one, block) == held(*other, second))
        assert (key is None) == (set(held(*one, block)) == {None})


@given(requests(), st.sets(st.integers(0, 20)))
def test_writes_fill_the_missing_blocks_and_no_others(request_, missing) -> None:
    """Every encoder token in them, once, from its own place in its image."""
    layout, names = request_
    filled: dict[int, tuple[str, int]] = {}
    for write in writes(layout, names, SIZE, missing):
        for index in range(write.count):
            assert write.slot + index not in filled
            filled[write.slot + index] = (write.image, write.token + index)
    wanted = contents(layout, names).items()
    assert filled == {slot: what for slot, what in wanted if slot // SIZE in missing}


@given(requests(), st.integers(0, 40))
def test_only_what_no_later_row_sees_is_left_out(request_, computed) -> None:
    """With `computed` tokens cached, all that the rows from there on see has a key."""
    layout, names = request_
    keys = keys_of(layout, names, computed)
    for segment in segments(layout, computed, 60):
        for slot in range(segment.first, segment.first + segment.visible):
            assert keys[slot // SIZE] is not None
