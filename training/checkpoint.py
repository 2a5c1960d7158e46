"""Writing the model in the layout of the published checkpoint, and reading it back."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import MllamaConfig

from training import prompt, tokenizer
from training.model import MEAN, STD, Mllama
from training.pictures import MAX_TILES, TILE

_PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_processor_type": "MllamaImageProcessor",
    "image_std": list(STD),
    "max_image_tiles": MAX_TILES,
    "processor_class": "MllamaProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": TILE, "width": TILE},
}


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def save(
    weights: dict[str, torch.Tensor], config: MllamaConfig, words: Tokenizer, folder: Path
) -> None:
    """Everything but the model card: bfloat16 weights, configurations, tokenizer, template."""
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["MllamaForConditionalGeneration"]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    text = config.text_config
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "pad_token_id": text.pad_token_id,
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
        },
    )
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    tokenizer.save(words, folder)
    shutil.copy(prompt.TEMPLATE, folder / "chat_template.jinja")
    compact = {name: value.detach().to(torch.bfloat16) for name, value in weights.items()}
    partial = folder / "model.safetensors.partial"
    save_file({k: v.contiguous().clone() for k, v in compact.items()}, partial, {"format": "pt"})
    partial.replace(folder / "model.safetensors")


def load(folder: Path) -> tuple[Mllama, Tokenizer]:
    """The trainer's own model (bfloat16) and tokenizer from a checkpoint folder."""
    model = Mllama(MllamaConfig.from_pretrained(folder))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.bfloat16().eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
