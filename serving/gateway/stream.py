"""Running a generation and writing its answer, for as long as the client is there.

The engine is raced against the client's disconnect from before its first token to its end, for
streams and plain answers alike; whoever stops, the engine's generator is closed, which aborts the
request in the engine. A slow client holds `send`, and with it the engine's generator, back; what
the engine produces meanwhile it hands over in one delta. So tokens share a frame only when they
have already queued. A stream that is silent for long carries comments.
"""

from __future__ import annotations

from asyncio import create_task
from collections.abc import AsyncIterator
from contextlib import aclosing

from serving.core import Delta, Generation
from serving.engine import Engine
from serving.errors import EngineFailed
from serving.gateway.asgi import Headers, Receive, Send
from serving.gateway.errors import declared
from serving.gateway.pulse import Pulse
from serving.gateway.receipts import Draft
from serving.gateway.watch import ClientLeft, Watch
from serving.protocol import envelope, sse
from serving.protocol.dialect import KEEP_ALIVE, Writer

_EVENTS: Headers = [(b"x-accel-buffering", b"no")]
# What Workers AI says of itself.
_API_VERSION = (b"api-version", b"2026-10-01.epoch")


async def answer_plain(
    engine: Engine,
    generation: Generation,
    writer: Writer,
    receive: Receive,
    send: Send,
    draft: Draft,
) -> None:
    """Generate everything, then answer in one piece.

    Raises:
        ClientLeft: the client did not wait for it; the engine was told.
        ServingError: nothing has been sent yet.
    """
    async with Watch(receive):
        delta = await complete(engine, generation, draft)
    body = writer.whole(delta)
    await send_json(send, draft, body, [(b"cf-ai-neurons", b"%.2f" % draft.neurons)])


async def complete(engine: Engine, generation: Generation, draft: Draft) -> Delta:
    """The one delta of a generation that is not streamed, noted in the draft.

    Raises:
        ServingError: see `Engine.generate`.
    """
    async with aclosing(engine.generate(generation, draft.used)) as deltas:
        # There is one; running on to the end of the generator tells it that all is well.
        whole = [delta async for delta in deltas]
    if not whole:
        raise EngineFailed("the engine ended without an answer")
    draft.note(whole[-1])
    return whole[-1]


async def answer_stream(
    engine: Engine,
    generation: Generation,
    writer: Writer,
    receive: Receive,
    send: Send,
    draft: Draft,
) -> None:
    """Write a frame for each delta as it comes. Errors after the first byte end the stream.

    Raises:
        ClientLeft: the client left on the way; the engine was told.
        ServingError: before the first byte; nothing has been sent yet.
    """

    async def comment() -> None:
        if not draft.answering:
            await start(send, draft, sse.MEDIA_TYPE, _EVENTS)
        await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    try:
        with Pulse(comment) as pulse:
            async with Watch(receive), aclosing(engine.generate(generation, draft.used)) as deltas:
                # A task of its own: what wakes for a token is that, and not the twenty calls above.
                last = await create_task(_forward(deltas, writer, send, draft, pulse))
    except ClientLeft:
        raise
    except Exception as error:
        if not draft.answering:
            raise
        failure = declared(error, draft.id)
        draft.failed(failure)
        last = writer.broken(failure)
    # After the watch has ended: a server may call a complete answer a disconnect.
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def _forward(
    deltas: AsyncIterator[Delta], writer: Writer, send: Send, draft: Draft, pulse: Pulse
) -> bytes:
    """Send the frames of all deltas but the last, whose frames are returned. The hot path."""
    last = b""
    async for delta in deltas:
        frame = writer.frames(delta)
        pulse.heard = True
        draft.note(delta)
        # Not before there is something to say: until now an error still had its own status.
        if not draft.answering:
            await start(send, draft, sse.MEDIA_TYPE, _EVENTS)
        if delta.finish is not None:
            last = frame
        elif frame:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    if not last:
        raise EngineFailed("the engine ended without finishing")
    return last


async def send_json(send: Send, draft: Draft, body: bytes, extra: Headers | None = None) -> None:
    """A complete JSON answer with the draft's status."""
    length = (b"content-length", b"%d" % len(body))
    await start(send, draft, envelope.MEDIA_TYPE, [length, *(extra or [])])
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def start(send: Send, draft: Draft, media_type: bytes, extra: Headers) -> None:
    """Status and headers."""
    headers = [
        (b"content-type", media_type),
        (b"cf-ai-req-id", draft.id.encode()),
        (b"cache-control", b"no-store"),
        _API_VERSION,
        *draft.headers,
        *extra,
    ]
    draft.answering = True
    await send({"type": "http.response.start", "status": draft.status, "headers": headers})
