"""Prompts with images for the parity tests, made of random words and noise."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.mllama.checkpoints import BOS, IMAGE, PAD, VOCABULARY


@dataclass(frozen=True)
class Prompt:
    """Token ids with one image token an image, and the images."""

    tokens: list[int]
    images: list[Image.Image]

    def for_vllm(self) -> dict[str, object]:
        """As vLLM takes it."""
        data = {"multi_modal_data": {"image": self.images}} if self.images else {}
        return {"prompt_token_ids": self.tokens, **data}


def picture(tiles: tuple[int, int], tile: int, seed: int) -> Image.Image:
    """Noise of `tiles` (rows, columns), a little smaller than they are, so that they are padded."""
    rows, columns = tiles
    shape = (rows * tile - 5, columns * tile - 3, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def compose(name: str, tile: int, *pieces: int | tuple[int, int]) -> Prompt:
    """A prompt of a BOS and pieces: a number is that many words, a pair an image of those tiles.

    A leading image stands before the BOS, as in Meta's own examples for the base model.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tokens: list[int] = [] if isinstance(pieces[0], tuple) else [BOS]
    images: list[Image.Image] = []
    for piece in pieces:
        if isinstance(piece, tuple):
            tokens.append(IMAGE)
            images.append(picture(piece, tile, int(rng.integers(1 << 30))))
            if len(tokens) == 1:
                tokens.append(BOS)
        else:
            tokens += rng.integers(PAD + 1, VOCABULARY, piece).tolist()
    return Prompt(tokens, images)


LAYOUTS: dict[str, tuple[int | tuple[int, int], ...]] = {
    "text": (20,),
    "text longer than blocks": (150,),
    "one tile leading": ((1, 1), 12),
    "two tiles leading": ((1, 2), 12),
    "four tiles leading": ((2, 2), 12),
    "one tile after text": (9, (1, 1), 15),
    "four tiles after text": (9, (2, 2), 15),
    "tall tiles after long text": (70, (4, 1), 40),
    "two leading": ((1, 1), (2, 2), 10),
    "two consecutive": (7, (1, 2), (1, 1), 11),
    "two interleaved": (7, (1, 1), 9, (2, 2), 11),
    "three, two of them consecutive": (5, (1, 1), 40, (2, 2), (1, 2), 30),
    "ends with its image": (30, (2, 1)),
}


def prompts(tile: int, max_tiles: int = 4) -> dict[str, Prompt]:
    """All layouts whose images fit `max_tiles` tiles."""
    return {
        name: compose(name, tile, *pieces)
        for name, pieces in LAYOUTS.items()
        if all(p[0] * p[1] <= max_tiles for p in pieces if isinstance(p, tuple))
    }
