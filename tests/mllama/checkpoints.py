"""Random Mllama checkpoints: small, every gate open, several shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

VOCABULARY = 320
IMAGE = VOCABULARY
BOS, EOS, PAD = 1, 2, 3


@dataclass(frozen=True)
class Shape:
    """What varies between the checkpoints of the parity tests."""

    hidden: int = 128
    layers: int = 6
    cross: tuple[int, ...] = (1, 4)
    heads: int = 4
    kv_heads: int = 2
    tile: int = 84
    patch: int = 14
    max_tiles: int = 4
    vision_layers: int = 4
    intermediate: tuple[int, ...] = (1, 3)


SHAPES = {
    "gqa2": Shape(),
    # As published: every fifth layer, GQA 4, many patches a tile.
    "gqa4": Shape(hidden=256, layers=5, cross=(3,), heads=8, kv_heads=2, tile=168),
    # No grouping, neighbouring cross layers, two tiles at most.
    "mha": Shape(layers=7, cross=(2, 3, 5), heads=4, kv_heads=4, max_tiles=2, tile=56),
}


def configuration(shape: Shape) -> MllamaConfig:
    """A Mllama configuration of this shape."""
    text = MllamaTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        cross_attention_layers=list(shape.cross),
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    vision = MllamaVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        attention_heads=4,
        num_hidden_layers=shape.vision_layers,
        num_global_layers=2,
        image_size=shape.tile,
        patch_size=shape.patch,
        max_num_tiles=shape.max_tiles,
        intermediate_layers_indices=list(shape.intermediate),
        vision_output_dim=64 * (1 + len(shape.intermediate)),
        supported_aspect_ratios=[
            [h, w]
            for h in range(1, shape.max_tiles + 1)
            for w in range(1, shape.max_tiles + 1)
            if h * w <= shape.max_tiles
        ],
    )
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    config.architectures = ["MllamaForConditionalGeneration"]
    return config


def save(folder: Path, shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint with random weights and gates at 0.9; returns its folder."""
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(configuration(shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(0.9)
            elif parameter.ndim > 1:
                # Louder than transformers' 0.02, or the images would hardly move the logits.
                parameter.normal_(0.0, 0.08)
    model.generation_config.eos_token_id = EOS
    model.to(dtype).save_pretrained(folder)
    processor = MllamaImageProcessorPil(
        size={"height": shape.tile, "width": shape.tile}, max_image_tiles=shape.max_tiles
    )
    processor.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """Words `t0`, `t1`... for the ids; vLLM wants a tokenizer, the tests speak in ids."""
    words = {f"t{index}": index for index in range(VOCABULARY)} | {"<|image|>": IMAGE}
    words["<bos>"], words["<eos>"], words["<pad>"] = BOS, EOS, PAD
    inner = Tokenizer(models.WordLevel(words, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
