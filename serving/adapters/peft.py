"""`adapter_config.json`, as PEFT writes it -> what of it matters here.

What would make the adapter another function than B A x alpha / r is refused, not passed over.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from serving.errors import InvalidAdapter

MAX_BYTES = 64 * 1024
# Kinds of first values that leave an ordinary adapter behind; others change the base model too.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
_MODEL_TYPES = (None, "llama", "mllama")
# Keys of PEFT's that must be absent or empty: each stands for arithmetic that is not done here.
_REFUSED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "target_parameters",
    "trainable_token_indices",
)


class Config(msgspec.Struct, frozen=True):
    """A plain LoRA adapter's settings. `r` is the rank."""

    r: int
    lora_alpha: float
    use_rslora: bool = False

    def written(self, modules: list[str]) -> bytes:
        """The file that the engine reads: these settings, and the modules that have weights."""
        known = {"peft_type": "LORA", "bias": "none", "target_modules": sorted(modules)}
        return msgspec.json.encode(known | msgspec.structs.asdict(self))


def parse(data: bytes, max_rank: int) -> Config:
    """Read the file.

    Raises:
        InvalidAdapter: it is no JSON object, or no plain LoRA adapter of rank up to `max_rank`.
    """
    try:
        fields = msgspec.json.decode(data)
        config = msgspec.convert(fields, Config)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(str(error)) from error
    if fields.get("peft_type") != "LORA":
        raise _refused("peft_type must be LORA")
    if not 1 <= config.r <= max_rank:
        raise _refused(f"the rank r must be from 1 to {max_rank}")
    if not (math.isfinite(config.lora_alpha) and 0 < config.lora_alpha <= 1e6):
        raise _refused("lora_alpha must be above 0 and at most a million")
    _check_plain(fields)
    return config


def _check_plain(fields: dict[str, Any]) -> None:
    for name in _REFUSED:
        if fields.get(name):
            raise _refused(f"{name} is not supported")
    if fields.get("bias", "none") != "none":
        raise _refused("bias must be none")
    start = fields.get("init_lora_weights")
    if not any(start is each or start == each for each in _PLAIN_STARTS):
        raise _refused("init_lora_weights of this kind needs another base model")
    if fields.get("model_type") not in _MODEL_TYPES:
        raise _refused("model_type must be mllama")


def _refused(reason: str) -> InvalidAdapter:
    return InvalidAdapter(f"adapter_config.json: {reason}")
