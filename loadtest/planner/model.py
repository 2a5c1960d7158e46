"""What one replica is: the seconds a step of its engine takes, and what it has room for.

An engine with continuous batching works in steps. A step decodes one token for every running
request (a row) and prefills some prompt tokens; its time is taken as linear in what it does:

    step + row·rows + context·(tokens in the rows' KV) + cross·(tiles the rows attend to)
         + prompt·(prompts that end) + prefill·(new prompt tokens)
         + attention·(new tokens x tokens before them) + tile·tiles
"""

from __future__ import annotations

import random
from math import exp
from pathlib import Path

import msgspec

from loadtest.core import UsageError


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds for one of each; see the module. Outside the engine, while it goes on with others:
    `request` on HTTP and tokens, `cut` on a tile, before it is there; and `notice` until an engine
    that is at work knows of it."""

    step: float
    row: float = 0.0
    context: float = 0.0
    cross: float = 0.0
    prompt: float = 0.0
    prefill: float = 0.0
    attention: float = 0.0
    tile: float = 0.0
    request: float = 0.0
    cut: float = 0.0
    notice: float = 0.0

    def seconds(self, work: Work) -> float:
        """How long a step with this work takes."""
        return (
            self.step
            + self.row * work.rows
            + self.context * work.context
            + self.cross * work.cross
            + self.prompt * work.prompts
            + self.prefill * work.prefill
            + self.attention * work.attention
            + self.tile * work.tiles
        )


class Work(msgspec.Struct):
    """What a step does, or many steps together."""

    rows: float = 0.0
    context: float = 0.0
    cross: float = 0.0
    prompts: float = 0.0
    prefill: float = 0.0
    attention: float = 0.0
    tiles: float = 0.0
    steps: float = 1.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a replica has room for, as vLLM's settings say it.

    `budget` is `max_num_batched_tokens`, what a step computes for a request that is alone; `beside`
    is `max_num_scheduled_tokens`, which bounds a step beside others (0: it does not); `kv` the
    tokens of self-attention KV that fit; a tile's cross-attention KV counts as `tile_kv` of them.
    `queue` is how many may run and wait before others get 429. `prefixes`, `pictures`: whether
    beginnings of prompts and pictures that were seen before are reused; what is free of the memory
    keeps them.
    """

    seqs: int = 128
    budget: int = 4096
    beside: int = 0
    kv: int = 1 << 62
    tile_kv: float = 401.0
    queue: int = 1 << 62
    prefixes: bool = True
    pictures: bool = True
    tile_pixels: int = 560

    def __post_init__(self) -> None:
        """Raises: ValueError: as the engine would."""
        if 0 < self.beside < self.seqs:
            raise ValueError(f"beside, {self.beside}, must be no less than seqs, {self.seqs}")


class Replica(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica: costs, limits, how sure the costs are, and where they come from.

    `origin` is `measured` or `predicted`. `errors` are relative standard errors of costs; `draws`
    other costs that fit the measurement about as well, for intervals. `cold_start` in seconds.
    `crowding`: how much longer its steps take, as a share, for each other one that works on its
    machine.
    """

    name: str
    origin: str
    costs: Costs
    limits: Limits = Limits()
    errors: dict[str, float] = {}
    draws: tuple[Costs, ...] = ()
    sources: tuple[str, ...] = ()
    cold_start: float = 180.0
    crowding: float = 0.0
    fit: dict[str, float] = {}

    def alternatives(self, count: int) -> list[Costs]:
        """Costs as they might be: of the fit's bootstrap, or drawn from `errors`. Seeded."""
        if self.draws:
            return [self.draws[i % len(self.draws)] for i in range(count)]
        rng = random.Random(0)
        return [
            msgspec.structs.replace(
                self.costs,
                **{
                    name: getattr(self.costs, name) * exp(rng.gauss(0.0, error))
                    for name, error in self.errors.items()
                },
            )
            for _ in range(count)
        ]


def read(path: Path) -> Replica:
    """A model that `loadtest fit` wrote.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Replica)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is not a model: {error}") from error
