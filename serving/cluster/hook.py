"""What Ray runs in each of its worker processes before anything else: changes to Serve itself."""

from __future__ import annotations

from serving.cluster import affinity, loopback, outage, presence, sockets, truncation

HOOK = f"{__name__}.apply"


def apply() -> None:
    """Make them, in this process. Raises: RuntimeError: this Ray is not the one they are for."""
    loopback.apply()
    in_pods()


def in_pods() -> None:
    """Those of the chart, whose nodes find each other over the network. Raises: as `apply`."""
    affinity.apply()
    outage.apply()
    presence.apply()
    sockets.apply()
    truncation.apply()
