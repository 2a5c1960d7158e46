"""Reading a request's body, up to a limit, whatever its content type says it is."""

from __future__ import annotations

from serving.errors import BodyTooLarge
from serving.gateway.asgi import Receive, Scope
from serving.gateway.watch import ClientLeft

MAX_BODY_BYTES = 32 * 2**20


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    Raises:
        BodyTooLarge: by its announced length already, or while reading.
        ClientLeft: the client went before it was complete.
    """
    if _announced(scope) > limit:
        raise BodyTooLarge(limit)
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _announced(scope: Scope) -> int:
    """The content length; 0 for chunked bodies."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return 0
