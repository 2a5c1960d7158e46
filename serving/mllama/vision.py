"""The vision tower: tiles to features, as Meta's `ImageTransformer` computes them.

Two points where transformers 5 differs from Meta's code, and this follows Meta's: intermediate
features are taken before the layer they are named after, and (in `text`) rows that see no image
pass the cross-attention layers unchanged.

Every image is computed with all its tiles, padding included: attention masks only the pairs of two
paddings, so real patches do read padding tiles, in training and here. The weights are replicated
over tensor-parallel ranks; the tower is 0.9 B of the 11 B parameters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from vllm.model_executor.layers.linear import QKVParallelLinear, ReplicatedLinear

PATCH_MULTIPLE = 8
"""Meta pads the patches of a tile to a multiple of this before the transformer."""


class VisionLayer(nn.Module):
    """A pre-norm transformer layer; the global ones scale their branches by learned gates."""

    def __init__(self, config: Any, gated: bool, prefix: str) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.head_dim = config.attention_heads, width // config.attention_heads
        self.input_layernorm = nn.LayerNorm(width, eps=config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(width, eps=config.norm_eps)
        self.self_attn = nn.ModuleDict(
            {
                "qkv_proj": QKVParallelLinear(
                    width,
                    self.head_dim,
                    self.heads,
                    bias=False,
                    return_bias=False,
                    disable_tp=True,
                    prefix=f"{prefix}.self_attn.qkv_proj",
                ),
                "o_proj": _linear(width, width, f"{prefix}.self_attn.o_proj", bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "fc1": _linear(width, config.intermediate_size, f"{prefix}.mlp.fc1"),
                "fc2": _linear(config.intermediate_size, width, f"{prefix}.mlp.fc2"),
            }
        )
        self.activation = ACT2FN[config.hidden_act]
        self.gate_attn = nn.Parameter(torch.empty(1)) if gated else None
        self.gate_ffn = nn.Parameter(torch.empty(1)) if gated else None

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(images, L, width) to the same; `mask` (images, 1, L, L), True where a row may look."""
        x = x + _gated(self.attention(self.input_layernorm(x), mask), self.gate_attn)
        hidden = self.activation(self.mlp["fc1"](self.post_attention_layernorm(x)))
        return x + _gated(self.mlp["fc2"](hidden), self.gate_ffn)

    def attention(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Multi-head self-attention over all patches of all tiles of an image."""
        qkv = self.self_attn["qkv_proj"](x).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.self_attn["o_proj"](out.transpose(1, 2).flatten(2))


def _linear(inputs: int, outputs: int, prefix: str, bias: bool = True) -> nn.Module:
    return ReplicatedLinear(inputs, outputs, bias=bias, return_bias=False, prefix=prefix)


def _gated(x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    return x if gate is None else x * gate.tanh()


class VisionEncoder(nn.Module):
    """A stack of layers."""

    def __init__(self, config: Any, layers: int, gated: bool, prefix: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            VisionLayer(config, gated, f"{prefix}.layers.{index}") for index in range(layers)
        )

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, keep: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The output, and the inputs of the layers in `keep`, in that order."""
        inputs: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self.layers):
            if index in keep:
                inputs[index] = x
            x = layer(x, mask)
        return x, [inputs[index] for index in keep]


class TileEmbedding(nn.Module):
    """A learned vector per tile position and aspect ratio, added to all patches of the tile."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.shape = (config.max_num_tiles, 1, config.hidden_size)
        self.embedding = nn.Embedding(
            config.max_aspect_ratio_id + 1, config.max_num_tiles * config.hidden_size
        )
        self.gate = nn.Parameter(torch.empty(1))

    def forward(self, x: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """(images, tiles, patches, width) and (images,) aspect-ratio ids."""
        return x + self.embedding(ratios).view(-1, *self.shape) * self.gate.tanh()


class PositionEmbedding(nn.Module):
    """A vector per patch, blended by a gate with one per patch, tile and aspect ratio."""

    def __init__(self, config: Any, patches: int) -> None:
        super().__init__()
        self.shape = (config.max_num_tiles, patches, config.hidden_size)
        self.embedding = nn.Parameter(torch.empty(patches, config.hidden_size))
        self.tile_embedding = nn.Embedding(
            config.max_aspect_ratio_id + 1, config.max_num_tiles * patches * config.hidden_size
        )
        self.gate = nn.Parameter(torch.empty(1))

    def forward(self, x: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """(images, tiles, patches, width) and (images,) aspect-ratio ids."""
        gate = self.gate.tanh()
        x = x + (1 - gate) * self.embedding
        return x + gate * self.tile_embedding(ratios).view(-1, *self.shape)


class VisionTower(nn.Module):
    """All of it. Output width: hidden size times one plus the number of intermediate layers."""

    def __init__(self, config: Any, prefix: str) -> None:
        super().__init__()
        self.tiles = config.max_num_tiles
        self.keep = tuple(config.intermediate_layers_indices)
        patches = (config.image_size // config.patch_size) ** 2 + 1
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=False,
        )
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.gated_positional_embedding = PositionEmbedding(config, patches)
        self.pre_tile_positional_embedding = TileEmbedding(config)
        self.post_tile_positional_embedding = TileEmbedding(config)
        self.layernorm_pre = nn.LayerNorm(config.hidden_size)
        self.layernorm_post = nn.LayerNorm(config.hidden_size)
        self.transformer = VisionEncoder(
            config, config.num_hidden_layers, False, f"{prefix}.transformer"
        )
        self.global_transformer = VisionEncoder(
            config, config.num_global_layers, True, f"{prefix}.global_transformer"
        )

    def forward(
        self, pixels: torch.Tensor, num_tiles: list[int], ratios: torch.Tensor
    ) -> list[torch.Tensor]:
        """Encode images in one batch.

        Args:
            pixels: (sum of num_tiles, 3, H, W), the real tiles of all images.
            num_tiles: real tiles of each image.
            ratios: (images,) aspect-ratio ids.

        Returns:
            An (num_tiles x patches, width) tensor for each image, without its padding.
        """
        x = self.embed(pixels, num_tiles, ratios)
        images, tiles, patches, width = x.shape
        x = F.pad(x, (0, 0, 0, -patches % PATCH_MULTIPLE))
        padded = x.shape[2]
        mask = attention_mask(num_tiles, tiles, patches, padded, x.device)
        x, kept = self.transformer(x.flatten(1, 2), mask, self.keep)
        x = self.layernorm_post(x).view(images, tiles, padded, width)
        x = self.post_tile_positional_embedding(x, ratios)
        x, _ = self.global_transformer(x.flatten(1, 2), mask)
        # Meta interleaves the intermediate features: width x layers, not layers x width.
        features = torch.cat([x, torch.stack(kept, dim=-1).flatten(2)], dim=-1)
        features = features.view(images, tiles, padded, -1)[:, :, :patches]
        return [
            image[:count].flatten(0, 1) for image, count in zip(features, num_tiles, strict=True)
        ]

    def embed(
        self, pixels: torch.Tensor, num_tiles: list[int], ratios: torch.Tensor
    ) -> torch.Tensor:
        """(images, tiles, patches, width) before the transformer; padding tiles are black."""
        weight = self.patch_embedding.weight
        real = self.patch_embedding(pixels.to(weight.dtype)).flatten(2).transpose(1, 2)
        x = real.new_zeros(len(num_tiles), self.tiles, *real.shape[1:])
        # A padding tile is all zeros, and so is its patch embedding, which has no bias.
        index = torch.tensor([(i, t) for i, count in enumerate(num_tiles) for t in range(count)])
        x[index[:, 0], index[:, 1]] = real
        x = self.pre_tile_positional_embedding(x, ratios)
        first = self.class_embedding.expand(*x.shape[:2], 1, -1)
        x = self.gated_positional_embedding(torch.cat([first, x], dim=2), ratios)
        return self.layernorm_pre(x)


def attention_mask(
    num_tiles: list[int], tiles: int, patches: int, padded: int, device: torch.device
) -> torch.Tensor:
    """(images, 1, L, L) bool with L = tiles x padded: all but the pairs of two paddings."""
    counts = torch.tensor(num_tiles)[:, None, None]
    real = (torch.arange(tiles)[:, None] < counts) & (torch.arange(padded) < patches)
    real = real.flatten(1).to(device)
    return (real[:, None, :, None] | real[:, None, None, :]).contiguous()
