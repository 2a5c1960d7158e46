"""Both model runners plan a step alike, and the plan becomes the segments a backend is given.

The V2 runner itself needs a GPU; its per-model state runs here with its own types on CPU tensors.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from serving.mllama.plan import Write
from tests.mllama.checkpoints import IMAGE, SHAPES, configuration

CONFIG = configuration(SHAPES["gqa4"])
TILE_TOKENS = 145
PROMPTS: dict[str, tuple[list[int], list[int]]] = {
    "text": ([5] * 40, []),
    "decoding": ([5, IMAGE, 5, 5], [1]),
    "starting": ([5] * 10 + [IMAGE, IMAGE, 5], [2, 1]),
    "half done": ([5] * 30 + [IMAGE, 5, IMAGE, 5], [4, 1]),
}
COMPUTED = {"text": 0, "decoding": 9, "starting": 0, "half done": 25}
SCHEDULED = {"text": 40, "decoding": 1, "starting": 13, "half done": 9}
# The second of two images; of the first one the blocks are there.
WRITES = {"starting": (Write("b", 0, 290, TILE_TOKENS),)}


def features(tiles: list[int]) -> list[Any]:
    """What the scheduler sends of a request's images."""
    from serving.mllama.plan import slots_for

    return [
        SimpleNamespace(mm_position=SimpleNamespace(length=slots_for(t, TILE_TOKENS)))
        for t in tiles
    ]


def v1_plan(scheduled: dict[str, int] = SCHEDULED) -> Any:
    """The plan the V1 runner's wrapped method gives for the batch, or a part of it."""
    from serving.mllama.kv import MllamaCrossAttentionSpec
    from serving.mllama.orders import Orders
    from serving.mllama.runner_v1 import _get_encoder_seq_lens, _process

    runner = SimpleNamespace(
        encoder_cache={},
        model_config=SimpleNamespace(hf_config=CONFIG),
        encoder_seq_lens=SimpleNamespace(gpu=torch.zeros(8)),
        input_batch=SimpleNamespace(
            req_id_to_index={name: index for index, name in enumerate(PROMPTS)},
            num_computed_tokens_cpu=np.array(list(COMPUTED.values())),
        ),
        requests={
            name: SimpleNamespace(prompt_token_ids=tokens, mm_features=features(tiles))
            for name, (tokens, tiles) in PROMPTS.items()
        },
    )
    spec = MllamaCrossAttentionSpec(
        block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32, max_slots=1280
    )
    _process(runner, SimpleNamespace(free_encoder_mm_hashes=[], ec_manager_metadata=Orders(WRITES)))
    return _get_encoder_seq_lens(runner, scheduled, spec, len(scheduled))[1].plan


def v2_state() -> Any:
    """The V2 runner's state with the batch's requests added, without the runner around it."""
    from serving.mllama.runner_v2 import MllamaModelState

    state = object.__new__(MllamaModelState)
    state.model_config = SimpleNamespace(hf_config=CONFIG, max_model_len=512)
    state.layouts, state.writes = {}, {}
    state.encoder_cache = SimpleNamespace(encoder_outputs={"b": torch.arange(TILE_TOKENS)})
    for index, (name, (tokens, tiles)) in enumerate(PROMPTS.items()):
        state.add_request(
            index,
            SimpleNamespace(
                req_id=name,
                prompt_token_ids=tokens,
                mm_features=features(tiles),
                mllama_writes=WRITES.get(name, ()),
            ),
        )
    return state


def v2_batch() -> Any:
    """The batch as the V2 runner describes it."""
    scheduled = np.array(list(SCHEDULED.values()), dtype=np.int32)
    computed = np.array(list(COMPUTED.values()), dtype=np.int32)
    starts = np.concatenate(([0], np.cumsum(scheduled))).astype(np.int32)
    return SimpleNamespace(
        req_ids=list(PROMPTS),
        num_reqs=len(PROMPTS),
        num_tokens=int(scheduled.sum()),
        num_scheduled_tokens=scheduled,
        num_computed_tokens_np=computed,
        query_start_loc=torch.from_numpy(starts),
        query_start_loc_np=starts,
        seq_lens=torch.from_numpy(computed + scheduled),
        seq_lens_cpu_upper_bound=torch.from_numpy(computed + scheduled),
        dcp_local_seq_lens=None,
        prompt_lens=None,
    )


def test_both_runners_make_the_same_plan() -> None:
    """For a text, a decoding, a starting and a half prefilled request in one batch."""
    from serving.mllama.plan import StepPlan

    first, second = v1_plan(), v2_state().plan(v2_batch())
    assert first.writes == second.writes == WRITES["starting"]
    for field in set(StepPlan.__slots__) - {"writes"}:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), field)
    assert first.query_lens.tolist() == [40, 1, 10, 1, 2, 5, 2, 2]
    assert len(first.write_slots) == TILE_TOKENS


def test_a_step_without_images_is_not_planned() -> None:
    """Though requests with images are waiting for their turn: nothing is seen, nothing written."""
    from serving.mllama.plan import TEXT_ONLY

    assert v1_plan({"text": 40}) is TEXT_ONLY
    assert v2_state().plan(SimpleNamespace(req_ids=["text"])) is TEXT_ONLY
    assert not TEXT_ONLY.sees_images
    assert TEXT_ONLY.writes == ()


def test_the_v1_runner_leaves_other_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cross-attention group that is not ours gets what vLLM computes."""
    from serving.mllama import runner_v1

    monkeypatch.setattr(runner_v1, "_original", lambda *args: args[1:])
    assert runner_v1._get_encoder_seq_lens(None, {"a": 1}, "spec", 3) == (
        {"a": 1},
        "spec",
        3,
        False,
    )


def test_the_v2_runner_hands_the_plan_to_the_builder() -> None:
    """Through vLLM's own metadata path; the builder then sees segments instead of requests."""
    from serving.mllama.attention import over_segments, visible_rows, write_slots
    from serving.mllama.pages import Paging

    seen: list[Any] = []

    def build_metadata(common: Any, ubatch: int) -> Any:
        seen.append(common)
        return common

    builder = SimpleNamespace(supports_update_block_table=False)
    group = SimpleNamespace(
        build_metadata=build_metadata,
        get_metadata_builder=lambda ubatch: builder,
        layer_names=["cross"],
        kv_cache_spec=None,
    )
    table = torch.arange(1, 4 * 64 + 1, dtype=torch.int32).view(4, 64)
    from vllm.config.compilation import CUDAGraphMode

    metadata = v2_state().prepare_attn(
        v2_batch(),
        CUDAGraphMode.NONE,
        (table,),
        torch.zeros(1, 63, dtype=torch.int64),
        [[group]],
        SimpleNamespace(kv_cache_groups=[None]),
    )
    assert metadata == {"cross": seen[0]}
    # Two pages to a block, all second ones behind all first ones.
    step, size, paging = seen[0].encoder_seq_lens_cpu, 32, Paging(2, 1, 1000)
    plan = step.plan
    assert step.states().tolist() == list(range(TILE_TOKENS))
    common = over_segments(plan, seen[0], size, paging)
    assert common.num_reqs == 8
    assert common.query_start_loc.tolist() == [0, 40, 41, 51, 52, 54, 59, 61, 63]
    # 1 where nothing is seen; then one tile, runs of two and three tiles, four tiles, one tile.
    assert common.seq_lens.tolist() == [1, 145, 1, 290, 435, 1, 580, 145]
    assert common.max_query_len == 40
    assert common.max_seq_len == 580
    assert common.causal is False
    # Invisible segments read the null block; the last image starts 640 slots, 10 blocks in.
    assert common.block_table_tensor[:, 0].tolist() == [0, 65, 0, 129, 129, 0, 193, 193 + 10]
    assert common.block_table_tensor[3, :4].tolist() == [129, 1129, 130, 1130]
    rows = visible_rows(plan, torch.device("cpu"))
    assert rows.flatten().int().tolist() == [0] * 40 + [1] + [0] * 10 + [1] * 3 + [0] * 5 + [1] * 4
    places = write_slots(plan, table, size, paging)
    assert places[0] == (1129 + 290 // 64) * 32 + 290 % 32
    assert places[-1] == (1129 + 434 // 64) * 32 + 434 % 32


def test_a_finished_request_is_forgotten() -> None:
    """The V2 state keeps nothing of a request that ended."""
    state = v2_state()
    state.remove_request("starting")
    state.remove_request("text")
    assert set(state.layouts) == {"decoding", "half done"}
    assert "starting" not in state.writes


def test_the_v2_runner_writes_once() -> None:
    """In the first step after a request was added, and not in the next."""
    state, batch = v2_state(), v2_batch()
    assert state.plan(batch).writes == WRITES["starting"]
    assert state.plan(batch).writes == ()


def test_the_v2_runner_keeps_what_it_encoded() -> None:
    """Under the names by which later steps ask for it."""
    state = v2_state()
    state.encoder_runner = SimpleNamespace(
        prepare_mm_inputs=lambda inputs: (["c"], ["item"]),
        execute_mm_encoder=lambda items: [torch.ones(2)] if items == ["item"] else [],
        timed_encoder_operation=lambda requests: nullcontext(),
    )
    assert state.prepare_inputs_embeds({"starting": [1]}, v2_batch(), None) is None
    assert set(state.encoder_cache.encoder_outputs) == {"b", "c"}
