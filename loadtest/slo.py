"""Objectives: `ttft p95 < 500ms, itl p95 < 50ms, errors < 0.1%`.

Quantities: ttft, itl, tpot, e2e, service_ttft, service_e2e (with p50, p99.9, mean, max...), errors
(share of requests), goodput and tokens (per second), rate (requests per second).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.core import Record, UsageError
from loadtest.expressions import seconds

LATENCIES = ("ttft", "itl", "tpot", "e2e", "service_ttft", "service_e2e")
_RATES = {"goodput": "goodput", "tokens": "output_tokens_per_second", "rate": "requests_per_second"}
_TERM = re.compile(r"(\w+)(?:\s+(p\d{1,2}(?:\.\d+)?|mean|max|min))?\s*(<=|>=|<|>)\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Objective:
    """`quantity statistic < limit`; `below` is the direction. Limits in seconds, shares, 1/s."""

    quantity: str
    statistic: str
    below: bool
    limit: float
    text: str

    @property
    def share(self) -> float | None:
        """The statistic as a share below: 0.95 of p95; `None` for mean and extremes."""
        return float(self.statistic[1:]) / 100 if self.statistic.startswith("p") else None

    @property
    def unit(self) -> str:
        """Of the limit and of values: `s`, `share` or `1/s`."""
        return "share" if self.quantity == "errors" else "1/s" if self.quantity in _RATES else "s"

    def value(self, summary: Mapping[str, Any]) -> float | None:
        """What a summary says of it, in the unit of `limit`; `None` if it says nothing."""
        if self.quantity == "errors":
            return float(summary["error_rate"])
        if self.quantity in _RATES:
            found = summary.get(_RATES[self.quantity])
            return None if found is None else float(found)
        found = summary[f"{self.quantity}_ms"].get(self.statistic)
        return None if found is None else float(found) / 1e3

    def met(self, summary: Mapping[str, Any]) -> bool:
        """Whether it holds. What was not measured was not met."""
        value = self.value(summary)
        return value is not None and (value < self.limit) == self.below and value != self.limit


def parse(text: str) -> tuple[Objective, ...]:
    """Read objectives, separated by commas or `and`.

    Raises:
        UsageError: with the part that cannot be read, and why.
    """
    parts = [part.strip() for part in re.split(r",|\band\b", text) if part.strip()]
    if not parts:
        raise UsageError("no objective given; try 'ttft p95 < 500ms, errors < 0.1%'")
    return tuple(_objective(part) for part in parts)


def _objective(text: str) -> Objective:
    found = _TERM.fullmatch(text)
    if not found:
        raise UsageError(f"not an objective: {text!r}; try 'ttft p95 < 500ms'")
    quantity, statistic, sign, limit = found.groups()
    below = sign.startswith("<")
    if quantity == "errors" or quantity in _RATES:
        if statistic:
            raise UsageError(f"{quantity} is one number and has no {statistic}: {text!r}")
        return Objective(quantity, "", below, _share(quantity, limit, text), text)
    if quantity not in LATENCIES:
        known = ", ".join((*LATENCIES, "errors", *_RATES))
        raise UsageError(f"unknown quantity {quantity!r} in {text!r}; there are {known}")
    if limit[-1].isdigit():
        raise UsageError(f"a duration needs a unit (ms, s): {text!r}")
    return Objective(quantity, statistic or "p95", below, seconds(limit), text)


def _share(quantity: str, limit: str, text: str) -> float:
    percent = limit.endswith("%")
    try:
        value = float(limit.rstrip("%")) / (100 if percent else 1)
    except ValueError as error:
        raise UsageError(f"not a number: {text!r}") from error
    if quantity == "errors" and not 0 <= value <= 1:
        raise UsageError(f"a share of errors lies between 0 and 1 (or 100%): {text!r}")
    return value


def shown(value: float | None, unit: str) -> str:
    """A value as a reader wants it: in milliseconds, per cent, or as it is."""
    if value is None:
        return "not measured"
    text = {"s": f"{1e3 * value:.4g} ms", "share": f"{100 * value:.4g}%"}
    return text.get(unit, f"{value:.4g}")


def attained(objectives: tuple[Objective, ...], record: Record) -> bool:
    """Whether one request kept every limit that can be held against one request."""
    if record.error:
        return False
    return all(_kept(each, record) for each in objectives if each.quantity in LATENCIES)


def _kept(objective: Objective, record: Record) -> bool:
    value = _of_request(objective.quantity, record)
    return value is None or (value <= objective.limit) == objective.below


def _of_request(quantity: str, record: Record) -> float | None:
    """Seconds; `None` where a request has no such value."""
    if quantity in (
        "itl",
        "tpot",
    ):  # one request's ITL is its mean, as MLPerf and DistServe have it
        tokens = record.tokens
        return sum(record.gaps) / 1e6 / (tokens - 1) if tokens > 1 and record.gaps else None
    begin = record.sent if quantity.startswith("service") else record.intended
    if quantity.endswith("e2e"):
        return record.end - begin
    return None if record.first_token is None else record.first_token - begin
