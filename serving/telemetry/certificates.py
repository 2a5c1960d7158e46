"""When certificates end, from the files they are in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography import x509

_log = logging.getLogger("serving.telemetry")


def expiries(files: Iterable[Path]) -> Mapping[str, float]:
    """Unix time by file name: of the first to expire of the PEM certificates in each file.

    A file that cannot be read has ended already: somebody must look.
    """
    return {file.name: _first(file) for file in files}


def _first(file: Path) -> float:
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        _log.error("no certificate in %s: %s", file, error)
        return 0.0
    return min(each.not_valid_after_utc for each in found).timestamp()
