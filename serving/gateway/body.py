"""Reading a request's body, up to a limit, whatever its content type says it is."""

from __future__ import annotations

from serving.errors import BodyTooLarge, MalformedBody
from serving.gateway.asgi import Receive, Scope
from serving.gateway.watch import ClientLeft

MAX_BODY_BYTES = 32 * 2**20
_COMPRESSED = (b"gzip", b"deflate", b"br", b"zstd", b"compress")


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    Raises:
        BodyTooLarge: by its announced length already, or while reading.
        MalformedBody: it is compressed.
        ClientLeft: the client went before it was complete.
    """
    if _header(scope, b"content-encoding", b"").lower() in _COMPRESSED:
        raise MalformedBody("a compressed body (content-encoding) is not read here")
    if int(_header(scope, b"content-length", b"0")) > limit:
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


def _header(scope: Scope, wanted: bytes, default: bytes) -> bytes:
    """Its value, if it is there: chunked bodies announce no length."""
    for name, value in scope["headers"]:
        if name == wanted:
            found: bytes = value
            return found
    return default
