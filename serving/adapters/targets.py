"""The modules of Llama 3.2 Vision that take adapters, and the shapes of their weights.

Self-attention and feed-forward of the language model. Not cross-attention: keys and values are
computed once per picture, over tokens that belong to no row of a batch. Not the vision tower.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.errors import InvalidAdapter

Targets = Mapping[str, tuple[int, int]]
"""`layers.0.mlp.up_proj` -> outputs and inputs of that projection."""

# PEFT writes the names that the model had in memory, which transformers has changed once.
_TENSOR = re.compile(
    r"base_model\.model\.(?:model\.language_model|language_model\.model)\."
    r"(?P<module>layers\.\d+\.\w+\.\w+)\.lora_(?P<half>[AB])\.weight"
)


def read(checkpoint: Path) -> Targets:
    """The targets of the checkpoint in a folder.

    Raises:
        OSError, ValueError: it has no configuration of this kind of model.
    """
    try:
        return of(json.loads((checkpoint / "config.json").read_text())["text_config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint} is no checkpoint of Llama 3.2 Vision") from error


def of(text: Mapping[str, Any]) -> Targets:
    """The targets by a checkpoint's `text_config`."""
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    attention = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
    }
    mlp = {
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    cross = frozenset(text["cross_attention_layers"])
    return {
        f"layers.{index}.{module}": shape
        for index in range(text["num_hidden_layers"])
        for module, shape in (mlp if index in cross else attention | mlp).items()
    }


def module(tensor: str, targets: Targets) -> tuple[str, str]:
    """The module that a tensor of an adapter is for, and whether it is its `A` or its `B`.

    Raises:
        InvalidAdapter: it is for none that takes adapters.
    """
    found = _TENSOR.fullmatch(tensor)
    if found is None or found["module"] not in targets:
        reason = "this model has no such module"
        if ".cross_attn." in tensor:
            reason = "cross-attention takes no adapters here"
        elif "vision_model." in tensor or "multi_modal_projector" in tensor:
            reason = "the vision tower takes no adapters here"
        raise InvalidAdapter(f"the tensor {tensor[:200]!r} cannot be used: {reason}")
    return found["module"], found["half"]
