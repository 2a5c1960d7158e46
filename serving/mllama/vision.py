"""The vision tower: tiles to features, as Meta's `ImageTransformer` computes them.

Two points where transformers 5 differs from Meta's code, and this follows Meta's: intermediate
features are taken before the layer they are named after, and (in `text`) rows that see no image
pass the cross-attention layers unchanged.

Every image is computed with all its tiles, padding included: only pairs of two paddings are masked,
so real patches do read padding tiles, in training and here. No kernel needs a mask for that. Tokens
are ordered real ones first; real queries then read everything, padding queries the real part, which
leaves flash attention usable and saves the masked pairs. The weights are replicated over
tensor-parallel ranks; the tower is 0.9 B of the 11 B parameters.
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

    def forward(self, x: torch.Tensor, real: int) -> torch.Tensor:
        """(images, L, width) to the same; the first `real` tokens are not padding."""
        x = x + _gated(self.attention(self.input_layernorm(x), real), self.gate_attn)
        hidden = self.activation(self.mlp["fc1"](self.post_attention_layernorm(x)))
        return x + _gated(self.mlp["fc2"](hidden), self.gate_ffn)

    def attention(self, x: torch.Tensor, real: int) -> torch.Tensor:
        """Multi-head self-attention over all tiles of an image, but for pairs of paddings."""
        qkv = self.self_attn["qkv_proj"](x).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        patches = F.scaled_dot_product_attention(q[:, :, :real], k, v)
        padding = F.scaled_dot_product_attention(q[:, :, real:], k[:, :, :real], v[:, :, :real])
        out = torch.cat([patches, padding], dim=2)
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
        self, x: torch.Tensor, real: int, keep: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The output, and the inputs of the layers in `keep`, in that order."""
        inputs: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self.layers):
            if index in keep:
                inputs[index] = x
            x = layer(x, real)
        return x, [inputs[index] for index in keep]


class TileEmbedding(nn.Module):
    """A learned vector per tile position and aspect ratio, added to all patches of the tile."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.tiles = config.max_num_tiles
        self.embedding = nn.Embedding(
            config.max_aspect_ratio_id + 1, config.max_num_tiles * config.hidden_size
        )
        self.gate = nn.Parameter(torch.empty(1))

    def forward(self, ratios: torch.Tensor) -> torch.Tensor:
        """(images,) aspect-ratio ids to (images, tiles, width)."""
        return self.embedding(ratios).unflatten(-1, (self.tiles, -1)) * self.gate.tanh()


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

    def forward(self, ratios: torch.Tensor) -> torch.Tensor:
        """(images,) aspect-ratio ids to (images, tiles, patches, width)."""
        gate = self.gate.tanh()
        return (1 - gate) * self.embedding + gate * self.tile_embedding(ratios).view(
            -1, *self.shape
        )


class VisionTower(nn.Module):
    """All of it. Output width: hidden size times one plus the number of intermediate layers."""

    def __init__(self, config: Any, prefix: str) -> None:
        super().__init__()
        self.tiles = config.max_num_tiles
        self.keep = tuple(config.intermediate_layers_indices)
        self.patches = (config.image_size // config.patch_size) ** 2 + 1
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=False,
        )
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.gated_positional_embedding = PositionEmbedding(config, self.patches)
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
        """Encode images, in one batch for each number of tiles among them.

        Args:
            pixels: (sum of num_tiles, 3, H, W), the real tiles of all images.
            num_tiles: real tiles of each image.
            ratios: (images,) aspect-ratio ids.

        Returns:
            An (num_tiles x patches, width) tensor for each image, without its padding.
        """
        tiles = self.embed_tiles(pixels).split(num_tiles)
        out: dict[int, torch.Tensor] = {}
        for count in sorted(set(num_tiles)):
            group = [image for image, its in enumerate(num_tiles) if its == count]
            batch = torch.stack([tiles[image] for image in group])
            out |= zip(group, self.encode(batch, ratios[group]), strict=True)
        return [out[image] for image in range(len(num_tiles))]

    def embed_tiles(self, pixels: torch.Tensor) -> torch.Tensor:
        """(tiles, 3, H, W) to (tiles, patches without the class token, width)."""
        weight = self.patch_embedding.weight
        return self.patch_embedding(pixels.to(weight.dtype)).flatten(2).transpose(1, 2)

    def encode(self, tiles: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """(images, count, patches, width) real tiles to (images, count x patches, output width)."""
        x = self.position(tiles, ratios)
        order, real = padding_last(tiles.shape[1], self.tiles, self.patches, x.shape[2])
        order = order.to(x.device)
        x = x.flatten(1, 2)[:, order]
        x, kept = self.transformer(x, real, self.keep)
        after = self.post_tile_positional_embedding(ratios)
        x = self.layernorm_post(x) + after[:, order // (len(order) // self.tiles)]
        x, _ = self.global_transformer(x, real)
        # Meta interleaves the intermediate features: width x layers, not layers x width.
        middle = torch.stack([state[:, :real] for state in kept], dim=-1).flatten(2)
        return torch.cat([x[:, :real], middle], dim=-1)

    def position(self, real: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """(images, tiles, padded patches, width) as it enters the transformer.

        A padding tile is all zeros, and so is its patch embedding, which has no bias.
        """
        x = F.pad(real, (0, 0, 0, 0, 0, self.tiles - real.shape[1]))
        x = x + self.pre_tile_positional_embedding(ratios).unsqueeze(2)
        first = self.class_embedding.expand(*x.shape[:2], 1, -1)
        x = torch.cat([first, x], dim=2) + self.gated_positional_embedding(ratios)
        return F.pad(self.layernorm_pre(x), (0, 0, 0, -self.patches % PATCH_MULTIPLE))


def padding_last(count: int, tiles: int, patches: int, padded: int) -> tuple[torch.Tensor, int]:
    """An order of an image's tiles x padded tokens with the real ones first, and their number."""
    token = torch.arange(tiles * padded)
    is_real = (token // padded < count) & (token % padded < patches)
    return torch.cat([token[is_real], token[~is_real]]), int(is_real.sum())
