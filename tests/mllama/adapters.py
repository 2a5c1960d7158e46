"""Random LoRA adapters, in files as PEFT writes them, and merged into the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.mllama.checkpoints import Shape
from tests.mllama.reference import Reference

RANK, ALPHA = 4, 8
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def modules(shape: Shape) -> list[str]:
    """Everything that takes an adapter, cross layers' feed-forward included, by in-memory name."""
    return [
        f"model.language_model.layers.{index}.{module}"
        for index in range(shape.layers)
        for module in (MLP if index in shape.cross else ATTENTION + MLP)
    ]


def pairs(reference: Reference, names: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Random A and B for these modules, loud enough to change what is said."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in names:
        outputs, inputs = reference.model.get_submodule(name).weight.shape
        for half, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
            noise = torch.randn(shape, generator=generator)
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = noise * 0.12
    return tensors


def write(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """The adapter's two files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    return folder


def merge(reference: Reference, tensors: dict[str, torch.Tensor]) -> None:
    """Add B A alpha / r to the reference's weights."""
    for name, a in tensors.items():
        if ".lora_A." in name:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            module = name.removeprefix("base_model.model.").split(".lora_")[0]
            with torch.no_grad():
                reference.model.get_submodule(module).weight += b @ a * (ALPHA / RANK)
