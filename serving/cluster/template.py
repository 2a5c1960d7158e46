"""The template that Serve makes HAProxy's configuration of, as it is in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ray.serve._private import haproxy

_THREADS = "    nbthread {{ config.nbthread }}\n"


def change(texts: Mapping[str, str], what: str, script: Path | None = None) -> None:
    """Replace texts, and have HAProxy load a script in Lua.

    Raises:
        RuntimeError: a text is not there once, so this Ray writes `what` otherwise than the one
            this was written for.
    """
    if script is not None:
        texts = {**texts, _THREADS: f"{_THREADS}    lua-load-per-thread {script}\n"}
    template = haproxy.HAPROXY_CONFIG_TEMPLATE
    if any(template.count(text) != 1 for text in texts):
        raise RuntimeError(f"HAProxy's template has changed: see {what}")
    for text, other in texts.items():
        template = template.replace(text, other)
    haproxy.HAPROXY_CONFIG_TEMPLATE = template
