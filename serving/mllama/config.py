"""What vLLM's configuration must become for this model, at the one moment vLLM asks.

vLLM decides several defaults when it sees an encoder-decoder model early (no chunked prefill, no
prefix caching, no multimodal processor cache), for reasons that do not hold here. The hook below
runs after those decisions: only then does the model say that it is one.
"""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.config.multimodal import ImageDummyOptions
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from serving.mllama.lora import adaptable
from serving.mllama.plan import ALIGNMENT, Layout, layout_of, slots_for

SCHEDULER = "serving.mllama.scheduler.build_scheduler"
ENCODER_CACHE = "vllm.v1.core.encoder_cache_manager.EncoderCacheManager"
"""vLLM's cache of encoder outputs, least recently used first out, which it gives other models."""

DEFAULT_IMAGES = 4
"""Images a prompt may hold when `--limit-mm-per-prompt` does not say."""


class MllamaModelConfig(VerifyAndUpdateConfig):
    """The hook, found by vLLM under the architecture's name."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Switch to the encoder-decoder path and give images their budgets.

        Raises:
            ValueError: a setting this model cannot run with.
        """
        check_supported(vllm_config)
        model = vllm_config.model_config
        if vllm_config.lora_config is not None:
            vllm_config.lora_config.target_modules = adaptable(model.hf_config.text_config)
        multimodal = model.multimodal_config
        if multimodal.limit_per_prompt.get("image") is None:
            multimodal.limit_per_prompt["image"] = ImageDummyOptions(count=DEFAULT_IMAGES)
        scheduler = vllm_config.scheduler_config
        scheduler.scheduler_cls = SCHEDULER
        if multimodal.get_limit_per_prompt("image") == 0:
            return
        model.hf_config.is_encoder_decoder = True
        model.__dict__["is_encoder_decoder"] = True  # a cached property, read before now
        slots = max_request_slots(vllm_config)
        scheduler.max_num_encoder_input_tokens = max(scheduler.max_num_encoder_input_tokens, slots)
        # Outputs are held while a step runs; the other half is for the step that is scheduled then.
        scheduler.encoder_cache_size = max(scheduler.encoder_cache_size, 2 * slots)
        vllm_config.ec_manager_config.encoder_cache_manager_cls = ENCODER_CACHE


def tile_tokens(vision: Any) -> int:
    """Encoder tokens of one tile: its patches and a class token. `vision`: MllamaVisionConfig."""
    return int((vision.image_size // vision.patch_size) ** 2 + 1)


def max_request_slots(vllm_config: VllmConfig) -> int:
    """Cross-attention slots of a request with the most images, each with all its tiles."""
    images = vllm_config.model_config.multimodal_config.get_limit_per_prompt("image")
    return int(images) * picture_slots(vllm_config.model_config.hf_config.vision_config)


def picture_slots(vision: Any) -> int:
    """Cross-attention slots of an image with all its tiles. `vision`: MllamaVisionConfig."""
    return slots_for(vision.max_num_tiles, tile_tokens(vision))


def request_layout(config: Any, request: Any) -> Layout:
    """The images of a request, as either model runner knows it. `config`: MllamaConfig."""
    slots = [feature.mm_position.length for feature in request.mm_features]
    tokens = tile_tokens(config.vision_config)
    return layout_of(request.prompt_token_ids, config.image_token_index, slots, tokens)


def check_supported(vllm_config: VllmConfig) -> None:
    """Raise `ValueError` for settings whose results would be wrong, not merely slow."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    if parallel.pipeline_parallel_size > 1:
        raise ValueError("Mllama does not run with pipeline parallelism; use tensor parallelism.")
    if parallel.decode_context_parallel_size > 1:
        raise ValueError("Mllama does not run with decode context parallelism.")
    if vllm_config.speculative_config is not None:
        raise ValueError("Mllama does not run with speculative decoding.")
    connectors = (vllm_config.kv_transfer_config, vllm_config.ec_transfer_config)
    if any(connectors) or cache.kv_offloading_size is not None:
        raise ValueError(
            "Mllama does not run with KV or encoder connectors: they know keys and values by token."
        )
    if vllm_config.scheduler_config.scheduler_cls not in (None, SCHEDULER):
        raise ValueError("Mllama comes with a scheduler of its own and runs with no other.")
    if cache.block_size is not None and ALIGNMENT % cache.block_size:
        raise ValueError(
            f"Mllama needs a KV block size that divides {ALIGNMENT}, not {cache.block_size}."
        )
