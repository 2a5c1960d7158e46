"""By what means a run is done: in this process, by several of this machine, by a Ray cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loadtest.core import RunError
from loadtest.going import Controls, Going, Share
from loadtest.outcome import new_run
from loadtest.records import Writer
from loadtest.runner import Run
from loadtest.scenario import Scenario
from loadtest.team import Hire, Team

Maker = Callable[[Scenario, Controls], Going]


@dataclass(frozen=True, slots=True)
class Means:
    """`workers` processes; with the address of a `cluster` actors, 1 for one on each core."""

    workers: int = 1
    cluster: str | None = None

    @asynccontextmanager
    async def ready(self, writer: Writer | None) -> AsyncIterator[Maker]:
        """What makes runs, as long as the block lasts; `writer` is given their records.

        Raises:
            RunError: there is no such cluster, or it has fewer cores.
        """
        if self.cluster:
            from loadtest.swarm import Actor, cluster  # Ray is slow to import, and may be missing

            async with cluster(self.cluster) as cores:
                wanted = self.workers if self.workers > 1 else cores
                if not 0 < wanted <= cores:
                    raise RunError(f"{wanted} workers need as many cores; {cores} are free")
                yield _team(Actor.hired, wanted, writer)
        elif self.workers > 1:
            from loadtest.processes import Process

            yield _team(Process.hired, self.workers, writer)
        else:
            observers = [writer] if writer else []
            yield lambda scenario, controls: Run(
                scenario, Share(new_run()), list(observers), controls
            )


def _team(hire: Hire, count: int, writer: Writer | None) -> Maker:
    keep = writer.add if writer else None
    return lambda scenario, controls: Team(scenario, new_run(), count, hire, controls, keep)
