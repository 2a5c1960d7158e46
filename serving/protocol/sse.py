"""Server-sent events: one `data:` line and a blank one per event, for some dialects an `event:`.

The token frame is on the hot path, once per token and request: one encoder call, no dicts.
"""

from __future__ import annotations

from typing import Any

import msgspec

MEDIA_TYPE = b"text/event-stream"
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


def event(data: Any) -> bytes:
    """`data` as JSON in one event."""
    return b"data: " + encode(data) + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """`data` as JSON in one event that is called what its `type` says."""
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + encode(data) + b"\n\n"


def template(data: dict[str, Any], hole: str, *, named: bool = False) -> tuple[bytes, bytes]:
    """What comes before and after the one value in `data` that is the text `hole`.

    An event that differs from the next in nothing else then costs one call of `encode`.
    """
    whole = named_event(data) if named else event(data)
    before, _, after = whole.partition(encode(hole))
    return before, after
