"""A number of a plan, and how it is known.

Origins: `measured`, `interpolated` (between what was measured or simulated), `simulated`,
`assumed`, `predicted` (from a profile nobody has measured). `low` and `high` where there is an
interval.
"""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]


def figure(
    value: float, origin: str, low: float | None = None, high: float | None = None
) -> Figure:
    """A number and how it is known."""
    found: Figure = {"value": _short(value), "origin": origin}
    return found if low is None else {**found, "low": _short(low), "high": _short(high or 0.0)}


def _short(value: float) -> float:
    return float(f"{value:.5g}")
