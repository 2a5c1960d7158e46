"""From pictures and a prompt to what vLLM schedules: tiles, and slots to reserve for them.

The prompt stays as the caller wrote it, one `<|image|>` token an image. vLLM's encoder-decoder path
wants every encoder input at offset 0, so each image becomes a placeholder of its slots there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import BatchFeature, MllamaConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseProcessingInfo,
    EncDecMultiModalProcessor,
    PromptReplacement,
    PromptUpdate,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

from serving.mllama.config import tile_tokens
from serving.mllama.plan import slots_for

ENCODER_TOKEN = 0
"""Stands for an image in the encoder prompt, which only exists because vLLM asks for one."""


@lru_cache(maxsize=4)
def load_image_processor(model: str, revision: str | None) -> MllamaImageProcessorPil:
    """The checkpoint's resize, pad, normalise and tile steps.

    Always the Pillow variant: the torchvision one resizes with another kernel, and answers would
    depend on whether the host has torchvision.
    """
    return MllamaImageProcessorPil.from_pretrained(model, revision=revision)


class MllamaProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about the model's inputs."""

    # The encoder prompt is a stand-in; its length says nothing.
    skip_prompt_length_check = True

    def get_hf_config(self) -> MllamaConfig:
        """The checkpoint's configuration."""
        return self.ctx.get_hf_config(MllamaConfig)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of images; `--limit-mm-per-prompt` bounds it."""
        return {"image": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Slots of an image with all its tiles."""
        return {"image": self.slots(self.get_hf_config().vision_config.max_num_tiles)}

    def slots(self, tiles: int) -> int:
        """Slots of an image with `tiles` tiles."""
        return slots_for(tiles, tile_tokens(self.get_hf_config().vision_config))

    def image_processor(self) -> MllamaImageProcessorPil:
        """The checkpoint's image processor."""
        model = self.ctx.model_config
        return load_image_processor(model.model, model.revision)


class MllamaDummyInputsBuilder(BaseDummyInputsBuilder[MllamaProcessingInfo]):
    """The largest inputs, with which vLLM measures peak memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """As many image tokens as images."""
        return "<|image|>" * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: MultiModalDummyOptions,
    ) -> MultiModalDataDict:
        """Pictures that fill all their tiles."""
        vision = self.info.get_hf_config().vision_config
        rows, columns = max(vision.supported_aspect_ratios, key=lambda ratio: ratio[0] * ratio[1])
        return {
            "image": self._get_dummy_images(
                width=columns * vision.image_size,
                height=rows * vision.image_size,
                num_images=mm_counts.get("image", 0),
            )
        }


class MllamaMultiModalProcessor(EncDecMultiModalProcessor[MllamaProcessingInfo]):
    """Cuts pictures into tiles and reserves slots for them."""

    # The prompt is complete; a decoder start token would be one BOS too many.
    skip_decoder_start_token = True

    def create_encoder_prompt(
        self, prompt: str | list[int], mm_items: MultiModalDataItems
    ) -> list[int]:
        """One stand-in token an image."""
        return [ENCODER_TOKEN] * mm_items.get_all_counts().get("image", 0)

    def create_decoder_prompt(
        self, prompt: str | list[int], mm_items: MultiModalDataItems
    ) -> str | list[int]:
        """The prompt as it is.

        Raises:
            ValueError: it holds more or fewer `<|image|>` tokens than there are images.
        """
        images = mm_items.get_all_counts().get("image", 0)
        if isinstance(prompt, str):
            found = prompt.count("<|image|>")
        else:
            found = prompt.count(self.info.get_hf_config().image_token_index)
        if found != images:
            raise ValueError(f"The prompt has {found} <|image|> tokens for {images} images.")
        return prompt

    def _call_hf_processor(
        self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        """Tiles of all images, one after the other, without the padding tiles.

        `pixel_values` (tiles, 3, H, W) in the model's dtype; `num_tiles` and `aspect_ratio_ids`
        (images,). The tower adds the padding tiles back: a picture of one tile is a quarter of the
        bytes on the way to the engine.
        """
        images = [[image] for image in hf_data["images"]]
        out = self.info.image_processor()(images=images, return_tensors="pt", **hf_kwargs)
        num_tiles = [count for (count,) in out["num_tiles"]]
        tiles = [
            pixels[0, :count] for pixels, count in zip(out["pixel_values"], num_tiles, strict=True)
        ]
        return BatchFeature(
            {
                "pixel_values": torch.cat(tiles).to(self.info.ctx.model_config.dtype),
                "num_tiles": torch.tensor(num_tiles),
                "aspect_ratio_ids": out["aspect_ratio_ids"][:, 0],
            }
        )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        num_tiles = hf_inputs.get("num_tiles", torch.empty(0, dtype=torch.int64))
        return {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", num_tiles),
            "num_tiles": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            "aspect_ratio_ids": MultiModalFieldConfig.batched("image"),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        def reserve(item: int) -> list[int]:
            tiles = int(out_mm_kwargs["image"][item]["num_tiles"].data)
            return [ENCODER_TOKEN] * self.info.slots(tiles)

        return [PromptReplacement(modality="image", target=[ENCODER_TOKEN], replacement=reserve)]

    def _maybe_apply_prompt_updates(
        self, mm_items: MultiModalDataItems, mm_res: Any
    ) -> tuple[list[int], Mapping[str, list[PlaceholderFeaturesInfo]]]:
        """Put every image at offset 0, where the encoder-decoder path wants it."""
        counts = mm_items.get_all_counts()
        self._validate_mm_kwargs(mm_res.kwargs, counts)
        self._validate_mm_updates(mm_res.prompt_updates, counts)
        placeholders = [
            PlaceholderFeaturesInfo("image", item, 0, list(update.content.full), None)
            for item, (update,) in enumerate(mm_res.prompt_updates.get("image", ()))
        ]
        return mm_res.prompt_ids, {"image": placeholders}
