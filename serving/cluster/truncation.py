"""Streams whose replica is killed end with an error of the API instead of breaking off.

A replica whose engine dies says so itself. One that is killed cannot, but HAProxy, which stands
before it, sees that the stream has not ended and has `truncation.lua` end it. When HAProxy itself
is killed, streams break off: bodies without their end, which no client takes for whole ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from serving import errors
from serving.cluster import affinity, outage, template

_FRONTEND = "frontend http_frontend\n"


def apply() -> None:
    """Add the filter to what Serve makes HAProxy's configuration of, in this process.

    Raises:
        RuntimeError: see `template.change`.
    """
    rule = f"    filter lua.truncation '{_told()}' {affinity.BUFFER}\n"
    script = Path(__file__).with_suffix(".lua")
    template.change({_FRONTEND: _FRONTEND + rule}, "where clients come in", script)


def _told() -> str:
    """An event for all dialects, with a hole where the id of the request goes.

    The empty `response` is for clients that print that field of every frame.
    """
    return json.dumps({"response": "", **outage.body(errors.EngineDown(), "REQUEST")})
