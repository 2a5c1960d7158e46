"""For each bucket of a histogram the trace of a request that fell into it, lately.

prometheus_client keeps no exemplars in files, so they have one of their own beside the counts: a
JSON list, written anew once a second while there are new ones.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

Key = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels of a sample."""


class Kept(msgspec.Struct, frozen=True):
    """An exemplar with its sample. `at` is Unix time."""

    name: str
    labels: dict[str, str]
    trace: str
    value: float
    at: float

    @property
    def key(self) -> Key:
        """Its sample's."""
        return self.name, frozenset(self.labels.items())


_decode = msgspec.json.Decoder(list[Kept]).decode


class Exemplars:
    """Those of one process. Bounded: there is one for a bucket."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept: dict[Key, Kept] = {}
        self._new = False
        self._writing = threading.Lock()

    def note(self, kept: Kept) -> None:
        """In place of the bucket's last one."""
        self._kept[kept.key] = kept
        self._new = True

    def write(self) -> None:
        """What came since the last time, for whoever answers scrapes."""
        with self._writing:
            if not self._new:
                return
            self._new = False
            part = self._file.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(list(self._kept.values())))
            part.replace(self._file)


def read(file: Path) -> dict[Key, Kept]:
    """What `Exemplars` wrote there, if anything."""
    try:
        return {kept.key: kept for kept in _decode(file.read_bytes())}
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
