"""What a replica remembers: beginnings of prompts, and pictures; the longest unused goes first."""

from __future__ import annotations

from collections.abc import Sequence


class Cache:
    """Keys with sizes, within a capacity."""

    def __init__(self) -> None:
        self._sizes: dict[object, float] = {}  # in order of use
        self.used = 0.0

    def leading(self, keys: Sequence[object]) -> int:
        """How many of the keys are there before the first that is not; they are used now."""
        sizes, found = self._sizes, 0
        for key in keys:
            size = sizes.pop(key, None)
            if size is None:
                break
            sizes[key] = size
            found += 1
        return found

    def put(self, key: object, size: float, capacity: float) -> None:
        """Remember `key`, forgetting others for it."""
        self.used += size - self._sizes.pop(key, 0.0)
        self._sizes[key] = size
        self.shrink(capacity)

    def shrink(self, capacity: float) -> None:
        """Forget until no more than `capacity` is used."""
        while self.used > capacity and self._sizes:
            self.used -= self._sizes.pop(next(iter(self._sizes)))
