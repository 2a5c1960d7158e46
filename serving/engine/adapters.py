"""LoRA adapters as vLLM knows them: numbered, and read once before a request may use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

from vllm.lora.request import LoRARequest

from serving.core import Generation
from serving.errors import LoraUnsupported


class Adapters:
    """Those that one engine has met. `read` has it read one, and raises what is wrong with it."""

    def __init__(self, read: Callable[[LoRARequest], Awaitable[bool]]) -> None:
        self._read = read
        self._met: dict[str, tuple[LoRARequest, asyncio.Future[bool]]] = {}
        # Within this engine, and never used again; names are digests, in its prefix cache too.
        self._numbers = count(1)

    async def of(self, generation: Generation) -> LoRARequest | None:
        """vLLM's request for the generation's adapter, once that has been read.

        One that cannot be read fails here, and not the engine amid everybody's step.

        Raises:
            LoraUnsupported: an adapter is asked for that nobody has looked up.
        """
        adapter = generation.adapter
        if adapter is None:
            if generation.lora:
                raise LoraUnsupported(generation.model)
            return None
        digest = adapter.digest
        if digest not in self._met:
            named = LoRARequest(digest, next(self._numbers), str(adapter.folder))
            self._met[digest] = named, asyncio.ensure_future(self._read(named))
        named, reading = self._met[digest]
        try:
            await asyncio.shield(reading)  # others wait for it too
        except Exception:
            self._met.pop(digest, None)
            raise
        return named
