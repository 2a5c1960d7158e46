"""How long the vision encoder took for each request with pictures: vLLM's stopwatch, read out."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

_PAUSE = 1.0  # seconds, in which more requests end that one question answers for

_log = logging.getLogger("serving.engine")


class Stopwatch:
    """Asks the engine's process, while there are pictures.

    Where vLLM encodes several requests' pictures together, each has an even share of the time. A
    request whose pictures were encoded before, for others, has none.
    """

    def __init__(self, llm: AsyncLLM, heard: Callable[[str, float], None]) -> None:
        """`heard` gets a request's id and its seconds, once, a second or so after its end."""
        self._llm = llm
        self._heard = heard
        self._running = llm.vllm_config.observability_config.enable_mm_processor_stats
        self._seconds: defaultdict[str, float] = defaultdict(float)  # of requests that run, so far
        self._ended: list[str] = []
        self._asking: asyncio.Task[None] | None = None

    def ended(self, request: str) -> None:
        """A request with pictures has, well or not: none of its pictures will be encoded now."""
        if not self._running:
            return
        self._ended.append(request)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Until nobody has ended since the last answer."""
        while self._ended:
            await asyncio.sleep(_PAUSE)
            ended, self._ended = self._ended, []
            try:
                await self._read()
            except Exception as error:
                _log.debug("the engine tells no times: %s", error)
                self._ended = ended + self._ended
                return
            for request in ended:
                if request in self._seconds:
                    self._heard(request, self._seconds.pop(request))

    async def _read(self) -> None:
        # Kept beside it in the front end, by request, until somebody takes it.
        self._llm.renderer._mm_timing_registry.stat()
        workers: list[dict[str, dict[str, Any]]] = await self._llm.collective_rpc(
            "get_encoder_timing_stats"
        )
        for internal in {name for worker in workers for name in worker}:
            found = [
                worker[internal]["encoder_forward_secs"] for worker in workers if internal in worker
            ]
            self._seconds[_external(internal)] += max(found)


def _external(internal: str) -> str:
    """Our id of a request: vLLM adds some random letters."""
    return internal.rpartition("-")[0]
