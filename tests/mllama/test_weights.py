"""Every published tensor of the 11B has a home in our model, and no home stays empty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

HIDDEN, TILE_PATCHES, RATIOS = 4096, 1601, 9


def text_tensors() -> dict[str, tuple[int, ...]]:
    """The language model of the published 11B: 32 self-attention and 8 cross-attention layers."""
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (128_264, HIDDEN),
        "language_model.model.norm.weight": (HIDDEN,),
        "language_model.lm_head.weight": (128_256, HIDDEN),
    }
    for layer in range(40):
        cross = layer in (3, 8, 13, 18, 23, 28, 33, 38)
        at, attention = f"language_model.model.layers.{layer}", ("self", "cross")[cross]
        shapes |= {
            f"{at}.{attention}_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.{attention}_attn.k_proj.weight": (1024, HIDDEN),
            f"{at}.{attention}_attn.v_proj.weight": (1024, HIDDEN),
            f"{at}.{attention}_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{at}.mlp.gate_proj.weight": (14_336, HIDDEN),
            f"{at}.mlp.up_proj.weight": (14_336, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, 14_336),
            f"{at}.input_layernorm.weight": (HIDDEN,),
            f"{at}.post_attention_layernorm.weight": (HIDDEN,),
        }
        if cross:
            shapes |= {
                f"{at}.cross_attn.q_norm.weight": (128,),
                f"{at}.cross_attn.k_norm.weight": (128,),
                f"{at}.cross_attn_attn_gate": (1,),
                f"{at}.cross_attn_mlp_gate": (1,),
            }
    return shapes


def vision_tensors() -> dict[str, tuple[int, ...]]:
    """The tower and the projector of the published 11B."""
    at = "vision_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}.class_embedding": (1280,),
        f"{at}.patch_embedding.weight": (1280, 3, 14, 14),
        f"{at}.gated_positional_embedding.embedding": (TILE_PATCHES, 1280),
        f"{at}.gated_positional_embedding.gate": (1,),
        f"{at}.gated_positional_embedding.tile_embedding.weight": (
            RATIOS,
            4 * TILE_PATCHES * 1280,
        ),
        "multi_modal_projector.weight": (HIDDEN, 7680),
        "multi_modal_projector.bias": (HIDDEN,),
    }
    for side in ("pre", "post"):
        shapes |= {
            f"{at}.layernorm_{side}.weight": (1280,),
            f"{at}.layernorm_{side}.bias": (1280,),
            f"{at}.{side}_tile_positional_embedding.embedding.weight": (RATIOS, 4 * 1280),
            f"{at}.{side}_tile_positional_embedding.gate": (1,),
        }
    for stack, layers in (("transformer", 32), ("global_transformer", 8)):
        for layer in range(layers):
            shapes |= vision_layer(f"{at}.{stack}.layers.{layer}", gated=layers == 8)
    return shapes


def vision_layer(at: str, gated: bool) -> dict[str, tuple[int, ...]]:
    """One layer of the tower."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}.mlp.fc1.weight": (5120, 1280),
        f"{at}.mlp.fc1.bias": (5120,),
        f"{at}.mlp.fc2.weight": (1280, 5120),
        f"{at}.mlp.fc2.bias": (1280,),
    }
    for part in "qkvo":
        shapes[f"{at}.self_attn.{part}_proj.weight"] = (1280, 1280)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        shapes |= {f"{at}.{norm}.weight": (1280,), f"{at}.{norm}.bias": (1280,)}
    if gated:
        shapes |= {f"{at}.gate_attn": (1,), f"{at}.gate_ffn": (1,)}
    return shapes


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published 11B checkpoint."""
    return text_tensors() | vision_tensors()


def in_memory(name: str) -> str:
    """A published name as transformers 5 calls the tensor in memory."""
    if name == "language_model.lm_head.weight":
        return "lm_head.weight"
    return "model." + name.replace("language_model.model.", "language_model.")


@contextmanager
def vllm_model(folder: Path) -> Iterator[torch.nn.Module]:
    """Our model of a configuration in `folder`, on the meta device, with one rank."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.torch_utils import set_default_torch_dtype

    config = EngineArgs(
        str(folder), dtype="bfloat16", max_model_len=4096, enforce_eager=True
    ).create_engine_config()
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(
            1, 0, f"file://{folder}/rendezvous", 0, backend="gloo"
        )
        parallel_state.initialize_model_parallel(1)
        try:
            from serving.mllama.model import MllamaForConditionalGeneration as Ours

            with torch.device("meta"), set_default_torch_dtype(torch.bfloat16):
                yield Ours(vllm_config=config)
        finally:
            parallel_state.cleanup_dist_env_and_memory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with everything but weights: the true 11B configuration."""
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    from tests.mllama.checkpoints import tokenizer

    config = MllamaConfig()
    config.architectures = ["MllamaForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    MllamaImageProcessorPil(size={"height": 448, "width": 448}).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def published_config(folder: Path) -> Path:
    """The published instruct checkpoints use 560-pixel tiles; transformers' default is 448."""
    config = MllamaConfig.from_pretrained(folder)
    config.vision_config.image_size = 560
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["published", "in memory"])
def test_every_tensor_of_the_11b_has_a_home(layout: str, published_config: Path) -> None:
    """Loading meta tensors of the published names and shapes fills every parameter, once."""
    rename = in_memory if layout == "in memory" else str
    weights = [
        (rename(name), torch.empty(shape, dtype=torch.bfloat16, device="meta"))
        for name, shape in published().items()
    ]
    with vllm_model(published_config) as model:
        parameters = {name: p.numel() for name, p in model.named_parameters()}
        loaded = model.load_weights(iter(weights))
    assert loaded == set(parameters)
    assert sum(t.numel() for _, t in weights) == 10_670_220_835
    # vLLM pads the embedding's rows to a multiple of 64.
    assert sum(parameters.values()) == 10_670_220_835 + (128_320 - 128_264) * HIDDEN


def test_a_tensor_without_a_home_is_refused(published_config: Path) -> None:
    """A name we do not know stops the loading instead of being dropped."""
    stray = [("language_model.model.layers.3.cross_attn.surprise", torch.empty(1, device="meta"))]
    with vllm_model(published_config) as model, pytest.raises(ValueError, match="surprise"):
        model.load_weights(iter(stray))


def test_our_table_of_the_11b_agrees_with_transformers(published_config: Path) -> None:
    """The same names and shapes as transformers' own model of the configuration."""
    config = MllamaConfig.from_pretrained(published_config)
    with torch.device("meta"):
        theirs = MllamaForConditionalGeneration(config).state_dict()
    want = {in_memory(name): shape for name, shape in published().items()}
    assert {name: tuple(t.shape) for name, t in theirs.items()} == want


def test_the_90b_is_recognised(published_config: Path) -> None:
    """100 layers with a cross-attention layer every fifth, 8,192 wide: 4 images fit a prompt."""
    from vllm.engine.arg_utils import EngineArgs

    config = MllamaConfig.from_pretrained(published_config)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads = 8192, 28_672, 64
    text.num_hidden_layers, text.cross_attention_layers = 100, list(range(3, 100, 5))
    config.save_pretrained(published_config)
    made = EngineArgs(
        str(published_config), dtype="bfloat16", max_model_len=4096, tensor_parallel_size=2
    ).create_engine_config()
    assert made.model_config.architecture == "MllamaForConditionalGeneration"
    assert made.model_config.is_encoder_decoder
    assert made.scheduler_config.enable_chunked_prefill
    assert made.cache_config.enable_prefix_caching
    assert made.scheduler_config.max_num_encoder_input_tokens == 4 * 6528
