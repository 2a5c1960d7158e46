"""Streams whose replica is killed end with an error of the API instead of breaking off.

A replica whose engine dies says so itself. One that is killed cannot, but HAProxy, which stands
before it, sees that the stream has not ended and has `truncation.lua` end it. When HAProxy itself
is killed, streams break off: bodies without their end, which no client takes for whole ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from ray.serve._private import haproxy

from serving import errors
from serving.cluster import outage

_THREADS = "    nbthread {{ config.nbthread }}\n"
_SCRIPT = f"    lua-load-per-thread {Path(__file__).with_suffix('.lua')}\n"
_FRONTEND = "frontend http_frontend\n"


def apply() -> None:
    """Add the filter to what Serve makes HAProxy's configuration of, in this process.

    Raises:
        RuntimeError: this Ray writes it otherwise than the one this was written for.
    """
    template = haproxy.HAPROXY_CONFIG_TEMPLATE
    if any(template.count(line) != 1 for line in (_THREADS, _FRONTEND)):
        raise RuntimeError("HAProxy's template has changed: see where clients come in")
    template = template.replace(_THREADS, _THREADS + _SCRIPT)
    rule = f"    filter lua.truncation '{_told()}'\n"
    haproxy.HAPROXY_CONFIG_TEMPLATE = template.replace(_FRONTEND, _FRONTEND + rule)


def _told() -> str:
    """An event for all dialects, with a hole where the id of the request goes.

    The empty `response` is for clients that print that field of every frame.
    """
    return json.dumps({"response": "", **outage.body(errors.EngineDown(), "REQUEST")})
