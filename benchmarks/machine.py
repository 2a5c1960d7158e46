"""The machine that is measured: what it is, and in which type its processor computes best."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# Instructions by which models compute, the best first.
_VECTORS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def described() -> dict[str, Any]:
    """The processor, its cores, the memory (GiB), the load average of the last minute."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "vectors": vectors(),
        "cores": os.cpu_count(),
        "memory": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def vectors() -> str:
    """The best vector instructions it has, "" if none that we know."""
    flags = _field("/proc/cpuinfo", "flags").split()
    return next((name for flag, name in _VECTORS.items() if flag in flags), "")


def dtype() -> str:
    """What to run models in.

    Without AVX-512 an operation in bfloat16 takes some 70 times as long as in float32, and an
    engine that is slow for that reason says nothing of one on a GPU.
    """
    return "bfloat16" if vectors().startswith(("AMX", "AVX-512")) else "float32"


def _field(file: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.+)$", Path(file).read_text(), re.MULTILINE)
    return found[1] if found else "0"
