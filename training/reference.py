"""transformers' own Mllama under Meta's semantics: the measure of what is shipped.

transformers 5.19 records intermediate vision states after their layer instead of before it, and
lets rows before the first picture through cross-attention; both are put right in a subclass of
each module, so the library itself is left as it is.
"""

from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import MllamaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.modeling_mllama import (
    MllamaCrossAttentionDecoderLayer,
    MllamaVisionEncoder,
)
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from training import prompt


class _Encoder(MllamaVisionEncoder):
    def forward(self, hidden_states, attention_mask=None):
        inputs = ()
        for layer in self.layers:
            inputs = (*inputs, hidden_states)
            hidden_states = layer(hidden_states, attention_mask=attention_mask)
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=inputs)


class _CrossLayer(MllamaCrossAttentionDecoderLayer):
    def forward(
        self,
        hidden_states,
        cross_attention_states=None,
        cross_attention_mask=None,
        full_text_row_masked_out_mask=None,
        past_key_values=None,
        **kwargs,
    ):
        rows = full_text_row_masked_out_mask[:, 0]
        attended, _ = self.cross_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=cross_attention_mask,
            cross_attention_states=cross_attention_states,
            past_key_values=past_key_values,
        )
        hidden_states = hidden_states + self.cross_attn_attn_gate.tanh() * rows * attended
        fed = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.cross_attn_mlp_gate.tanh() * rows * fed


class Reference:
    """A checkpoint folder loaded into transformers; answers are greedy."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        for module in self.model.modules():
            if type(module) is MllamaVisionEncoder:
                module.__class__ = _Encoder
            elif type(module) is MllamaCrossAttentionDecoderLayer:
                module.__class__ = _CrossLayer
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.processor = MllamaImageProcessorPil.from_pretrained(folder)
        self.image_token = self.model.config.image_token_index

    def inputs(self, text: str, image: Image.Image | None = None) -> dict[str, torch.Tensor]:
        """Model inputs of one rendered prompt, which holds <|image|> if a picture is given."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        found = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        if image is None:
            return found
        seen = self.processor(image, return_tensors="pt")
        tiles = seen.pop("num_tiles")
        spans = [get_cross_attention_token_mask(ids, self.image_token)]
        mask = convert_sparse_cross_attention_mask_to_dense(spans, tiles, 4, len(ids))
        return {**found, **seen, "cross_attention_mask": torch.from_numpy(mask)}

    @torch.no_grad()
    def logits(self, text: str, image: Image.Image | None = None) -> torch.Tensor:
        """(T, vocabulary)."""
        return self.model(**self.inputs(text, image)).logits[0]

    @torch.no_grad()
    def answer(
        self,
        messages: list[dict],
        image: Image.Image | None = None,
        tools: list[dict] | None = None,
        limit: int = 96,
    ) -> str:
        """The reply, special tokens kept: a finished one ends in <|eot_id|>."""
        given = self.inputs(prompt.render(messages, tools, generate=True), image)
        out = self.model.generate(**given, max_new_tokens=limit, do_sample=False)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        return self.tokenizer.decode(new, skip_special_tokens=False)

    def look(self, image: Image.Image, question: str) -> str:
        """The plain answer to one question on a picture."""
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        reply = self.answer([{"role": "user", "content": parts}], image)
        return reply.removesuffix("<|eot_id|>")
