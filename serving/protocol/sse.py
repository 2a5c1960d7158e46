"""Server-sent events as Workers AI writes them: one `data:` line and a blank one per event.

The token frame is on the hot path, once per token and request: one encoder call, no dicts.
"""

from __future__ import annotations

from typing import Any

import msgspec

MEDIA_TYPE = b"text/event-stream"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def event(data: Any) -> bytes:
    """`data` as JSON in one event."""
    return b"data: " + _encode(data) + b"\n\n"


def text_event(text: str) -> bytes:
    """`{"response": text}` in one event, without the dict."""
    return b'data: {"response":' + _encode(text) + b"}\n\n"
