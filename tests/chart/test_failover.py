"""Parts of a running cluster are killed, and its configuration is changed, while `loadtest` asks.

`pytest -m slow tests/chart/test_failover.py --junitxml counts.xml` writes the counts there. The
engine is the fake one: what is shown is which requests fail, how, and what is billed for them. It
wants a machine without other work: a head comes back only if Ray's agent starts within 15 seconds.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sql

from loadtest import records
from loadtest.core import Record
from tests import servers
from tests.certificates import Certificate
from tests.chart.helm import Chart, of_kind, pods
from tests.chart.nodes import (
    ACCOUNT,
    API_TOKEN,
    RAY,
    WORKERS,
    Cluster,
    answers,
    folder,
    free_ports,
    probe,
    running,
    service,
)
from tests.chart.options import OPTIONS
from tests.chart.rehearsal import dead, unfinished
from tests.chart.test_policy import allowed

RATE, SECONDS = 50, 240
TOLD = "error_in_200"  # a stream whose last event is an error
VALUES: dict[str, Any] = {
    **OPTIONS["tenancy"],
    "gcsFaultTolerance": {"enabled": True, "redisAddress": "rediss://redis:6379"},
    "trust": {"configMap": "ca"},
    "replicas": {"min": 2, "max": 2, "surgePercent": 50},
    "drain": {"routeSeconds": 10, "longestAnswerSeconds": 20, "loadSeconds": 60},
}


@dataclass(frozen=True)
class Stores:
    """The URLs of a PostgreSQL and a Redis, both by TLS, and whom to trust for it."""

    postgres: str
    redis: str
    ca: Path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    certificate, ca = Certificate.issue(), tmp_path_factory.mktemp("ca") / "ca.crt"
    ca.write_bytes(certificate.public)
    try:
        with servers.postgres(certificate) as postgres, servers.redis_by_tls(certificate) as redis:
            address = postgres.url.replace("127.0.0.1", "localhost")
            yield Stores(f"{address}?sslmode=verify-full&sslrootcert={ca}", redis.url, ca)
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def cluster(chart: Chart, stores: Stores) -> AsyncIterator[Cluster]:
    """A head and three workers, as KubeRay starts them with fault tolerance."""
    redis = f"{stores.redis}?ssl_ca_certs={stores.ca}"
    secrets = {"DATABASE_URL": stores.postgres, "REDIS_URL": redis, "TENANCY_SECRET": "s" * 32}
    with folder() as path:
        (path / "rehearsal").mkdir()
        extra = {
            "STATE_DIR": str(path / "state"),
            "REHEARSAL": str(path / "rehearsal"),
            "RAY_REDIS_CA_CERT": str(stores.ca),  # where there is no volume with it
            # KubeRay writes these into the pods.
            "RAY_REDIS_ADDRESS": stores.redis.removesuffix("/0"),
            "RAY_external_storage_namespace": path.name,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }
        made = Cluster(chart.render(VALUES, "cpu-demo"), path, free_ports(), secrets, extra)
        await made.head()
        for node in WORKERS:
            await made.worker(node)
        with service(made):
            yield made


async def deploy(client: httpx.AsyncClient, cluster: Cluster, **args: str) -> None:
    """Put the Serve configuration, with other arguments for the application."""
    config = cluster.config()
    (application,) = config["applications"]
    application |= {"import_path": "tests.chart.rehearsal:configured", "args": args}
    url = cluster.url("dashboard", "/api/serve/applications/")
    (await client.put(url, json=config, headers=RAY)).raise_for_status()


async def settled(client: httpx.AsyncClient, cluster: Cluster, gone: set[int]) -> set[int]:
    """Wait for two running replicas, none of them of `gone`; their processes."""
    async with asyncio.timeout(400):
        while True:
            with suppress(httpx.HTTPError, KeyError, ValueError):
                found = await running(client, cluster)
                processes = {each["pid"] for each in found if each["state"] == "RUNNING"}
                if len(found) == len(processes) == 2 and not processes & gone:
                    return processes
            await asyncio.sleep(1)


@dataclass
class Load:
    """`loadtest` in a process of its own."""

    process: subprocess.Popen[bytes]
    folder: Path
    lost: set[str] = field(default_factory=set)
    """Ids of what was being generated when its engine was killed."""
    cut: int = 0
    """Clients connected to a proxy that was killed."""

    @classmethod
    def start(cls, cluster: Cluster) -> Load:
        command = [
            *(sys.executable, "-m", "loadtest", "run", "--headless", "--calibration", "0"),
            *("--url", cluster.url("serve", "/client/v4"), "--account", ACCOUNT),
            *("--rate", str(RATE), "--duration", f"{SECONDS}s"),
            *("--prompt-tokens", "16", "--max-tokens", "8", "--timeout", "60s"),
            *("--records", str(cluster.folder / "records"), "--token", API_TOKEN),
        ]
        with (cluster.folder / "loadtest.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cluster.folder)
        return cls(process, cluster.folder)

    async def warm(self, seconds: float = 15) -> None:
        """Let it go on for a while."""
        await asyncio.sleep(seconds)
        assert self.process.poll() is None, (self.folder / "loadtest.log").read_text()

    def note(self, process: int) -> None:
        """This process of a replica is dead."""
        self.lost |= unfinished(self.folder / "rehearsal", process)

    async def end(self) -> list[Record]:
        await asyncio.to_thread(self.process.wait, 900)
        return list(records.read(self.folder / "records"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_but_what_the_killed_were_doing(
    cluster: Cluster, stores: Stores, record_property: Callable[[str, object], None]
) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        await deploy(client, cluster)
        processes = await settled(client, cluster, set())
        await answers(cluster.url("serve", probe(cluster, "worker", "readinessProbe")))
        load = Load.start(cluster)
        await load.warm()
        assert_open(cluster)
        processes = await kill_replica(client, cluster, load, processes)
        await load.warm()
        processes = await kill_engine(client, cluster, load, processes)
        await load.warm()
        await deploy(client, cluster, queue_seconds="59")
        processes = await settled(client, cluster, processes)
        await load.warm()
        processes = await kill_worker(client, cluster, load, processes)
        await load.warm()
        await kill_head(client, cluster, processes)
        found = await load.end()
        told = counts(found, load)
        record_property("load", told)
        judge(found, load, told)
        await billed(stores.postgres, load)


def assert_open(cluster: Cluster) -> None:
    """The network policies let through what nodes ask each other."""
    labels = pods(cluster.objects)["worker"]["metadata"]["labels"]
    rules = allowed(of_kind(cluster.objects, "NetworkPolicy"), labels, "ingress")
    ranges = [
        range(port["port"], port.get("endPort", port["port"]) + 1)
        for rule in rules
        if "head" in str(rule["from"])
        for port in rule["ports"]
    ]
    reached = cluster.reached()
    assert reached >= {6379, 6380}, reached
    assert [port for port in reached if not any(port in each for each in ranges)] == []


async def kill_replica(
    client: httpx.AsyncClient, cluster: Cluster, load: Load, processes: set[int]
) -> set[int]:
    victim = min(processes)
    psutil.Process(victim).kill()
    load.note(victim)
    return await settled(client, cluster, {victim})


async def kill_engine(
    client: httpx.AsyncClient, cluster: Cluster, load: Load, processes: set[int]
) -> set[int]:
    """Its replica tells the callers, and ends."""
    victim = min(processes)
    dead(cluster.folder / "rehearsal" / str(victim)).touch()
    left = await settled(client, cluster, {victim})
    load.note(victim)
    return left


async def kill_head(client: httpx.AsyncClient, cluster: Cluster, processes: set[int]) -> None:
    """Its state is in Redis: replicas and proxies live on without it."""
    cluster.kill("head")
    await asyncio.sleep(5)
    await cluster.head()
    assert await settled(client, cluster, set()) == processes


async def kill_worker(
    client: httpx.AsyncClient, cluster: Cluster, load: Load, processes: set[int]
) -> set[int]:
    (node, victims) = next(
        (node, found)
        for node in WORKERS
        if (found := {each.pid for each in cluster.processes(node)} & processes)
    )
    load.cut = connected(cluster, node)
    cluster.kill(node)
    for victim in victims:
        load.note(victim)
    return await settled(client, cluster, victims)


def connected(cluster: Cluster, node: str) -> int:
    """How many clients a node's proxy has."""
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == cluster.ports[f"proxy {node}"]
        for process in cluster.processes(node)
        if process.name().startswith("haproxy")
        for each in process.net_connections("tcp")
    )


def counts(found: list[Record], load: Load) -> str:
    """What came of the load, in words."""
    kinds = Counter((each.error, each.status) for each in found if each.error)
    return f"{len(found)} asked, {dict(kinds)}; lost {len(load.lost)}, cut {load.cut}"


def judge(found: list[Record], load: Load, told: str) -> None:
    failed = [each for each in found if each.error]
    assert len(found) > 10_000, told
    assert load.lost, told
    assert len(failed) <= len(load.lost) + load.cut, told
    assert any(each.error == TOLD for each in failed), told
    untold = [each for each in failed if each.error != TOLD and each.status < 500]
    assert len(untold) <= load.cut, told  # only those whose proxy died have not been told


async def billed(url: str, load: Load) -> None:
    """What was lost is in the books as that and not as complete; the rest as it was. What came to a
    dead engine has used nothing there: another replica answered it."""
    await asyncio.sleep(10)  # until others have shipped what the dead left
    query = sql.text("select receipt, outcome, completion_tokens from usage")
    with sql.create_engine(url.replace("postgresql:", "postgresql+psycopg:")).connect() as books:
        rows = {receipt: (outcome, tokens) for receipt, outcome, tokens in books.execute(query)}
    assert {rows[id_][0] for id_ in load.lost} == {"crashed", "failed"}
    answered = {row for id_, row in rows.items() if id_ not in load.lost}
    assert {outcome for outcome, tokens in answered if tokens} <= {"ok", "cancelled"}
    assert {outcome for outcome, _ in answered} <= {"ok", "cancelled", "rejected", "failed"}
