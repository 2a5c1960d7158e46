"""Which replica gets what: as HAProxy with the service's rules decides it."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import sqrt
from typing import Any

import pytest

from loadtest.planner.requests import Load, Request, of_scenario
from loadtest.planner.routing import ROUTERS
from loadtest.planner.simulate import Setting, Simulation
from loadtest.scenario import build
from tests.loadtest.planner.test_fit import TRUTH


class Placed(Simulation):
    """And where each request went."""

    def __init__(self, load: Load, setting: Setting) -> None:
        super().__init__(TRUTH, load, setting)
        self.places: list[tuple[Request, int, int, float]] = []

    def _give(self, engine: Any, request: Request) -> None:
        serving = self._fleet.serving
        mean = (sum(each.ongoing for each in serving) + 1) / len(serving)
        super()._give(engine, request)
        self.places.append((request, engine.number, engine.ongoing, mean))


def load(**tenant: Any) -> Load:
    lengths = {"prompt_tokens": 300, "output_tokens": 30}
    return of_scenario(
        build(
            {
                "target": {"url": "http://127.0.0.1:8000/v1"},
                "load": {"rate": 8},
                "duration": 60,
                "tenants": [{"name": "a", **lengths, **tenant}],
            }
        )
    )


TALKS = {"turns": 5, "think": 2}
POOL = {"images": 1, "sizes": ["560x560"], "pictures": {"pool": 12, "share": 1.0}}


def went(setting: Setting, **tenant: Any) -> dict[Any, Counter[int]]:
    """To which replicas what begins alike went, and how often."""
    simulation, found = Placed(load(**tenant), setting), defaultdict(Counter)
    assert not any(record.error for record in simulation.records())
    for request, replica, _, _ in simulation.places:
        found[request.like][replica] += 1
    assert None not in found
    return found


@pytest.mark.parametrize("tenant", [TALKS, POOL, {"prefixes": {"pool": 12, "tokens": 5000}}])
def test_what_begins_alike_goes_to_one_replica_while_that_has_room(tenant: dict[str, Any]) -> None:
    alike = went(Setting(4), **tenant).values()
    kept = sum(max(each.values()) for each in alike) / sum(map(Counter.total, alike))
    assert kept > 0.8
    assert len(set().union(*alike)) == 4
    blind = went(Setting(4, "two"), **tenant).values()
    assert sum(max(each.values()) for each in blind) / sum(map(Counter.total, blind)) < 0.6


def test_a_beginning_that_is_shorter_than_what_the_router_reads_is_nothing_to_go_by() -> None:
    simulation = Placed(load(prefixes={"pool": 2, "tokens": 400}), Setting(4))
    assert list(simulation.records())
    assert {request.like for request, *_ in simulation.places} == {None}


def test_nobody_is_followed_beyond_a_fair_share() -> None:
    one = {"images": 1, "sizes": ["560x560"], "pictures": {"pool": 1, "share": 1.0}}
    simulation = Placed(load(**one), Setting(4))
    assert list(simulation.records())
    assert {ongoing > 4 for _, _, ongoing, _ in simulation.places} == {True, False}
    for _, _, ongoing, mean in simulation.places:
        assert ongoing <= max(4, 1.25 * mean + sqrt(mean))


def test_when_a_replica_dies_its_share_moves_and_the_rest_stays() -> None:
    before, after = went(Setting(4), **POOL), defaultdict(Counter)
    simulation = Placed(load(**POOL), Setting(4, failures=(30.0,)))
    assert list(simulation.records())
    gone = 3  # the last is the one that dies
    for request, replica, _, _ in simulation.places:
        if request.due > 31:
            after[request.like][replica] += 1
    for like, places in after.items():
        (usual, _), (now, _) = before[like].most_common(1)[0], places.most_common(1)[0]
        assert now == usual or usual == gone
    assert gone in {each.most_common(1)[0][0] for each in before.values()}


def test_conversations_find_their_beginnings_as_if_there_were_one_replica() -> None:
    def hits(replicas: int, router: str) -> float:
        simulation = Simulation(TRUTH, load(**TALKS), Setting(replicas, router))
        records = list(simulation.records())
        return sum(r.cached_tokens for r in records) / sum(r.prompt_tokens for r in records)

    one = hits(1, "two")
    assert hits(4, "affinity") > 0.9 * one
    assert hits(4, "two") < 0.7 * one


def test_what_nobody_has_seen_falls_on_any_of_them() -> None:
    """As a hash has it: less evenly than by the fewest requests."""

    def uneven(router: str) -> float:
        simulation = Placed(load(), Setting(2, router))
        assert list(simulation.records())
        return sum(abs(ongoing - mean) for _, _, ongoing, mean in simulation.places)

    assert uneven("affinity") > 1.2 * uneven("least")
    assert set(ROUTERS) == {"affinity", "least", "two"}
