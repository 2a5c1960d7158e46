"""The language model: Llama's self-attention layers with gated cross-attention layers between.

A step in which no row sees an image leaves the cross-attention layers out. vLLM compiles a module
once and drops the guards that would notice another branch, so the two ways through the layers are
two modules, `WithoutImages` and `WithImages`, over the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaMLP

from serving.mllama.attention import CrossAttention, CrossMetadata

EXTRA_EMBEDDINGS = 8
"""Rows of the embedding past the vocabulary: `<|image|>` and spares. They have no logits."""


class MllamaCrossAttention(nn.Module):
    """Queries from the text, keys and values from the images; no rotary embedding."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        quant = vllm_config.quant_config
        self.head_dim = config.hidden_size // heads
        self.q_proj = ColumnParallelLinear(
            config.hidden_size,
            heads * self.head_dim,
            bias=False,
            return_bias=False,
            quant_config=quant,
            prefix=f"{prefix}.q_proj",
        )
        # With no query heads: what remains is a K/V projection that also knows how to replicate
        # heads when there are more tensor-parallel ranks than K/V heads.
        self.kv_proj = QKVParallelLinear(
            config.hidden_size,
            self.head_dim,
            total_num_heads=0,
            total_num_kv_heads=kv_heads,
            bias=False,
            return_bias=False,
            quant_config=quant,
            prefix=f"{prefix}.kv_proj",
        )
        self.o_proj = RowParallelLinear(
            heads * self.head_dim,
            config.hidden_size,
            bias=False,
            return_bias=False,
            quant_config=quant,
            prefix=f"{prefix}.o_proj",
        )
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        ranks = get_tensor_model_parallel_world_size()
        self.attn = CrossAttention(
            heads // ranks,
            self.head_dim,
            max(1, kv_heads // ranks),
            vllm_config.cache_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, hidden) text rows to (N, hidden), from what `remember` stored."""
        query = self.q_proj(x).unflatten(-1, (-1, self.head_dim))
        return self.o_proj(self.attn(self.q_norm(query.contiguous()).flatten(1), None, None))

    def remember(self, states: torch.Tensor, slots: torch.Tensor) -> None:
        """Store keys and values of (W, hidden) encoder tokens at (W,) places of the paged KV."""
        kv = self.kv_proj(states).unflatten(-1, (2, -1, self.head_dim))
        key, value = kv.unbind(1)
        self.attn.write(self.k_norm(key.contiguous()), value.contiguous(), slots)


class MllamaCrossAttentionLayer(nn.Module):
    """Cross-attention and feed-forward, both gated, both off for rows that see no image."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.cross_attn = MllamaCrossAttention(config, vllm_config, f"{prefix}.cross_attn")
        self.mlp = LlamaMLP(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.mlp",
        )
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.empty(1))
        self.cross_attn_mlp_gate = nn.Parameter(torch.empty(1))

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None, visible: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, hidden) branch and residual, as vLLM's layers pass them; (N, 1) visible rows.

        A row that sees nothing adds zero twice: Meta multiplies both branches by its row mask.
        `where`, because what attention read for such a row is arbitrary and may be NaN.
        """
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm(x, residual)
        x = torch.where(visible, self.cross_attn(x) * self.cross_attn_attn_gate.tanh(), 0)
        x, residual = self.post_attention_layernorm(x, residual)
        x = torch.where(visible, self.mlp(x) * self.cross_attn_mlp_gate.tanh(), 0)
        return x, residual


_ROWS = {name: {0: "rows"} for name in ("input_ids", "positions", "inputs_embeds")}


@support_torch_compile(dynamic_arg_dims=_ROWS)
class WithoutImages(nn.Module):
    """Through the self-attention layers only. Owns no weights: those are the text model's."""

    def __init__(self, *, text: MllamaTextModel) -> None:
        super().__init__()
        self._text = (text,)  # in a tuple, which hides it from weight loading

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        """(N,) token ids and positions to (N, hidden)."""
        (text,) = self._text
        x = text.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        residual = None
        for index, layer in enumerate(text.layers):
            if index not in text.cross_layers:
                x, residual = layer(positions, x, residual)
        return text.norm(x, residual)[0]


@support_torch_compile(dynamic_arg_dims=_ROWS | {"visible": {0: "rows"}})
class WithImages(nn.Module):
    """Through all layers. Owns no weights."""

    def __init__(self, *, text: MllamaTextModel) -> None:
        super().__init__()
        self._text = (text,)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """(N,) token ids and positions and (N, 1) visible rows to (N, hidden)."""
        (text,) = self._text
        x = text.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        residual = None
        for index, layer in enumerate(text.layers):
            if index in text.cross_layers:
                x, residual = layer(x, residual, visible)
            else:
                x, residual = layer(positions, x, residual)
        return text.norm(x, residual)[0]


class MllamaTextModel(nn.Module):
    """The decoder up to its final norm."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.cross_layers = frozenset(config.cross_attention_layers)
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size + EXTRA_EMBEDDINGS, config.hidden_size
        )
        self.layers = nn.ModuleList(
            self._layer(index, config, vllm_config, f"{prefix}.layers.{index}")
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.without_images = WithoutImages(text=self)
        with set_model_tag("with_images"):  # its own folder in the compilation cache
            self.with_images = WithImages(text=self)
        # One place for all steps, which captured graphs read.
        rows = vllm_config.scheduler_config.max_num_batched_tokens
        self.register_buffer("visible", torch.zeros(rows, 1, dtype=torch.bool), persistent=False)

    def _layer(self, index: int, config: Any, vllm_config: VllmConfig, prefix: str) -> nn.Module:
        if index in self.cross_layers:
            return MllamaCrossAttentionLayer(config, vllm_config, prefix)
        return LlamaDecoderLayer(vllm_config, prefix, config=config)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
        visible: torch.Tensor | None,
    ) -> torch.Tensor:
        """(N,) token ids and positions to (N, hidden).

        `visible`: (M, 1) rows that see an image, M <= N, the rest being padding; None: no row does.
        """
        if visible is None:
            return self.without_images(input_ids, positions, inputs_embeds)
        rows = self.visible[: len(positions)]
        rows[: len(visible)].copy_(visible, non_blocking=True)
        rows[len(visible) :].fill_(False)
        return self.with_images(input_ids, positions, inputs_embeds, rows)

    def warm_up(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
    ) -> None:
        """Have the way with images compiled and captured too, when vLLM warms up."""
        if self.cross_layers and not self.with_images.do_not_compile:
            self.with_images(input_ids, positions, inputs_embeds, self.visible[: len(positions)])

    def remember(self, states: torch.Tensor, slots: torch.Tensor) -> None:
        """Store the KV of (W, hidden) encoder tokens at (W,) places, in every cross layer.

        Before the layers run, and whether or not a row of this step sees an image: with chunked
        prefill the first chunk may end before the first `<|image|>`.
        """
        for index in sorted(self.cross_layers):
            self.layers[index].cross_attn.remember(states, slots)

    def cross_metadata(self) -> CrossMetadata | None:
        """This step's plan on the device; all cross layers share it."""
        first = min(self.cross_layers, default=None)
        return None if first is None else self.layers[first].cross_attn.attn.metadata()


class MllamaLanguageModel(nn.Module):
    """The decoder and its output head."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.model = MllamaTextModel(config, vllm_config, f"{prefix}.model")
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.lm_head",
        )
        self.logits_processor = LogitsProcessor(config.vocab_size)
