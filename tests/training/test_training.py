"""The trainer: a smoke run, the picture pipeline and the model against transformers' own."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import checkpoint, exam, model, pictures, prompt, train
from training.batches import IGNORED, Conversations
from training.reference import Reference

FOLDER = Path(__file__).parents[2] / "checkpoint"


def test_the_loss_falls_in_a_smoke_run(tmp_path: Path) -> None:
    losses = train.run(replace(train.Plan(), **train.SMOKE), tmp_path)
    assert losses[-1] < 0.75 * losses[0]
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


def _tensors(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pixels, ratio ids, tile mask) as training prepares a picture."""
    layout, (height, width) = pictures.fit(*image.size)
    resized = np.asarray(image.resize((width, height), Image.BILINEAR))
    tiles = torch.from_numpy(pictures.tiles(resized, layout))[None]
    mask = (torch.arange(pictures.MAX_TILES) < layout[0] * layout[1])[None]
    ratio = torch.tensor([pictures.ASPECT_RATIOS.index(layout) + 1])
    return model.normalise(tiles, mask, torch.float32), ratio, mask


@pytest.mark.parametrize("seed", range(4))
def test_tiles_and_logits_match_transformers(seed: int) -> None:
    reference = Reference(FOLDER)
    mine, _ = checkpoint.load(FOLDER)
    mine = mine.float()
    image = exam.sheet(random.Random(seed), 2).image()
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image"}]
    text = prompt.render([{"role": "user", "content": parts}], generate=True)
    given = reference.inputs(text, image)
    pixels, ratio, mask = _tensors(image)
    torch.testing.assert_close(pixels, given["pixel_values"][0], atol=1e-5, rtol=0)
    with torch.no_grad():
        seen = mine.see(pixels, ratio, mask)
        hidden, _ = mine.read(given["input_ids"], seen, mask)
        logits = mine.logits(hidden)[0]
    torch.testing.assert_close(logits, reference.logits(text, image), atol=1e-3, rtol=1e-3)


def test_only_what_the_assistant_says_is_learned() -> None:
    _, words = checkpoint.load(FOLDER)
    text = prompt.render(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "Goodbye!"},
        ]
    )
    labels = Conversations(words)([text], 128).labels[0]
    said = words.decode(labels[labels != IGNORED].tolist(), skip_special_tokens=False)
    assert said == "Hello!<|eot_id|>Goodbye!<|eot_id|>"


def test_shapes_lie_inside_and_every_one_is_marked() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = pictures.sample_scene(rng)
        assert min(scene.width, scene.height) >= 64
        assert max(scene.width, scene.height) <= min(1024, 4 * min(scene.width, scene.height))
        assert scene.background not in [shape.colour for shape in scene.shapes]
        assert pictures.patch_targets(scene).centre.sum() == len(scene.shapes)


def test_a_shape_named_after_the_picture_has_its_place() -> None:
    _, words = checkpoint.load(FOLDER)
    generator = np.random.default_rng(3)
    while True:
        scene = pictures.sample_scene(generator)
        if len({shape.kind for shape in scene.shapes}) == 2 and len(scene.shapes) == 2:
            break
    first, second = scene.shapes
    missing = next(name for name in pictures.SHAPES if name not in (first.name, second.name))
    asked = f"Is the {first.name} or a {missing} left of the {second.colour_name} {second.name}s?"
    said = f"The {second.colour_name} {second.name} is."
    text = f"a {second.name} <|image|>{asked} {said}"
    row = Conversations(words)([text], 64, [scene])
    named = ~row.named[0, :, 0].isnan()
    told = [words.decode([token]).strip() for token in row.ids[0, named].tolist()]
    assert told == [first.name, second.name]
    places = [(s.x / scene.width, s.y / scene.height) for s in (first, second)]
    torch.testing.assert_close(row.named[0, named], torch.tensor(places))
