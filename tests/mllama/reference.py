"""What our plugin must equal: transformers with the two corrections towards Meta's code.

`Reference(folder)` is corrected. Each correction can be left out, to show that it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from transformers import MllamaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama import modeling_mllama
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)


def encode_recording_inputs(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> BaseModelOutput:
    """Correction 1: the intermediate feature of layer i is what enters it (Meta, and transformers
    4.53), not what leaves it (transformers 5)."""
    states = ()
    for layer in self.layers:
        states += (hidden_states,)
        hidden_states = layer(hidden_states, attention_mask=attention_mask)
    return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=states)


def cross_layer_masking_both_branches(
    self: Any,
    hidden_states: torch.Tensor,
    cross_attention_states: torch.Tensor,
    cross_attention_mask: torch.Tensor,
    full_text_row_masked_out_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Correction 2: a row that sees no image skips attention and feed-forward (Meta), not only the
    feed-forward (transformers 5)."""
    rows = 1.0 if full_text_row_masked_out_mask is None else full_text_row_masked_out_mask[:, 0]
    branch, _ = self.cross_attn(
        hidden_states=self.input_layernorm(hidden_states),
        attention_mask=cross_attention_mask,
        cross_attention_states=cross_attention_states,
        past_key_values=past_key_values,
    )
    hidden_states = hidden_states + self.cross_attn_attn_gate.tanh() * branch * rows
    branch = self.mlp(self.post_attention_layernorm(hidden_states))
    return hidden_states + self.cross_attn_mlp_gate.tanh() * branch * rows


class Reference:
    """Greedy decoding of one prompt at a time, in float32 unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        vision_fix: bool = True,
        mask_fix: bool = True,
    ) -> None:
        self.model = MllamaForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        ).eval()
        self.images = MllamaImageProcessorPil.from_pretrained(folder)
        self.dtype, self.vision_fix, self.mask_fix = dtype, vision_fix, mask_fix

    def patches(self) -> ExitStack:
        """The corrections in force while inside."""
        stack = ExitStack()
        if self.vision_fix:
            encoder = modeling_mllama.MllamaVisionEncoder
            stack.enter_context(patch.object(encoder, "forward", encode_recording_inputs))
        if self.mask_fix:
            layer = modeling_mllama.MllamaCrossAttentionDecoderLayer
            stack.enter_context(patch.object(layer, "forward", cross_layer_masking_both_branches))
        return stack

    def inputs(self, prompt: Sequence[int], images: Sequence[Image.Image]) -> dict[str, Any]:
        """The model's inputs for token ids with one image token an image."""
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(prompt)])}
        if images:
            out = self.images(images=[list(images)], return_tensors="pt")
            mask = convert_sparse_cross_attention_mask_to_dense(
                [get_cross_attention_token_mask(list(prompt), self.model.config.image_token_index)],
                num_tiles=out.pop("num_tiles"),
                max_num_tiles=self.model.config.vision_config.max_num_tiles,
                length=len(prompt),
            )
            out["pixel_values"] = out["pixel_values"].to(self.dtype)
            inputs |= {**out, "cross_attention_mask": torch.from_numpy(mask)}
        return inputs

    @torch.inference_mode()
    def generate(
        self, prompt: Sequence[int], images: Sequence[Image.Image], tokens: int
    ) -> list[int]:
        """Exactly `tokens` greedy tokens; an end token is a token like any other."""
        inputs = self.inputs(prompt, images)
        self.model.generation_config.eos_token_id = None
        with self.patches():
            out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return out[0, len(prompt) :].tolist()

    @torch.inference_mode()
    def logprobs(self, prompt: Sequence[int], images: Sequence[Image.Image]) -> torch.Tensor:
        """(vocabulary,) log-probabilities of the token after the prompt."""
        with self.patches():
            logits = self.model(**self.inputs(prompt, images)).logits
        return logits[0, -1].float().log_softmax(-1)
