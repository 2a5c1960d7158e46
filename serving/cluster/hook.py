"""What Ray runs in each of its worker processes before anything else: changes to Serve itself."""

from __future__ import annotations

from serving.cluster import affinity, loopback

HOOK = f"{__name__}.apply"


def apply() -> None:
    """Make them, in this process. Raises: RuntimeError: this Ray is not the one they are for."""
    loopback.apply()
    affinity.apply()
