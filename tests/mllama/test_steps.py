"""What a step may read beside others, and who is heard first after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mllama.checkpoints import SHAPES
from tests.mllama.conftest import answers, engine, greedy
from tests.mllama.prompts import Prompt, compose

TOKENS = 12
BESIDE = 48  # tokens of a step beside others
SETTINGS = {
    "scheduling_policy": "priority",
    "max_num_scheduled_tokens": BESIDE,
    "max_model_len": 384,
    "limit_mm_per_prompt": {"image": 1},
    # The long prompt and the short ones, but not two long ones.
    "num_gpu_blocks_override": 41,
}
TILE = SHAPES["gqa2"].tile
SHORT, LATE = compose("short", TILE, 20), compose("late", TILE, 30)
LONG = compose("long", TILE, 100, (1, 1), 180)


@dataclass
class Stepped:
    """An engine driven step by step, and what each step brought: requests in order."""

    llm: Any
    steps: list[list[str]] = field(default_factory=list)
    got: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, prompt: Prompt, priority: int = 0) -> None:
        self.llm.llm_engine.add_request(name, prompt.for_vllm(), greedy(TOKENS), priority=priority)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            outputs = self.llm.llm_engine.step()
            self.steps.append([output.request_id for output in outputs])
            for output in outputs:
                self.got[output.request_id] = list(output.outputs[0].token_ids)

    def run(self) -> None:
        """To the end of all."""
        for _ in range(200):
            if not self.llm.llm_engine.has_unfinished_requests():
                return
            self.step()
        raise AssertionError("the engine came to a standstill")

    def first(self, name: str) -> int:
        """The step that brought its first token."""
        return next(index for index, names in enumerate(self.steps) if name in names)


@pytest.fixture(scope="module")
def llm(checkpoint: Callable[[str], Path]) -> Iterator[Any]:
    with engine(checkpoint("gqa2"), **SETTINGS) as made:
        yield made


@pytest.fixture
def stepped(llm: Any) -> Stepped:
    assert llm.reset_prefix_cache()
    return Stepped(llm)


def test_a_long_prompt_is_read_at_once_when_nobody_waits(stepped: Stepped) -> None:
    stepped.add("long", LONG)
    stepped.step()
    assert stepped.first("long") == 0
    stepped.run()


def test_beside_others_it_is_read_in_parts(stepped: Stepped) -> None:
    stepped.add("short", SHORT)
    stepped.step()
    stepped.add("long", LONG)
    stepped.run()
    parts = -(-len(LONG.tokens) // (BESIDE - 1))
    assert stepped.first("long") == parts
    assert all("short" in names for names in stepped.steps[: parts + 1])


def test_many_who_come_at_once_do_not_all_start_in_one_step(stepped: Stepped) -> None:
    for index in range(8):
        stepped.add(str(index), compose(f"burst {index}", TILE, 20))
    stepped.run()
    assert [stepped.first(str(index)) for index in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_who_comes_first_does_not_wait_for_what_is_left_of_a_long_prompt(
    stepped: Stepped,
) -> None:
    """And whoever was overtaken answers as if nobody had come."""
    want = answers(stepped.llm, [LONG, LATE], TOKENS)
    assert stepped.llm.reset_prefix_cache()
    stepped.add("short", SHORT, priority=2)
    stepped.step()
    stepped.add("long", LONG, priority=2)
    stepped.step(2)
    stepped.add("late", LATE, priority=1)
    stepped.step()
    assert stepped.first("late") == 3
    assert stepped.steps[3] == ["late", "short"]  # the first token before others' next ones
    stepped.run()
    assert [stepped.got["long"], stepped.got["late"]] == want


def test_who_has_come_and_needs_the_memory_of_whom_it_overtakes_waits(stepped: Stepped) -> None:
    """Both are answered, though the cache holds one of them."""
    stepped.add("short", SHORT, priority=2)
    stepped.step()
    stepped.add("long", LONG, priority=2)
    stepped.step(2)
    stepped.add("other", compose("other", TILE, 280), priority=1)
    stepped.run()
    assert {name: len(tokens) for name, tokens in stepped.got.items()} == dict.fromkeys(
        ("short", "long", "other"), TOKENS
    )


def test_who_comes_before_most_of_those_who_run_is_read_whole_in_the_next_step(
    stepped: Stepped,
) -> None:
    """And whoever comes before the half of them at most is not."""
    for index in range(3):
        stepped.add(str(index), compose(f"one {index}", TILE, 12), priority=index)
    stepped.step()
    stepped.add("long", LONG, priority=0)
    stepped.step()
    assert stepped.steps[1] == ["long", "0", "1", "2"]
    stepped.run()
    stepped.steps.clear()
    for index in range(4):
        stepped.add(str(index), compose(f"one {index}", TILE, 8), priority=index)
    stepped.step()
    stepped.add("other", compose("other", TILE, 100), priority=1)
    stepped.run()
    assert stepped.first("other") == -(-101 // (BESIDE - 4))


def test_beside_others_no_more_than_a_picture_is_encoded_in_a_step(stepped: Stepped) -> None:
    stepped.add("short", SHORT)
    stepped.step()
    for index in range(3):
        stepped.add(str(index), compose(f"pictured {index}", TILE, (2, 2), 3))
    stepped.run()
    assert [stepped.first(str(index)) for index in range(3)] == [1, 2, 3]


def test_nobodys_picture_is_encoded_in_the_step_of_who_comes_before_most(
    stepped: Stepped,
) -> None:
    for index in range(3):
        stepped.add(str(index), compose(f"one {index}", TILE, 12), priority=3)
    stepped.step()
    stepped.add("pictured", compose("pictured", TILE, (2, 2), 3), priority=3)
    stepped.add("first", SHORT, priority=1)
    stepped.run()
    assert (stepped.first("first"), stepped.first("pictured")) == (1, 2)
