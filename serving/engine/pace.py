"""How fast requests leave the engine, to tell callers when it is worth coming back."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 64  # requests
_SHORTEST, _LONGEST = 1.0, 60.0  # seconds; beyond a minute clients give up anyway


class Pace:
    """Times are in seconds of any one clock that only goes forward."""

    def __init__(self) -> None:
        self._left: deque[float] = deque(maxlen=_REMEMBERED)

    def left(self, now: float) -> None:
        """A request has left the engine, done or not: its place is free."""
        self._left.append(now)

    def wait(self, ahead: int, now: float) -> float:
        """How long until `ahead` requests have left, at the pace of the last ones."""
        if not self._left:
            return _SHORTEST
        each = (now - self._left[0]) / len(self._left)
        return min(max(ahead * each, _SHORTEST), _LONGEST)
