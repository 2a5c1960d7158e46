"""The service as Ray Serve runs it, with the fake engine: `tests.chart.rehearsal:configured`.

In the folder REHEARSAL each replica writes, into a file named after its process, `+ id` when its
engine begins a request and `- id` when it ends it. What has begun and not ended when the process
or its engine is killed is what it was generating. An engine is killed by a file with `.dead` behind
the name of its process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve

from serving.catalog import Model
from serving.cluster import replica
from serving.core import Delta, Generation
from serving.engine import Spent, unheard
from serving.engine.fake import FakeEngine, Faults
from serving.errors import EngineFailed
from serving.settings import Settings

PACE = Faults(first_token_delay=0.05, token_delay=0.05)


class Noted(FakeEngine):
    """Writes down what it begins and ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(faults=PACE)
        file = folder / str(os.getpid())
        self._file = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._killed = dead(file)

    async def generate(
        self, generation: Generation, spent: Spent = unheard
    ) -> AsyncGenerator[Delta, None]:
        end = "-"
        self._note("+", generation.id)
        try:
            async with aclosing(super().generate(generation, spent)) as deltas:
                async for delta in deltas:
                    yield delta
        except EngineFailed:
            end = "failed"
            raise
        finally:
            self._note(end, generation.id)

    async def ended(self) -> None:
        """See `VllmEngine.ended`."""
        while not self._killed.exists():  # noqa: ASYNC110 - nobody tells of files
            await asyncio.sleep(0.1)
        self.faults.dead, self.faults.fail_after = True, 0

    def close(self) -> None:
        os.close(self._file)

    def _note(self, what: str, id_: str) -> None:
        os.write(self._file, f"{what} {id_}\n".encode())


class Rehearsal(replica.Replica):
    """A replica without a model."""

    def _load(self, model: Model, settings: Settings) -> Any:
        return Noted(Path(os.environ["REHEARSAL"]))


def configured(args: dict[str, str]) -> serve.Application:
    """See `serving.cluster.replica.configured`."""
    return replica.application(Settings.model_validate(args), Rehearsal)


def dead(file: Path) -> Path:
    """The file that kills an engine, beside the one of its process."""
    return file.with_suffix(".dead")


def unfinished(folder: Path, process: int) -> set[str]:
    """What a process was generating when it or its engine was killed."""
    lines = [line.split() for line in (folder / str(process)).read_text().splitlines()]
    ended = {id_ for what, id_ in lines if what == "-"}
    return {id_ for what, id_ in lines if what == "+"} - ended
