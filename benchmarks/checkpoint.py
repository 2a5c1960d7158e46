"""Random Mllama checkpoints, and the plain Llama inside one.

The middle size has the published model's proportions at about 1 % of its parameters: as many vision
layers as text layers, a tower a third as wide as the decoder, a cross-attention layer in every
five, four tiles. Gates are open, as a closed gate would make the pictures free of effect.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, MllamaConfig, MllamaForConditionalGeneration
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

BOS, EOS, PAD = 1, 2, 3
_GATE = 0.9
_SCALE = 0.05
SHIPPED = Path(__file__).parent.parent / "checkpoint"
_MARKS = ("<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. Head width is `hidden / heads`; pictures are `tile` pixels a side."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    cross: tuple[int, ...]
    heads: int
    kv_heads: int
    vision_hidden: int
    vision_layers: int
    tile: int
    patch: int = 14
    max_tiles: int = 4


MIDDLE = Shape(
    vocabulary=32_000,
    hidden=768,
    feed_forward=2048,
    layers=10,
    cross=(3, 8),
    heads=12,
    kv_heads=4,
    vision_hidden=256,
    vision_layers=8,
    tile=224,
)
# For front ends: so small that the engine leaves them something to do.
TINY = Shape(
    vocabulary=1024,
    hidden=256,
    feed_forward=512,
    layers=5,
    cross=(3,),
    heads=4,
    kv_heads=2,
    vision_hidden=64,
    vision_layers=4,
    tile=84,
)


def middle(folder: Path) -> Path:
    """Write the middle checkpoint, bfloat16."""
    return numbered(MIDDLE, folder)


def numbered(shape: Shape, folder: Path) -> Path:
    """Write a checkpoint of any shape, bfloat16, with words `t0`, `t1`... for the ids."""
    _save(_model(shape, BOS, EOS, PAD), shape, folder)
    _numbered_words(shape.vocabulary).save_pretrained(folder)
    return folder


def tiny(folder: Path, shape: Shape = TINY) -> Path:
    """Write the tiny checkpoint, with the shipped tokenizer and chat template.

    The greedy choice is always a token of plain ASCII text: every answer runs to its length limit,
    and every token is a piece of text to send.
    """
    words = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    begin, end, pad = map(words.token_to_id, _MARKS)
    model = _model(shape, begin, end, pad)
    silent = [token for token in range(shape.vocabulary) if not _is_plain(words, token)]
    with torch.no_grad():
        model.lm_head.weight[silent] = 0.0
    _save(model, shape, folder)
    for name in _TOKENIZER_FILES:
        shutil.copy(SHIPPED / name, folder / name)
    return folder


def _is_plain(words: Tokenizer, token: int) -> bool:
    """Whether the token decodes to printable ASCII by itself."""
    text = words.decode([token], skip_special_tokens=True)
    return bool(text) and text.isascii() and text.isprintable()


def _model(shape: Shape, bos: int, eos: int, pad: int) -> MllamaForConditionalGeneration:
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(_configuration(shape, bos, eos, pad))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(_GATE)
            elif parameter.ndim > 1:
                parameter.normal_(0.0, _SCALE)
    return model


def _configuration(shape: Shape, bos: int, eos: int, pad: int) -> MllamaConfig:
    text = MllamaTextConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        cross_attention_layers=list(shape.cross),
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    # As published: five intermediate features beside the final one, of a deeper tower.
    kept = sorted({shape.vision_layers * part // 5 for part in range(5)})
    tiles = range(1, shape.max_tiles + 1)
    vision = MllamaVisionConfig(
        hidden_size=shape.vision_hidden,
        intermediate_size=4 * shape.vision_hidden,
        attention_heads=shape.vision_hidden // 32,
        num_hidden_layers=shape.vision_layers,
        num_global_layers=2,
        image_size=shape.tile,
        patch_size=shape.patch,
        max_num_tiles=shape.max_tiles,
        intermediate_layers_indices=kept,
        vision_output_dim=shape.vision_hidden * (1 + len(kept)),
        supported_aspect_ratios=[[h, w] for h in tiles for w in tiles if h * w <= shape.max_tiles],
    )
    config = MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=shape.vocabulary
    )
    config.architectures = ["MllamaForConditionalGeneration"]
    return config


def _save(model: MllamaForConditionalGeneration, shape: Shape, folder: Path) -> None:
    text = model.config.text_config
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    MllamaImageProcessorPil(
        size={"height": shape.tile, "width": shape.tile}, max_image_tiles=shape.max_tiles
    ).save_pretrained(folder)


def _numbered_words(vocabulary: int) -> FastTokenizer:
    words = {f"t{index}": index for index in range(vocabulary)} | {"<|image|>": vocabulary}
    inner = Tokenizer(models.WordLevel(words, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return FastTokenizer(tokenizer_object=inner, bos_token="t1", eos_token="t2", pad_token="t3")


def without_cross_layers(mllama: Path, folder: Path) -> Path:
    """Write the text weights of a Mllama checkpoint as a `LlamaForCausalLM` checkpoint.

    What text-only requests compute is exactly this model: the cross layers are left out and the
    others numbered anew, and so are the embeddings of `<|image|>` and its seven spare neighbours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = MllamaConfig.from_pretrained(mllama).text_config
    kept = [i for i in range(text.num_hidden_layers) if i not in text.cross_attention_layers]
    tensors = {}
    for name, tensor in load_file(mllama / "model.safetensors").items():
        if (new := _llama_name(name, kept)) is not None:
            rows = text.vocab_size if new == "model.embed_tokens.weight" else len(tensor)
            tensors[new] = tensor[:rows].contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = LlamaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=len(kept),
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        max_position_embeddings=text.max_position_embeddings,
        rope_parameters=text.rope_parameters,
        rms_norm_eps=text.rms_norm_eps,
        tie_word_embeddings=False,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": text.eos_token_id}))
    for file in mllama.glob("*token*.json"):
        shutil.copy(file, folder / file.name)
    return folder


def _llama_name(name: str, kept: list[int]) -> str | None:
    """The name of a published Mllama tensor in a Llama of the `kept` layers; None: not in it."""
    if not name.startswith("language_model."):
        return None
    name = name.removeprefix("language_model.")
    if not name.startswith("model.layers."):
        return name
    index, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"model.layers.{kept.index(int(index))}.{rest}" if int(index) in kept else None


def parameters(folder: Path) -> int:
    """How many numbers the checkpoint's weights are."""
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
