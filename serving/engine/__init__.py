"""Engines turn a `core.Generation` into `core.Delta`s: `vllm` for real, `fake` for rehearsals."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from serving.core import Delta, Generation, Usage

Spent = Callable[[Usage], None]
"""Hears what a request used that was given up before its last delta."""


def unheard(usage: Usage) -> None:
    """A `Spent` for those who do not keep accounts."""


class Engine(Protocol):
    """What the gateway needs of an engine."""

    def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        """Yield deltas in order; all carry the `usage` so far, the last one also `finish`.

        Closing the generator, or cancelling the task that awaits it, aborts the request in the
        engine at once, and `spent` is called. With `generation.stream` false there is exactly one
        delta.

        Raises:
            BadRequest: before the first delta, when the request can never be served.
            Overloaded: before the first delta, when there is no room now.
            EngineDown: it was dead before the request came; nothing was done.
            EngineFailed: at any point.
        """
        ...

    async def count(self, generation: Generation) -> int:
        """Tokens of the prompt and its pictures, exactly as `generate` would have them.

        Nothing is generated.

        Raises:
            BadRequest: it cannot be rendered.
        """
        ...

    async def check_health(self) -> None:
        """Return when the engine works; raise `EngineFailed` when it does not."""
        ...
