"""The little notation of numbers with a name: `12`, `ramp(1, 20)`, `lognormal(512, 0.6)`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loadtest.core import UsageError

_CALL = re.compile(r"\s*([a-z]+)?\s*(?:\(([^()]*)\))?\s*", re.IGNORECASE)
_SECONDS = re.compile(r"\s*([0-9.]+)\s*(us|ms|s|m|h|)\s*")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Call:
    """A name and its numbers; a bare number has no name."""

    name: str
    numbers: tuple[float, ...]


def parse(text: str | float) -> Call:
    """Read `text`.

    Raises:
        UsageError: it is not in this notation.
    """
    try:
        return Call("", (float(text),))
    except ValueError:
        pass
    found = _CALL.fullmatch(str(text))
    try:
        if found and found[1]:
            numbers = found[2].split(",") if found[2] else []
            return Call(found[1].lower(), tuple(seconds(number) for number in numbers))
    except UsageError:
        pass
    raise UsageError(f"cannot read {text!r}")


def seconds(text: str | float) -> float:
    """Read a duration: `90`, `90s`, `1.5m`, `250ms`.

    Raises:
        UsageError: it is none.
    """
    found = _SECONDS.fullmatch(str(text))
    try:
        if found:
            return float(found[1]) * _UNITS[found[2]]
    except ValueError:
        pass
    raise UsageError(f"not a duration: {text!r}")
