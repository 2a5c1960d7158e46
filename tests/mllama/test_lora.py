"""Requests with LoRA adapters, on real engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm.lora.request import LoRARequest

from tests.mllama.adapters import merge, modules, pairs, write
from tests.mllama.checkpoints import SHAPES
from tests.mllama.conftest import TOKENS, engine, greedy
from tests.mllama.reference import Reference

SHAPE = "gqa2"


@pytest.fixture(scope="module")
def adapters(checkpoint: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """Two that go everywhere they may, two out of place."""
    folder, reference = tmp_path_factory.mktemp("adapters"), Reference(checkpoint(SHAPE))
    everywhere = modules(SHAPES[SHAPE])
    cross = ["model.language_model.layers.1.cross_attn.q_proj"]
    vision = ["model.vision_model.transformer.layers.0.mlp.fc1"]
    made = {"one": (everywhere, 1), "two": (everywhere, 2), "cross": (cross, 3)}
    made |= {"vision": (vision, 4)}
    return {
        name: write(folder / name, pairs(reference, names, seed))
        for name, (names, seed) in made.items()
    }


@pytest.fixture(scope="module")
def llm(checkpoint: Any) -> Iterator[Any]:
    """An engine with room for two adapters in a batch."""
    with engine(
        checkpoint(SHAPE), enable_lora=True, max_loras=2, max_cpu_loras=3, max_lora_rank=8
    ) as made:
        yield made


def request(adapters: dict[str, Path], name: str) -> LoRARequest | None:
    """`name` as vLLM is asked for it; "" is the model as it is."""
    number = 1 + list(adapters).index(name) if name else 0
    return LoRARequest(name, number, str(adapters[name])) if name else None


def test_tokens_equal_the_merged_reference_in_batches_mixed_with_the_base_model(
    llm: Any, adapters: dict[str, Path], checkpoint: Any, expected: Any
) -> None:
    """Text and images, two adapters and none, all in one batch; then again, from warm caches."""
    from safetensors.torch import load_file

    cases = expected(SHAPE)
    want = {("", name): tokens for name, (_, tokens) in cases.items()}
    for adapter in ("one", "two"):
        merged = Reference(checkpoint(SHAPE))
        merge(merged, load_file(adapters[adapter] / "adapter_model.safetensors"))
        for name, (prompt, _) in cases.items():
            want[adapter, name] = merged.generate(prompt.tokens, prompt.images, TOKENS)
    asked = sorted(want, key=lambda key: (key[1], key[0]))
    for _ in range(2):
        outputs = llm.generate(
            [cases[name][0].for_vllm() for _, name in asked],
            greedy(),
            use_tqdm=False,
            lora_request=[request(adapters, adapter) for adapter, _ in asked],
        )
        got = {key: list(out.outputs[0].token_ids) for key, out in zip(asked, outputs, strict=True)}
        assert [key for key in asked if got[key] != want[key]] == []
    differing = [name for name in cases if want["one", name] != want["", name]]
    assert len(differing) == len(cases)


def test_a_prefix_is_never_shared_between_adapters(llm: Any, adapters: dict[str, Path]) -> None:
    """The same words again: a hit for the same adapter, none for another or for none."""
    words = {"prompt_token_ids": [1, *range(10, 140)]}
    cached = [
        llm.generate([words], greedy(1), use_tqdm=False, lora_request=[request(adapters, name)])[
            0
        ].num_cached_tokens
        for name in ("one", "one", "two", "", "", "two")
    ]
    assert cached == [0, 128, 0, 0, 128, 128]


@pytest.mark.parametrize("name", ["cross", "vision"])
def test_an_adapter_out_of_place_is_refused_and_the_engine_lives_on(
    name: str, llm: Any, adapters: dict[str, Path]
) -> None:
    """Instead of being passed over in part."""
    found = request(adapters, name)
    with pytest.raises(ValueError, match="takes no adapter for"):
        llm.llm_engine.add_lora(found)
    words = {"prompt_token_ids": [1, 2, 3]}
    (out,) = llm.generate([words], greedy(2), use_tqdm=False, lora_request=[None])
    assert len(out.outputs[0].token_ids) == 2


def test_only_what_may_be_adapted_is_wrapped(llm: Any) -> None:
    """Feed-forward everywhere, attention in the self-attention layers, nothing else."""
    (wrapped,) = llm.apply_model(wrapped_modules)
    shape = SHAPES[SHAPE]
    assert len(wrapped) == 2 * shape.layers + 2 * (shape.layers - len(shape.cross))
    assert not [name for name in wrapped if "cross_attn" in name or "vision" in name]


def wrapped_modules(model: Any) -> list[str]:
    """Names of the layers that vLLM made ready for adapters."""
    return sorted(model.lora_manager.modules)
