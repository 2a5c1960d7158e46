"""When the requests of an open loop are due: drawn beforehand, whatever becomes of them."""

from __future__ import annotations

from loadtest import arrivals
from loadtest.going import Share
from loadtest.scenario import Scenario

_PATIENCE = 3600.0  # a bounded number of requests comes to an end before so many seconds each


def times(scenario: Scenario, share: Share, rate: str | None, begun: float) -> list[float]:
    """Of one worker, in seconds from now, when a run of the scenario has `begun` so long ago.

    At another `rate` than the scenario's, if there is one.
    """
    duration = (scenario.duration or (scenario.requests or 0) * _PATIENCE) - begun
    profile = arrivals.profile(rate or scenario.load.rate or "", duration)
    process = arrivals.process(scenario.load.arrivals)
    most = scenario.requests
    found = arrivals.schedule(profile, process, duration, str(scenario.seed), most)
    return found[share.index :: share.count]
