"""The Llama 3.2 Vision architecture in small and fast, under Meta's semantics.

Module names follow the published checkpoint, so `state_dict()` is the checkpoint. Two points differ
from transformers 5.19: intermediate vision states are the inputs of their layers, and a
cross-attention layer leaves the rows before the first picture exactly as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MllamaConfig, MllamaTextConfig, MllamaVisionConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from training.attention import attention
from training.pictures import ASPECT_RATIOS, GRID, MAX_TILES, PATCH, TILE
from training.tokenizer import VOCABULARY

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the published image processor
STD = (0.26862954, 0.26130258, 0.27577711)


def configuration(token_ids: dict[str, int]) -> MllamaConfig:
    """The shipped architecture; `token_ids` of the special tokens by name."""
    vision = MllamaVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_global_layers=1,
        attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        max_num_tiles=MAX_TILES,
        intermediate_layers_indices=[2, 4],
        supported_aspect_ratios=[list(ratio) for ratio in ASPECT_RATIOS],
        vision_output_dim=128 * 3,
    )
    text = MllamaTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        cross_attention_layers=[1, 4],
        max_position_embeddings=8192,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        bos_token_id=token_ids["<|begin_of_text|>"],
        eos_token_id=[token_ids[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")],
        pad_token_id=token_ids["<|finetune_right_pad_id|>"],
        tie_word_embeddings=False,
    )
    return MllamaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token_ids["<|image|>"],
        tie_word_embeddings=False,
    )


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _fused(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The outputs of several bias-free layers on one input, as a single product."""
    product = F.linear(x, torch.cat([layer.weight for layer in layers]))
    return product.split([layer.out_features for layer in layers], dim=-1)


class VisionAttention(nn.Module):
    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        width = config.hidden_size
        self.q_proj, self.k_proj = _linear(width, width), _linear(width, width)
        self.v_proj, self.o_proj = _linear(width, width), _linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, N, C); mask: (1 or B, 1, N, N) added to the scores."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in _fused(x, self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attention(q, k, v, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class VisionMLP(nn.Module):
    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    def __init__(self, config: MllamaVisionConfig, gated: bool) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.mlp = VisionMLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.gated = gated
        if gated:
            self.gate_attn = nn.Parameter(torch.full((1,), math.pi / 4))
            self.gate_ffn = nn.Parameter(torch.full((1,), math.pi / 4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), mask)
        x = x + (self.gate_attn.tanh() * attended if self.gated else attended)
        fed = self.mlp(self.post_attention_layernorm(x))
        return x + (self.gate_ffn.tanh() * fed if self.gated else fed)


class VisionEncoder(nn.Module):
    def __init__(self, config: MllamaVisionConfig, layers: int, gated: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config, gated) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and the input of every layer."""
        inputs = []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x, mask)
        return x, inputs


class PositionEmbedding(nn.Module):
    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        tokens, width = GRID * GRID + 1, config.hidden_size
        self.gate = nn.Parameter(torch.full((1,), 0.5))
        self.embedding = nn.Parameter(torch.zeros(tokens, width))
        self.tile_embedding = nn.Embedding(len(ASPECT_RATIOS) + 1, MAX_TILES * tokens * width)

    def forward(self, x: Tensor, ratio_ids: Tensor) -> Tensor:
        """x: (B, tiles, 1 + patches, C)."""
        gate = self.gate.tanh()
        return x + (1 - gate) * self.embedding + gate * self.tile_embedding(ratio_ids).view_as(x)


class TileEmbedding(nn.Module):
    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((1,), 0.5))
        self.embedding = nn.Embedding(len(ASPECT_RATIOS) + 1, MAX_TILES * config.hidden_size)

    def forward(self, x: Tensor, ratio_ids: Tensor) -> Tensor:
        """x: (B, tiles, tokens, C)."""
        embedding = self.embedding(ratio_ids).view(x.shape[0], MAX_TILES, 1, x.shape[-1])
        return x + self.gate.tanh() * embedding


class VisionModel(nn.Module):
    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        self.intermediate = config.intermediate_layers_indices
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.gated_positional_embedding = PositionEmbedding(config)
        self.pre_tile_positional_embedding = TileEmbedding(config)
        self.post_tile_positional_embedding = TileEmbedding(config)
        self.layernorm_pre = nn.LayerNorm(width)
        self.layernorm_post = nn.LayerNorm(width)
        self.transformer = VisionEncoder(config, config.num_hidden_layers, gated=False)
        self.global_transformer = VisionEncoder(config, config.num_global_layers, gated=True)

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, tiles, 3, TILE, TILE) to (B, tiles, patches, C): the convolution as one product."""
        batch = pixels.shape[0]
        cut = pixels.view(batch, MAX_TILES, 3, GRID, PATCH, GRID, PATCH)
        cut = cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, MAX_TILES, GRID * GRID, -1)
        return F.linear(cut, self.patch_embedding.weight.flatten(1))

    def forward(
        self, pixels: Tensor, ratio_ids: Tensor, tile_mask: Tensor, apart: bool = False
    ) -> Tensor:
        """Features (B, tiles, 1 + patches, vision_output_dim).

        pixels: (B, tiles, 3, TILE, TILE) normalised; ratio_ids: (B,); tile_mask: (B, tiles) bool.
        Every tile is processed; the mask only keeps padding from attending to padding. With
        `apart` no tile sees another, as if each were a picture: cheap first training.
        """
        x = self.pre_tile_positional_embedding(self.patches(pixels), ratio_ids)
        batch, tiles, _, width = x.shape
        x = torch.cat([self.class_embedding.expand(batch, tiles, 1, width), x], dim=2)
        tokens = x.shape[2]
        x = self.layernorm_pre(self.gated_positional_embedding(x, ratio_ids))
        padding = -tokens % 8
        x = F.pad(x, (0, 0, 0, padding))
        unused = ~tile_mask[:, :, None].expand(batch, tiles, tokens + padding).clone()
        unused[:, :, tokens:] = True
        rows = (batch * tiles if apart else batch, -1)
        x, unused = x.reshape(*rows, width), unused.reshape(rows).to(x.dtype)
        mask = (unused[:, :, None] * unused[:, None, :] * torch.finfo(x.dtype).min)[:, None]

        x, inputs = self.transformer(x, mask)
        x = self.layernorm_post(x).view(batch, tiles, -1, width)
        x = self.post_tile_positional_embedding(x, ratio_ids).view(*rows, width)
        x, _ = self.global_transformer(x, mask)
        # transformers stacks the intermediate states last, so their channels interleave.
        states = torch.stack([inputs[i] for i in self.intermediate], dim=-1).flatten(2)
        return torch.cat([x, states], dim=-1).view(batch, tiles, tokens + padding, -1)[
            :, :, :tokens
        ]


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class TextMLP(nn.Module):
    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config.hidden_size, config.intermediate_size)
        self.up_proj = _linear(config.hidden_size, config.intermediate_size)
        self.down_proj = _linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = _fused(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class TextAttention(nn.Module):
    """Grouped-query attention, over the text itself or, with `cross`, over picture features."""

    def __init__(self, config: MllamaTextConfig, cross: bool) -> None:
        super().__init__()
        width, self.heads, self.groups = (
            config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
        )  # fmt: skip
        self.head_dim = width // self.heads
        self.q_proj = _linear(width, width)
        self.k_proj = _linear(width, self.groups * self.head_dim)
        self.v_proj = _linear(width, self.groups * self.head_dim)
        self.o_proj = _linear(width, width)
        self.cross = cross
        if cross:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self, x: Tensor, source: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor
    ) -> Tensor:
        """x: (B, T, C); source: (B, S, C), x itself for self-attention; mask: (B or 1, 1, T, S)."""
        batch, length, width = x.shape
        if self.cross:
            q, (k, v) = self.q_proj(x), _fused(source, self.k_proj, self.v_proj)
        else:
            q, k, v = _fused(x, self.q_proj, self.k_proj, self.v_proj)
        q = q.view(batch, length, self.heads, -1).transpose(1, 2)
        k = k.view(batch, -1, self.groups, self.head_dim).transpose(1, 2)
        v = v.view(batch, -1, self.groups, self.head_dim).transpose(1, 2)
        if self.cross:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary:
            q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        share = self.heads // self.groups
        k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        mixed = attention(q, k, v, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class SelfLayer(nn.Module):
    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.self_attn = TextAttention(config, cross=False)
        self.mlp = TextMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        normed = self.input_layernorm(x)
        x = x + self.self_attn(normed, normed, rotary, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class CrossLayer(nn.Module):
    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.cross_attn = TextAttention(config, cross=True)
        self.mlp = TextMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.full((1,), 0.7))
        self.cross_attn_mlp_gate = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x: Tensor, features: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """rows: (B, T, 1), 1 where the row has seen a picture and 0 before."""
        attended = self.cross_attn(self.input_layernorm(x), features, None, mask)
        x = x + self.cross_attn_attn_gate.tanh() * rows * attended
        fed = self.mlp(self.post_attention_layernorm(x))
        return x + self.cross_attn_mlp_gate.tanh() * rows * fed


class TextModel(nn.Module):
    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size + 8, config.hidden_size)
        self.layers = nn.ModuleList(
            CrossLayer(config) if index in config.cross_attention_layers else SelfLayer(config)
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        kind = config.rope_parameters["rope_type"]
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(
        self, ids: Tensor, features: Tensor | None, rows: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The final states and, where there is a picture, the first ones that know of it."""
        x, looked = self.embed_tokens(ids), None
        length = ids.shape[1]
        rotary = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        lowest = torch.finfo(x.dtype).min
        causal = torch.full((length, length), lowest, dtype=x.dtype).triu(1)[None, None]
        for layer in self.layers:
            if isinstance(layer, SelfLayer):
                x = layer(x, rotary, causal)
            elif features is not None:
                x = layer(x, features, rows, mask)
                looked = x if looked is None else looked
        return self.norm(x), looked


class LanguageModel(nn.Module):
    def __init__(self, config: MllamaTextConfig) -> None:
        super().__init__()
        self.model = TextModel(config)
        self.lm_head = _linear(config.hidden_size, config.vocab_size)


class Mllama(nn.Module):
    """The whole model; `read` gives the hidden states, `logits` the output layer."""

    def __init__(self, config: MllamaConfig) -> None:
        super().__init__()
        self.image_token = config.image_token_index
        self.vision_model = VisionModel(config.vision_config)
        self.multi_modal_projector = nn.Linear(
            config.vision_config.vision_output_dim, config.text_config.hidden_size
        )
        self.language_model = LanguageModel(config.text_config)

    def see(
        self, pixels: Tensor, ratio_ids: Tensor, tile_mask: Tensor, apart: bool = False
    ) -> Tensor:
        """Vision features (B, tiles, 1 + patches, vision_output_dim)."""
        return self.vision_model(pixels, ratio_ids, tile_mask, apart)

    def read(
        self, ids: Tensor, seen: Tensor | None = None, tile_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, T, C) of token ids (B, T), one picture to a row or none at all.

        With a picture also the states after the first cross-attention layer, as many.
        """
        if seen is None:
            return self.language_model.model(ids, None, None, None)
        features = self.multi_modal_projector(seen).flatten(1, 2)
        hidden = torch.zeros_like(tile_mask, dtype=features.dtype)
        hidden = hidden.masked_fill(~tile_mask, torch.finfo(features.dtype).min)
        mask = hidden[:, :, None].expand(-1, -1, seen.shape[2]).flatten(1)[:, None, None]
        mask = mask.expand(-1, 1, ids.shape[1], -1)
        rows = ((ids == self.image_token).cumsum(1) > 0)[..., None].to(features.dtype)
        return self.language_model.model(ids, features, rows, mask)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.language_model.lm_head(hidden)


def normalise(tiles: Tensor, tile_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (B, tiles, TILE, TILE, 3) to normalised (B, tiles, 3, TILE, TILE), unused tiles 0."""
    mean, std = 255 * torch.tensor(MEAN), 255 * torch.tensor(STD)
    pixels = ((tiles.float() - mean) / std) * tile_mask[:, :, None, None, None]
    return pixels.to(dtype).permute(0, 1, 4, 2, 3).contiguous()


def _waves(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Sine and cosine features of grid positions: (..., width)."""
    rates = torch.exp(torch.linspace(math.log(0.1), math.log(2.0), width // 4))
    angles = torch.cat((rows[..., None] * rates, columns[..., None] * rates), dim=-1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _initialise_positions(vision: VisionModel) -> None:
    """Start from waves: of the place in the tile, and of the place on the whole canvas."""
    position, width = vision.gated_positional_embedding, vision.class_embedding.shape[0]
    row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    position.embedding[1:] = 0.4 * _waves(row.flatten(), column.flatten(), width)
    position.embedding[0] = 0.1 * torch.randn(width)
    table = 0.02 * torch.randn(len(ASPECT_RATIOS) + 1, MAX_TILES, GRID * GRID + 1, width)
    for number, (rows, columns) in enumerate(ASPECT_RATIOS, start=1):
        for tile in range(rows * columns):
            down, across = GRID * (tile // columns), GRID * (tile % columns)
            places = _waves(row.flatten() + down, column.flatten() + across, width)
            table[number, tile, 1:] = 0.4 * places
    position.tile_embedding.weight.copy_(table.flatten(1))
    for tile_embedding in (
        vision.pre_tile_positional_embedding,
        vision.post_tile_positional_embedding,
    ):
        nn.init.normal_(tile_embedding.embedding.weight, std=0.1)


@torch.no_grad()
def initialise(model: Mllama) -> None:
    """Weights start near 1/sqrt(inputs), as widths are small; what writes back starts smaller."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scale = 0.3 if name.endswith(("o_proj", "down_proj", "fc2")) else 0.9
            nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.language_model.lm_head.weight, std=0.02)
    nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.3)
    nn.init.normal_(model.vision_model.patch_embedding.weight, std=0.06)
    _initialise_positions(model.vision_model)


def token_ids(tokenizer) -> dict[str, int]:
    """Special token ids by name."""
    return {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items()}
