"""How long the vision encoder took for each request with pictures: vLLM's stopwatch, read out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

_PAUSE = 1.0  # seconds, in which more requests end that one question answers for

_log = logging.getLogger("serving.engine")


class Stopwatch:
    """Asks the engine's process, while there are pictures.

    Where vLLM encodes several requests' pictures together, each has an even share of the time.
    """

    def __init__(self, llm: AsyncLLM, heard: Callable[[float], None]) -> None:
        """`heard` gets the seconds of each request, once. They come a second or so late."""
        self._llm = llm
        self._heard = heard
        self._running = llm.vllm_config.observability_config.enable_mm_processor_stats
        self._asking: asyncio.Task[None] | None = None

    def read(self) -> None:
        """Pictures have been encoded."""
        if self._running and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        await asyncio.sleep(_PAUSE)
        # Kept beside it in the front end, by request, until somebody takes it.
        self._llm.renderer._mm_timing_registry.stat()
        try:
            workers: list[dict[str, dict[str, Any]]] = await self._llm.collective_rpc(
                "get_encoder_timing_stats"
            )
        except Exception as error:
            _log.debug("the engine tells no times: %s", error)
            return
        for request in {name for worker in workers for name in worker}:
            found = [
                worker[request]["encoder_forward_secs"] for worker in workers if request in worker
            ]
            self._heard(max(found))
