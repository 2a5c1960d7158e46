"""The machine that replicas share: who works there slows the others down."""

from __future__ import annotations


class Host:
    """`crowding`: how much longer a step takes, as a share, for each other engine at work."""

    def __init__(self, crowding: float) -> None:
        self._crowding = crowding
        self.working = 0

    @property
    def slowness(self) -> float:
        """Of a step that begins now; whose engine is at work already."""
        return 1 + self._crowding * (self.working - 1)
