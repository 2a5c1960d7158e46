"""What tokens cost: exact integers, from lists in USD per million tokens.

A dollar per million tokens is 10^6 picodollars per token, so six decimals of a list are exact. A
neuron per million is a microneuron per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serving.core import Usage

LISTS = Path(__file__).with_name("prices.yaml")
PICODOLLARS = 10**12
"""In a dollar."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one model, per token: picodollars, and microneurons."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    neurons_input: int = 0
    neurons_output: int = 0

    def of(self, usage: Usage) -> int:
        """Picodollars. Cached tokens are prompt tokens at a price of their own."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.input
            + usage.cached_tokens * self.cached_input
            + usage.completion_tokens * self.output
        )

    def neurons(self, usage: Usage) -> int:
        """Microneurons."""
        prompt = usage.prompt_tokens * self.neurons_input
        return prompt + usage.completion_tokens * self.neurons_output


Prices = Mapping[str, Price]
"""By model id. A model that is not listed costs nothing."""
FREE = Price()


class _Line(BaseModel):
    """A model's line as written. Decimals, not floats: 0.049 is no binary fraction."""

    model_config = ConfigDict(extra="forbid")

    input: Decimal = Field(ge=0, decimal_places=6)
    cached_input: Decimal = Field(ge=0, decimal_places=6)
    output: Decimal = Field(ge=0, decimal_places=6)
    neurons_input: Decimal = Field(default=Decimal(0), ge=0, decimal_places=0)
    neurons_output: Decimal = Field(default=Decimal(0), ge=0, decimal_places=0)


def read(choice: str) -> Prices:
    """The list called `choice` in `LISTS`, or `file#list`.

    Raises:
        OSError: the file cannot be read.
        ValueError: no such list, or a line with unknown fields or more than six decimals.
    """
    file, _, name = choice.rpartition("#")
    path = Path(file) if file else LISTS
    lists = TypeAdapter(dict[str, dict[str, _Line]]).validate_python(
        yaml.safe_load(path.read_text())
    )
    if name not in lists:
        raise ValueError(f"no price list {name!r} in {path.name}: {', '.join(lists)}")
    return {model: _price(line) for model, line in lists[name].items()}


def _price(line: _Line) -> Price:
    return Price(
        input=int(line.input * 10**6),
        cached_input=int(line.cached_input * 10**6),
        output=int(line.output * 10**6),
        neurons_input=int(line.neurons_input),
        neurons_output=int(line.neurons_output),
    )


def dollars(picodollars: int) -> str:
    """Exact, for people and CSV: `0.000123`."""
    return f"{Decimal(picodollars).scaleb(-12):f}"
