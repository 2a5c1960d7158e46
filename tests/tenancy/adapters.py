"""Adapters' files, made byte by byte: safetensors and PEFT's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.adapters.targets import Targets

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
PREFIX = "base_model.model.model.language_model."

Arrays = Mapping[str, np.ndarray]


def config(**changes: Any) -> bytes:
    """`adapter_config.json`."""
    return json.dumps(CONFIG | changes).encode()


def arrays(
    targets: Targets, modules: list[str], rank: int = 4, loud: float = 0.0, seed: int = 0
) -> dict[str, np.ndarray]:
    """A and B of the modules; with `loud` 0 they add nothing."""
    chance, made = np.random.default_rng(seed), {}
    for module in modules:
        outputs, inputs = targets[module]
        for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            noise = chance.normal(0, loud or 1e-9, shape).astype(np.float32)
            made[f"{PREFIX}{module}.lora_{half}.weight"] = noise
    return made


def file(tensors: Arrays, **header: Any) -> bytes:
    """`adapter_model.safetensors`; `header` adds to or replaces what it says."""
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, data = 0, b""
    for name, array in tensors.items():
        data += array.tobytes()
        said[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, len(data)]}
        end = len(data)
    text = json.dumps(said | header).encode()
    return len(text).to_bytes(8, "little") + text + data
