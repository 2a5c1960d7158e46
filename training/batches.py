"""Batches for training: tokenised conversations with, for a part of them, the picture's tiles."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training import samples
from training.mentions import mentions
from training.pictures import (
    ASPECT_RATIOS,
    MAX_TILES,
    TILE,
    PatchTargets,
    Scene,
    draw,
    fit,
    patch_targets,
    sample_scene,
    sample_tile,
    tiles,
)

IGNORED = -100
ABOUT_LENGTH, TALK_LENGTH = 224, 384  # tokens; few conversations are longer


@dataclass
class Text:
    """ids, labels: (B, T); labels are the next token where an assistant speaks, else IGNORED.

    named: (B, T, 2) where a token ends the name of a shape after its picture: across and down of
    the shape's centre, from 0 to 1; NaN elsewhere.
    """

    ids: Tensor
    labels: Tensor
    named: Tensor | None = None


@dataclass
class Pictures:
    """tiles: uint8 (B, tiles, TILE, TILE, 3); ratio_ids: (B,); tile_mask: (B, tiles) bool.

    shape, colour, centre, place, mask, count: `pictures.PatchTargets`, batched.
    """

    tiles: Tensor
    ratio_ids: Tensor
    tile_mask: Tensor
    shape: Tensor
    colour: Tensor
    centre: Tensor
    place: Tensor
    mask: Tensor
    count: Tensor


@dataclass
class Batch:
    """`about` has one conversation to a picture; None where every tile is a picture by itself."""

    pictures: Pictures
    about: Text | None
    talk: Text


def spoken(ids: np.ndarray, header: list[int], end: int) -> np.ndarray:
    """Labels of one conversation: what the assistant says, up to and including the end of turn."""
    labels = np.full(len(ids), IGNORED, np.int64)
    width = len(header)
    for start in np.flatnonzero(ids == header[1]):
        if list(ids[start - 1 : start - 1 + width]) != header:
            continue
        first = start - 1 + width
        ends = np.flatnonzero(ids[first:] == end)
        last = first + int(ends[0]) if len(ends) else len(ids) - 1
        labels[first - 1 : last] = ids[first : last + 1]
    return labels


class Conversations:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id("<|eot_id|>")
        self.pad = tokenizer.token_to_id("<|finetune_right_pad_id|>")
        self.image = tokenizer.token_to_id("<|image|>")
        header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
        self.header = tokenizer.encode(header, add_special_tokens=False).ids

    def __call__(self, texts: list[str], length: int, scenes: list[Scene] | None = None) -> Text:
        """Pad to `length` tokens or cut off there: compiled code likes one shape."""
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        rows = [np.array(e.ids[:length]) for e in encoded]
        ids = np.full((len(rows), length), self.pad)
        labels = np.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            labels[index, : len(row)] = spoken(row, self.header, self.end)
        text = Text(torch.from_numpy(ids), torch.from_numpy(labels))
        if scenes:
            named = np.full((*ids.shape, 2), np.nan, np.float32)
            for index, scene in enumerate(scenes):
                picture = int(np.argmax(ids[index] == self.image))
                for end, across, down in mentions(texts[index], scene):
                    token = encoded[index].char_to_token(end)
                    if picture < token < length:
                        named[index, token] = across, down
            text.named = torch.from_numpy(named)
        return text


def _stacked(
    stack: np.ndarray, layouts: list[tuple[int, int]], targets: list[PatchTargets]
) -> Pictures:
    used = np.array([rows * columns for rows, columns in layouts])
    return Pictures(
        tiles=torch.from_numpy(stack),
        ratio_ids=torch.tensor([ASPECT_RATIOS.index(layout) + 1 for layout in layouts]),
        tile_mask=torch.from_numpy(np.arange(MAX_TILES) < used[:, None]),
        **{
            name: torch.from_numpy(np.stack([getattr(t, name) for t in targets]))
            for name in ("shape", "colour", "centre", "place", "mask", "count")
        },
    )


def whole_pictures(rng: np.random.Generator, scenes: list[Scene]) -> Pictures:
    layouts = [fit(scene.width, scene.height)[0] for scene in scenes]
    stack = [tiles(draw(s, rng), layout) for s, layout in zip(scenes, layouts, strict=True)]
    return _stacked(np.stack(stack), layouts, [patch_targets(scene) for scene in scenes])


def single_tiles(rng: np.random.Generator, count: int) -> Pictures:
    """`count` times MAX_TILES pictures of one tile each, on canvases that hold as many tiles."""
    full = [ratio for ratio in ASPECT_RATIOS if ratio[0] * ratio[1] == MAX_TILES]
    layouts = [full[int(rng.integers(len(full)))] for _ in range(count)]
    scenes = [sample_tile(rng) for _ in range(count * MAX_TILES)]
    drawn = np.stack([draw(scene, rng) for scene in scenes])
    single = [patch_targets(scene) for scene in scenes]
    joined = [
        PatchTargets(
            **{
                field.name: np.stack([getattr(t, field.name)[0] for t in group])
                for field in fields(PatchTargets)
            }
        )
        for group in (single[i : i + MAX_TILES] for i in range(0, len(single), MAX_TILES))
    ]
    return _stacked(drawn.reshape(count, MAX_TILES, TILE, TILE, 3), layouts, joined)


class Stream(IterableDataset):
    """An endless stream of batches, another one for every worker and seed."""

    def __init__(
        self, tokenizer: Tokenizer, pictures: int, talks: int, seed: int, single: bool
    ) -> None:
        self.conversations = Conversations(tokenizer)
        self.pictures, self.talks, self.seed, self.single = pictures, talks, seed, single

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield self.batch(rng)

    def batch(self, rng: np.random.Generator) -> Batch:
        talk = self.conversations([samples.talk(rng) for _ in range(self.talks)], TALK_LENGTH)
        if self.single:
            return Batch(single_tiles(rng, self.pictures), None, talk)
        scenes = [sample_scene(rng) for _ in range(self.pictures)]
        turns = rng.choice([1, 5, 6, 7, 8], p=[0.06, 0.1, 0.2, 0.32, 0.32], size=self.pictures)
        about = [samples.about(s, rng, int(n)) for s, n in zip(scenes, turns, strict=True)]
        text = self.conversations(about, ABOUT_LENGTH, scenes)
        return Batch(whole_pictures(rng, scenes), text, talk)


def stream(
    tokenizer: Tokenizer, pictures: int, talks: int, seed: int, workers: int, single: bool
) -> Iterator[Batch]:
    """Batches of `pictures` canvases, `single` tiles or whole pictures, and `talks` texts."""
    source = Stream(tokenizer, pictures, talks, seed, single)
    loader = DataLoader(
        source, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None
    )
    return iter(loader)
