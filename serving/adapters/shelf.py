"""Adapters' files in one folder that all replicas see, named by the digest of their content.

    files/<id>/<sha256>   uploaded for an adapter that is not complete yet
    adapters/<sha256>/    adapter_config.json and adapter_model.safetensors, for the engine

A file is never changed, so several processes may write at once, and an engine may read again at
any time what it has read before: nothing below `adapters` is ever removed.
"""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import BinaryIO

_PIECE = 2**20

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


class Shelf:
    """The folder. Every call blocks."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._adapters = folder / "adapters"

    def keep(self, id_: str, source: BinaryIO) -> str:
        """Copy a file for the adapter `id_`; the digest of the file."""
        place = self._files / id_
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = sha256()
        with NamedTemporaryFile(dir=place, prefix="new-", delete=False) as copy:
            try:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    copy.write(piece)
                copy.flush()
                os.fsync(copy.fileno())
                Path(copy.name).rename(place / digest.hexdigest())
            except BaseException:
                Path(copy.name).unlink(missing_ok=True)
                raise
        return digest.hexdigest()

    def file(self, id_: str, digest: str) -> Path:
        """Where a kept file lies."""
        return self._files / id_ / digest

    def discard(self, id_: str, *needed: str | None) -> None:
        """Remove what was kept for the adapter `id_`, but for the files with these digests."""
        place = self._files / id_
        for file in place.glob("*"):
            if file.name not in needed and not file.name.startswith("new-"):
                file.unlink(missing_ok=True)

    def bind(self, id_: str, config: bytes, weights: str) -> str:
        """Put a configuration and kept weights together; the digest of the two."""
        digest = sha256(config + weights.encode()).hexdigest()
        place = self.adapter(digest)
        if place.exists():
            return digest
        self._adapters.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(mkdtemp(dir=self._adapters, prefix="new-"))
        try:
            (made / CONFIG).write_bytes(config)
            os.link(self.file(id_, weights), made / WEIGHTS)
            made.rename(place)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not place.exists():  # somebody else may have been faster
                raise
        return digest

    def adapter(self, digest: str) -> Path:
        """The folder that the engine reads."""
        return self._adapters / digest
