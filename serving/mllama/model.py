"""`MllamaForConditionalGeneration` for vLLM: the tower, the projector, the language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsLoRA,
    SupportsMultiModal,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from serving.mllama import lora_cpu, runner_v1
from serving.mllama.names import Names
from serving.mllama.processor import (
    MllamaDummyInputsBuilder,
    MllamaMultiModalProcessor,
    MllamaProcessingInfo,
)
from serving.mllama.text import MllamaLanguageModel
from serving.mllama.vision import VisionTower


@MULTIMODAL_REGISTRY.register_processor(
    MllamaMultiModalProcessor,
    info=MllamaProcessingInfo,
    dummy_inputs=MllamaDummyInputsBuilder,
)
class MllamaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsLoRA):
    """Llama 3.2 Vision, 11B and 90B, and anything else of their configuration."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "kv_proj": ["k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = Names(
        # Published checkpoints already carry our names; these are transformers' in-memory ones,
        # which some quantisation and LoRA tools save.
        orig_to_new_prefix={
            "model.language_model.": "language_model.model.",
            "model.vision_model.": "vision_model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "lm_head.": "language_model.lm_head.",
        },
        orig_to_new_stacked={
            ".self_attn.q_proj": (".self_attn.qkv_proj", "q"),
            ".self_attn.k_proj": (".self_attn.qkv_proj", "k"),
            ".self_attn.v_proj": (".self_attn.qkv_proj", "v"),
            ".cross_attn.k_proj": (".cross_attn.kv_proj", "k"),
            ".cross_attn.v_proj": (".cross_attn.kv_proj", "v"),
            ".mlp.gate_proj": (".mlp.gate_up_proj", 0),
            ".mlp.up_proj": (".mlp.gate_up_proj", 1),
        },
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        runner_v1.install()
        lora_cpu.install()
        config = vllm_config.model_config.hf_config
        self.config = config
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_model = VisionTower(
                config.vision_config, maybe_prefix(prefix, "vision_model")
            )
            self.multi_modal_projector = nn.Linear(
                config.vision_config.vision_output_dim, config.text_config.hidden_size
            )
        with self._mark_language_model(vllm_config):
            self.language_model = MllamaLanguageModel(
                config.text_config, vllm_config, maybe_prefix(prefix, "language_model")
            )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """What stands for an image in a prompt made by vLLM's own chat server."""
        if modality.startswith("image"):
            return "<|image|>"
        raise ValueError(f"Llama 3.2 Vision takes images, not {modality}")

    def get_mm_mapping(self) -> MultiModelKeys:
        """Adapters are for the language model; the tower and the projector take none."""
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector="multi_modal_projector",
            tower_model="vision_model",
        )

    def get_model_state_cls(self) -> type[Any]:
        """vLLM's hook of the V2 model runner, the default on GPUs."""
        from serving.mllama.runner_v2 import MllamaModelState

        return MllamaModelState

    def embed_multimodal(self, **kwargs: Any) -> MultiModalEmbeddings:
        """Encode and project images: an (encoder tokens, hidden) tensor for each."""
        pixels = kwargs["pixel_values"]
        if isinstance(pixels, list | tuple):
            pixels = torch.cat(list(pixels))
        num_tiles = [int(count) for count in kwargs["num_tiles"]]
        ratios = torch.as_tensor(kwargs["aspect_ratio_ids"], device=pixels.device).flatten()
        features = self.vision_model(pixels, num_tiles, ratios)
        return [self.multi_modal_projector(image) for image in features]

    def embed_input_ids(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(N,) token ids to (N, hidden). Images do not enter here."""
        return self.language_model.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_outputs: list[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(N,) token rows to (N, hidden).

        The KV of images that no request has written yet is written here, and read from then on.
        `encoder_outputs`, what `embed_multimodal` gave in this step, is taken from the runner's
        cache instead, together with what it gave in earlier ones.
        """
        text = self.language_model.model
        metadata = text.cross_metadata()
        if metadata is not None and metadata.write_slots is not None:
            text.remember(metadata.step.states(), metadata.write_slots)
        if metadata is None:
            text.warm_up(input_ids, positions, inputs_embeds)
        visible = None if metadata is None else metadata.visible
        return text(input_ids, positions, inputs_embeds, visible)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """(N, hidden) to (N, vocabulary)."""
        return self.language_model.logits_processor(self.language_model.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a checkpoint in the published or the in-memory layout; returns what was loaded."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
