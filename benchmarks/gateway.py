"""Requests to a gateway in this process, without sockets: what its own code costs."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.gateway.app import Gateway


async def ask(gateway: Gateway, account: str, token: str, model: str, body: bytes) -> None:
    """One native request, answered to its end.

    Raises:
        RuntimeError: the answer is not a 200.
    """
    sent, gone = [{"type": "http.request", "body": body}], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/client/v4/accounts/{account}/ai/run/{model}",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer " + token.encode())],
    }
    await gateway(scope, receive, send)
