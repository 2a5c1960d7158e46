"""Batches for training: tokenised conversations with, for a part of them, the picture's tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training import samples
from training.pictures import ASPECT_RATIOS, draw, fit, patch_targets, sample_scene, tiles

IGNORED = -100
ABOUT_LENGTH, TALK_LENGTH = 224, 416  # tokens; few conversations are longer


@dataclass
class Text:
    """ids, labels: (B, T); labels are the next token where an assistant speaks, else IGNORED."""

    ids: Tensor
    labels: Tensor


@dataclass
class Pictures:
    """tiles: uint8 (B, tiles, TILE, TILE, 3); ratio_ids: (B,); tile_mask: (B, tiles) bool.

    shape, colour, centre, place: the patch targets of `pictures.PatchTargets`, batched.
    """

    tiles: Tensor
    ratio_ids: Tensor
    tile_mask: Tensor
    shape: Tensor
    colour: Tensor
    centre: Tensor
    place: Tensor


@dataclass
class Batch:
    pictures: Pictures
    about: Text  # one conversation to a picture
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
        header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
        self.header = tokenizer.encode(header, add_special_tokens=False).ids

    def __call__(self, texts: list[str], length: int) -> Text:
        """Pad to `length` tokens or cut off there: compiled code likes one shape."""
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        rows = [np.array(e.ids[:length]) for e in encoded]
        ids = np.full((len(rows), length), self.pad)
        labels = np.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            labels[index, : len(row)] = spoken(row, self.header, self.end)
        return Text(torch.from_numpy(ids), torch.from_numpy(labels))


def picture_batch(rng: np.random.Generator, scenes: list) -> Pictures:
    layouts = [fit(scene.width, scene.height)[0] for scene in scenes]
    stack = np.stack(
        [tiles(draw(s, rng), layout) for s, layout in zip(scenes, layouts, strict=True)]
    )
    targets = [patch_targets(scene) for scene in scenes]
    used = np.array([rows * columns for rows, columns in layouts])
    return Pictures(
        tiles=torch.from_numpy(stack),
        ratio_ids=torch.tensor([ASPECT_RATIOS.index(layout) + 1 for layout in layouts]),
        tile_mask=torch.from_numpy(np.arange(4) < used[:, None]),
        shape=torch.from_numpy(np.stack([t.shape for t in targets])),
        colour=torch.from_numpy(np.stack([t.colour for t in targets])),
        centre=torch.from_numpy(np.stack([t.centre for t in targets])),
        place=torch.from_numpy(np.stack([t.place for t in targets])),
    )


def batch(
    rng: np.random.Generator, conversations: Conversations, pictures: int, talks: int
) -> Batch:
    scenes = [sample_scene(rng) for _ in range(pictures)]
    turns = rng.choice([1, 5, 6, 7, 8], p=[0.06, 0.1, 0.2, 0.32, 0.32], size=pictures)
    about = [samples.about(s, rng, int(n)) for s, n in zip(scenes, turns, strict=True)]
    return Batch(
        pictures=picture_batch(rng, scenes),
        about=conversations(about, ABOUT_LENGTH),
        talk=conversations([samples.talk(rng) for _ in range(talks)], TALK_LENGTH),
    )


class Stream(IterableDataset):
    """An endless stream of batches, another one for every worker and seed."""

    def __init__(self, tokenizer: Tokenizer, pictures: int, talks: int, seed: int) -> None:
        self.conversations = Conversations(tokenizer)
        self.pictures, self.talks, self.seed = pictures, talks, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield batch(rng, self.conversations, self.pictures, self.talks)


def stream(
    tokenizer: Tokenizer, pictures: int, talks: int, seed: int, workers: int = 1
) -> Iterator[Batch]:
    source = Stream(tokenizer, pictures, talks, seed)
    loader = DataLoader(
        source, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None
    )
    return iter(loader)
