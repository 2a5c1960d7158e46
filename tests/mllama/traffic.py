"""Random requests that share pictures and prefixes, and random ways of sending them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tests.mllama.checkpoints import BOS, IMAGE, PAD, SHAPES, VOCABULARY
from tests.mllama.conftest import greedy
from tests.mllama.prompts import picture

TILE = SHAPES["gqa2"].tile
TOKENS = 6
MARGIN = 1e-3
"""Between the two likeliest tokens of every answer: rounding must not decide."""
# One picture in four layouts, by one name, and others of one and two tiles.
SIZES = {"a": [(1, 1), (2, 2), (4, 1), (1, 2)], "b": [(1, 1)], "c": [(1, 1)], "d": [(1, 2)]}


@dataclass(frozen=True)
class Case:
    """A prompt, what its pictures are called, and whose it is."""

    tokens: tuple[int, ...]
    pictures: tuple[tuple[str, tuple[int, int]], ...]
    salt: str = ""

    def for_vllm(self, drawn: dict[tuple[str, tuple[int, int]], Image.Image]) -> dict[str, Any]:
        """As vLLM takes it, with names that do not tell the layouts apart."""
        prompt: dict[str, Any] = {"prompt_token_ids": list(self.tokens)}
        if self.pictures:
            prompt["multi_modal_data"] = {"image": [drawn[each] for each in self.pictures]}
            prompt["multi_modal_uuids"] = {"image": [name for name, _ in self.pictures]}
        return prompt | ({"cache_salt": self.salt} if self.salt else {})


def draw() -> dict[tuple[str, tuple[int, int]], Image.Image]:
    """All pictures."""
    keys = [(name, size) for name, sizes in SIZES.items() for size in sizes]
    return {(name, size): picture(size, TILE, ord(name)) for name, size in keys}


def cases(seed: int, count: int) -> list[Case]:
    """At least `count` prompts of a few texts and pictures: many agree up to somewhere."""
    rng = random.Random(seed)
    words = [[rng.randrange(PAD + 1, VOCABULARY) for _ in range(n)] for n in (20, 33, 64, 5, 40, 9)]
    pictures = [(name, size) for name, sizes in SIZES.items() for size in sizes]
    made: dict[Case, None] = {}
    while len(made) < count:
        tokens: list[int] = [BOS]
        seen: list[tuple[str, tuple[int, int]]] = []
        for _ in range(rng.choice([1, 2, 2, 3])):
            tokens += words[rng.randrange(3)] if rng.random() < 0.7 else []
            images = rng.choice([0, 1, 1, 1, 2]) if len(seen) < 2 else 0
            tokens += [IMAGE] * images
            seen += rng.choices(pictures, k=images)
        tokens += words[3 + rng.randrange(3)]
        salt = rng.choice(["", "", "other"])
        made[Case(tuple(tokens), tuple(seen), salt)] = None
        if seen:  # the same text with another last picture
            made[Case(tuple(tokens), (*seen[:-1], rng.choice(pictures)), salt)] = None
    return list(made)


@dataclass
class Traffic:
    """An engine under random requests, and what it answered."""

    llm: Any
    drawn: dict[tuple[str, tuple[int, int]], Image.Image] = field(default_factory=draw)

    @property
    def scheduler(self) -> Any:
        """The engine's, which lives in this process."""
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def scarce(self) -> bool:
        """Whether the pool holds but a few requests."""
        return bool(self.scheduler.kv_cache_manager.block_pool.num_gpu_blocks < 100)

    def forget(self) -> None:
        """Empty all caches."""
        assert self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def cold(self, asked: list[Case]) -> dict[Case, list[int]]:
        """What each case is answered by itself, from nothing; without those on the edge."""
        params = greedy(TOKENS)
        params.logprobs = 2
        answers = {}
        for case in asked:
            self.forget()
            (output,) = self.llm.generate([case.for_vllm(self.drawn)], params, use_tqdm=False)
            tops = [sorted(p.logprob for p in step.values()) for step in output.outputs[0].logprobs]
            if min(top[-1] - top[-2] for top in tops) > MARGIN:
                answers[case] = list(output.outputs[0].token_ids)
        return answers

    def differing(self, want: dict[Case, list[int]], seed: int, requests: int) -> list[Case]:
        """Send cases at random moments, abort some; those answered otherwise than in `want`."""
        rng, engine = random.Random(seed), self.llm.llm_engine
        waiting = rng.choices(list(want), k=requests)
        running: dict[str, Case] = {}
        wrong: list[Case] = []
        while waiting or running:
            for _ in range(min(len(waiting), rng.choice([0, 0, 1, 1, 2, 6]))):
                name = f"{seed}-{len(waiting)}"
                running[name] = case = waiting.pop()
                prompt = case.for_vllm(self.drawn)
                engine.add_request(name, prompt, greedy(TOKENS), priority=rng.randrange(3))
            if running and rng.random() < 0.02:
                gone = rng.choice(list(running))
                engine.abort_request([gone])
                del running[gone]
            for output in engine.step():
                case_done = running.get(output.request_id) if output.finished else None
                if case_done is not None:
                    del running[output.request_id]
                    if list(output.outputs[0].token_ids) != want[case_done]:
                        wrong.append(case_done)
        return wrong

    def leaked(self) -> list[str]:
        """What an idle engine still holds, and should not."""
        pool = self.scheduler.kv_cache_manager.block_pool
        held = [b.block_id for b in pool.blocks if b.ref_cnt > 0 and not b.is_null]
        cache = self.scheduler.encoder_cache_manager
        counts = {
            "blocks": len(held),
            "free blocks": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
            "reservations": len(self.scheduler._images._reserved),
            "requests with blocks": len(self.scheduler._images.req_to_blocks),
            "encoder outputs in use": sum(bool(users) for users in cache.cached.values()),
            "slots of encoder outputs": cache.cache_size - cache.num_freeable_slots,
        }
        return [name for name, count in counts.items() if count]
