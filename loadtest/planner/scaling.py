"""Autoscaling policies as pure steps: what is observed -> how many replicas there should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Observed:
    """The fleet at a moment. `ongoing` requests run or wait; `ongoing` is `None` if the metrics
    are missing. `target` replicas serve or are being started."""

    at: float
    target: int
    ongoing: int | None


class Policy(Protocol):
    """Asked every `interval` seconds."""

    interval: float

    def desired(self, seen: Observed) -> int:
        """How many replicas there should be."""


@dataclass(slots=True)
class OngoingRequests:
    """Ray Serve's default: ongoing requests over the target for one replica, once that has asked
    for the same direction throughout the delay. Missing metrics count as no requests, unless
    `fail_static`."""

    target_ongoing: float
    least: int = 1
    most: int = 1
    upscale_delay: float = 30.0
    downscale_delay: float = 600.0
    interval: float = 10.0
    fail_static: bool = False
    _since: float = field(default=0.0, init=False)
    _direction: int = field(default=0, init=False)

    def desired(self, seen: Observed) -> int:
        """See `Policy`."""
        if seen.ongoing is None and self.fail_static:
            return seen.target
        wanted = ceil((seen.ongoing or 0) / self.target_ongoing - 1e-9)
        wanted = min(self.most, max(self.least, wanted))
        direction = (wanted > seen.target) - (wanted < seen.target)
        if direction != self._direction:
            self._direction, self._since = direction, seen.at
        delay = self.upscale_delay if direction > 0 else self.downscale_delay
        if direction == 0 or seen.at - self._since < delay:
            return seen.target
        self._since = seen.at
        return wanted
