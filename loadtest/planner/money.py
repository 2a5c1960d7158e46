"""What the replicas' time costs, and which tokens it went into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import yaml

from loadtest.core import Record, UsageError
from loadtest.planner.model import Costs, Work

MONTH = 730.0  # hours
CLASSES = ("input", "cached", "output", "image")


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """US dollars an hour."""

    on_demand: float
    reserved: float
    spot: float
    source: str
    date: date

    def hour(self, commitment: str) -> float:
        """With this commitment."""
        found: float = getattr(self, commitment.replace("-", "_"))
        return found


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars a million tokens."""

    input: float
    cached: float
    output: float
    source: str
    date: date


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table."""

    gpus: dict[str, Gpu]
    apis: dict[str, Api]


def prices(path: Path | None = None) -> Prices:
    """The table in a file; ours, if none is given.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    path = path or Path(__file__).with_name("prices.yaml")
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), Prices)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise UsageError(f"{path} is no table of prices: {error}") from error


@dataclass(slots=True)
class Tokens:
    """Of one tenant or of all: tokens by class, `image` in tiles; requests."""

    requests: float = 0.0
    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0
    image: float = 0.0

    def scaled(self, factor: float) -> Tokens:
        """So many times as many."""
        return Tokens(*(factor * getattr(self, name) for name in Tokens.__slots__))


def tokens(records: Iterable[Record], tiles_of: Mapping[str, float]) -> dict[str, Tokens]:
    """By tenant; `tiles_of` a request of each in the mean."""
    found: dict[str, Tokens] = {}
    for record in records:
        if record.error:
            continue
        own = found.setdefault(record.tenant, Tokens())
        own.requests += 1
        own.input += record.text_tokens - record.cached_text_tokens
        own.cached += record.cached_text_tokens
        own.output += record.tokens
        own.image += tiles_of.get(record.tenant, 0.0)
    return found


def marginal(work: Work, costs: Costs, used: Tokens, overlap: float) -> dict[str, float]:
    """Engine seconds of one more token of each class, by what the simulated work went into.

    `overlap`: pairs of a new token and a cached one. Steps themselves and what they read count as
    output: they are there because answers are. An image is a tile.
    """
    looked = costs.attention * min(overlap, work.attention)
    spent = {
        "input": costs.prompt * work.prompts
        + costs.prefill * work.prefill
        + costs.attention * work.attention
        - looked,
        "cached": looked,
        "output": costs.step * work.steps + costs.row * work.rows + costs.context * work.context,
        "image": costs.tile * work.tiles + costs.cross * work.cross,
    }
    return {
        name: value / getattr(used, name) if getattr(used, name) else 0.0
        for name, value in spent.items()
    }


def bill(used: Tokens, api: Api, image_tokens: float) -> float:
    """What the hosted API would take."""
    plain = used.input + image_tokens * used.image
    return (plain * api.input + used.cached * api.cached + used.output * api.output) / 1e6


def dated(price: Gpu | Api) -> dict[str, Any]:
    """Where a price is from."""
    return {"source": price.source, "date": price.date.isoformat()}
