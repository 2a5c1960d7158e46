"""Llama 3.2 Vision (`MllamaForConditionalGeneration`) as an out-of-tree vLLM plugin.

vLLM dropped this model after 0.10.2. It is carried here on vLLM's V1 encoder-decoder path: images
are the encoder's input, paged cross-attention KV holds them, and the prompt keeps one `<|image|>`
token an image. docs/mllama.md tells the design.

    register   (here)     what vLLM calls in every process; imports nothing heavy
    internals             what we lean on inside vLLM, and the check that it is still there
    config                the late switch to the encoder-decoder path, limits and budgets
    processor             pictures -> tiles; how many cross-attention slots each needs
    plan                  pure: which token rows see which slots, in one step
    identity              when two images are the same, and when two prefixes are
    content               pure: what blocks of slots hold, and what must be written into them
    kv, pages             blocks for the slots, shared by those who need what they hold; where a
                          block's parts lie
    scheduler, orders     what a request that starts finds, encodes and writes; telling the runners
    attention             a plan -> the metadata of any paged varlen attention backend
    runner_v1, runner_v2  where each of vLLM's model runners gets its plan
    vision, text, model   the network
    lora, names           which weights take adapters; what weights are called
    lora_cpu              adapters' products on CPU
"""

from __future__ import annotations

ARCHITECTURE = "MllamaForConditionalGeneration"


def register() -> None:
    """Make vLLM know the model. Called by vLLM through `vllm.general_plugins`, any number of times.

    Raises:
        RuntimeError: this vLLM is not of the series the plugin was written against, or one of the
            internals it leans on has another shape. Nothing is registered then.
    """
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    if ARCHITECTURE in MODELS_CONFIG_MAP:
        return
    from vllm.model_executor.models.registry import ModelRegistry

    from serving.mllama.config import MllamaModelConfig
    from serving.mllama.internals import check_internals, check_version, installed_version

    check_version(installed_version())
    check_internals()
    MODELS_CONFIG_MAP[ARCHITECTURE] = MllamaModelConfig
    ModelRegistry.register_model(ARCHITECTURE, f"serving.mllama.model:{ARCHITECTURE}")
