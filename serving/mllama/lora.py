"""Which weights take LoRA adapters: self-attention and feed-forward of the language model.

Not the cross-attention: its keys and values are computed once per image over encoder tokens, for
which vLLM has no mapping to adapters, and an adapter in part would be another model than the one
that was trained. Not the vision tower, the projector, the embedding or the output head. vLLM
itself compares only the last words of names and passes over what it has not wrapped; so names are
judged here, where vLLM asks what an adapter's weights are called in this model.
"""

from __future__ import annotations

import re
from typing import Any

_ADAPTABLE = re.compile(
    r"language_model\.model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.lora_[AB]\.weight"
)


def adaptable(text: Any) -> list[str]:
    """The modules that vLLM shall wrap, by their full names here. `text`: MllamaTextConfig."""
    cross = frozenset(text.cross_attention_layers)
    return [
        f"language_model.model.layers.{index}.{module}"
        for index in range(text.num_hidden_layers)
        for module in _modules(index in cross)
    ]


def _modules(is_cross: bool) -> tuple[str, ...]:
    mlp = ("mlp.gate_up_proj", "mlp.down_proj")
    return mlp if is_cross else ("self_attn.qkv_proj", "self_attn.o_proj", *mlp)


def takes_adapter(name: str) -> bool:
    """Whether a tensor of an adapter, by its name here, is of a module that may be adapted."""
    return _ADAPTABLE.fullmatch(name) is not None
