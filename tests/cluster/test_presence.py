"""What HAProxy, configured as Ray Serve configures it, tells replicas of who asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.test_affinity import ONE, patched, running

__all__ = ["patched"]  # the fixture


@pytest.mark.parametrize("said", [{}, {"x-request-disconnect-disabled": "?0"}])
async def test_serve_does_not_watch_for_clients_that_leave(
    tmp_path: Path, said: dict[str, str]
) -> None:
    async with running(tmp_path, 1) as proxy:
        (replica,) = proxy.replicas.values()
        await proxy.client.get(ONE, headers=said)
        assert replica.head.count(b"x-request-disconnect-disabled: ?1\r\n") == 1
        assert b"?0" not in replica.head
