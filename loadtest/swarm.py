"""One run by the nodes of a Ray cluster: an actor per core, started at one time by all clocks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import ray

from loadtest import jobs
from loadtest.core import RunError
from loadtest.instrument import Measured
from loadtest.scenario import Scenario

_PINGS = 5
_LEAD = 2.0


class _Worker:
    """An actor: a worker with a core of its own."""

    def now(self) -> float:
        """This node's clock."""
        return time.time()

    def work(self, job: bytes) -> bytes:
        """Do a job; JSON on both sides, so that versions of Python need not agree."""
        measured = asyncio.run(jobs.work(msgspec.json.decode(job, type=jobs.Job)))
        return msgspec.json.encode(measured.fold())


def on_ray(scenario: Scenario, run: str, count: int | None, address: str) -> Measured:
    """Run on `count` actors (one for each free core if `None`) of the cluster at `address`.

    Raises:
        RunError: there is no such cluster, it has fewer cores, or no actor came back.
    """
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise RunError(f"no Ray cluster at {address}") from error
    try:
        free = int(ray.available_resources().get("CPU", 0))
        wanted = count or free
        if not 0 < wanted <= free:
            raise RunError(f"{wanted} workers need as many cores; {free} are free")
        return _conduct(scenario, run, wanted)
    finally:
        ray.shutdown()


def _conduct(scenario: Scenario, run: str, count: int) -> Measured:
    actor_class = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
    actors = [actor_class.remote() for _ in range(count)]
    offsets = [_offset(actor) for actor in actors]
    start = time.time() + _LEAD
    told = [
        msgspec.structs.replace(job, start=start + offset)
        for job, offset in zip(jobs.split(scenario, run, count, None), offsets, strict=True)
    ]
    pending = [
        actor.work.remote(msgspec.json.encode(job)) for actor, job in zip(actors, told, strict=True)
    ]
    found = []
    for each in pending:
        try:
            found.append(msgspec.json.decode(ray.get(each), type=Measured))
        except ray.exceptions.RayError:
            continue  # counted as lost
    return jobs.together(found, count)


def _offset(actor: Any) -> float:
    """Its clock less ours, from the quickest of some round trips."""
    best = float("inf"), 0.0
    for _ in range(_PINGS):
        before = time.time()
        theirs = ray.get(actor.now.remote())
        after = time.time()
        best = min(best, (after - before, theirs - (before + after) / 2))
    return best[1]
