"""A node is drained on a real Ray, started as the pods of the chart start it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.chart.helm import Chart
from tests.chart.nodes import (
    RAY,
    WORKERS,
    Cluster,
    answers,
    ask,
    folder,
    free_ports,
    probe,
    running,
    service,
)

VALUES = {
    "replicas": {"min": 1, "max": 1},
    "drain": {"routeSeconds": 10, "longestAnswerSeconds": 20, "loadSeconds": 600},
}


@pytest.fixture
async def cluster(chart: Chart) -> AsyncIterator[Cluster]:
    with folder() as path:
        made = Cluster(chart.render(VALUES, "cpu-demo"), path, free_ports())
        await made.head()
        with service(made):
            yield made


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_worker_is_drained_while_requests_go_on(cluster: Cluster) -> None:
    """SIGTERM to a node, as the kubelet sends it: its replica moves first, then it ends."""
    worker = await cluster.worker("one")
    async with httpx.AsyncClient(timeout=60) as client:
        applications = cluster.url("dashboard", "/api/serve/applications/")
        config = cluster.config()
        assert (await client.put(applications, json=config)).status_code == 401
        assert (await client.put(applications, json=config, headers=RAY)).status_code == 200
        (replica,) = await running(client, cluster)
        assert replica["node_ip"] == WORKERS["one"]  # never on the head
        await answers(cluster.url("serve", probe(cluster, "worker", "readinessProbe")))
        await cluster.worker("two")
        worker.send_signal(signal.SIGTERM)
        statuses = []
        async with asyncio.timeout(700):
            while worker.poll() is None:
                statuses.append(await ask(client, cluster))
                await asyncio.sleep(0.5)
        statuses += [await ask(client, cluster) for _ in range(10)]
        assert set(statuses) == {200}
        assert len(statuses) > 20
        (replica,) = await running(client, cluster)
        assert replica["node_ip"] == WORKERS["two"]
