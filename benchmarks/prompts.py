"""Prompts as token ids, and pictures of noise. Every seed gives others, so that no cache helps."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.checkpoint import BOS, MIDDLE, PAD, Shape

# Rows and columns of tiles that a picture of just this size is cut into.
_GRIDS = ((1, 1), (1, 2), (1, 3), (2, 2))


@dataclass(frozen=True)
class Prompt:
    """Token ids with one `<|image|>` per picture."""

    tokens: list[int]
    images: list[Image.Image]


def text(length: int, seed: int, shape: Shape = MIDDLE) -> Prompt:
    """`length` random tokens, the first of them BOS."""
    generator = random.Random(seed)
    words = (generator.randrange(PAD + 1, shape.vocabulary) for _ in range(length - 1))
    return Prompt([BOS, *words], [])


def pictured(length: int, tiles: int, seed: int, shape: Shape = MIDDLE) -> Prompt:
    """A picture of 1 to 4 tiles, then `length` random tokens."""
    words = text(length + 1, seed, shape).tokens[1:]
    return Prompt([BOS, shape.vocabulary, *words], [picture(tiles, seed, shape)])


def picture(tiles: int, seed: int, shape: Shape = MIDDLE) -> Image.Image:
    """Noise that fills `tiles` tiles."""
    rows, columns = _GRIDS[tiles - 1]
    size = (rows * shape.tile, columns * shape.tile, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


def mixed(count: int, seed: int) -> list[Prompt]:
    """`count` prompts with a picture each, tiles 1, 2, 3, 4 in turn, and 30 to 60 text tokens."""
    generator = random.Random(seed)
    return [
        pictured(generator.randint(30, 60), 1 + index % 4, seed * 1000 + index)
        for index in range(count)
    ]
