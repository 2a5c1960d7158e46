"""What the chart renders, on a real Ray of three nodes on loopback: the environment, the start
parameters, the probes and the Serve configuration of its pods. No Kubernetes takes part."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.chart.helm import CHART, Chart, Object, pods, ray

ACCOUNT, API_TOKEN, RAY_TOKEN = "0" * 32, "an-api-token", "a" * 64
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
RAY = {"authorization": f"Bearer {RAY_TOKEN}"}
VALUES = {
    "replicas": {"min": 1, "max": 1},
    "drain": {"routeSeconds": 10, "longestAnswerSeconds": 20, "loadSeconds": 600},
}
# Nodes of one machine share its ports; pods have their own.
PORTS = ("gcs", "dashboard", "serve", "metrics", "stats", "fallback", "head", "one", "two")


def free_ports() -> dict[str, int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket()) for _ in PORTS]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(PORTS, sockets, strict=True)}


@dataclass
class Cluster:
    """Processes of `ray start`, one a node, as the pods of the chart run them."""

    objects: list[Object]
    folder: Path
    ports: dict[str, int]

    def environment(self, pod: str, node: str) -> dict[str, str]:
        given = {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": API_TOKEN}
        container = pods(self.objects)[pod]["spec"]["containers"][0]
        env = {each["name"]: each.get("value") or given[each["name"]] for each in container["env"]}
        home = self.folder / node
        home.mkdir()
        haproxy = "RAY_SERVE_HAPROXY_"
        return env | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHART.parents[1]),
            "HOME": str(home),
            "STATE_DIR": str(home / "state"),
            "RAY_AUTH_TOKEN": RAY_TOKEN,  # KubeRay sets it from the Secret
            "OMP_NUM_THREADS": "1",
            f"{haproxy}METRICS_PORT": str(self.ports["metrics"]),
            f"{haproxy}STATS_PORT": str(self.ports["stats"]),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.ports["fallback"]),
            f"{haproxy}CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
            f"{haproxy}SOCKET_PATH": str(home / "admin.sock"),
            f"{haproxy}SERVER_STATE_BASE": str(home),
            f"{haproxy}SERVER_STATE_FILE": str(home / "server-state"),
        }

    def start(self, pod: str, node: str, address: str, *arguments: str) -> subprocess.Popen[bytes]:
        cluster = ray(self.objects)["rayClusterConfig"]
        group = cluster["headGroupSpec"] if pod == "head" else cluster["workerGroupSpecs"][0]
        parameters = {"num-cpus": "2"} | group["rayStartParams"] | {"dashboard-host": "127.0.0.1"}
        if pod != "head":
            del parameters["dashboard-host"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--{name}={value}" for name, value in parameters.items()),
            f"--node-ip-address={address}",
            f"--dashboard-agent-listen-port={self.ports[node]}",
            *arguments,
        ]
        with (self.folder / f"{node}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env=self.environment(pod, node),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(ray(self.objects)["serveConfigV2"])
        return config | {"http_options": {"host": "127.0.0.1", "port": self.ports["serve"]}}


@contextmanager
def folder() -> Iterator[Path]:
    """With a path short enough for Ray's sockets; whatever still runs there is ended."""
    path = Path(tempfile.mkdtemp(prefix="lvc-", dir="/tmp"))
    try:
        yield path
    finally:
        left = [each for each in psutil.process_iter() if _home(each).startswith(f"{path}/")]
        for each in left:
            each.kill()
        psutil.wait_procs(left, timeout=10)
        shutil.rmtree(path, ignore_errors=True)


def _home(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.environ().get("HOME", ""))
    return ""


@pytest.fixture
async def cluster(chart: Chart) -> AsyncIterator[Cluster]:
    with folder() as path:
        made = Cluster(chart.render(VALUES, "cpu-demo"), path, free_ports())
        gcs = made.ports["gcs"]
        dashboard = f"--dashboard-port={made.ports['dashboard']}"
        files = f"--temp-dir={path}/ray"
        made.start("head", "head", "127.0.0.1", "--head", f"--port={gcs}", dashboard, files)
        await answers(made.url("dashboard", probe(made, "head", "startupProbe")))
        yield made


def probe(cluster: Cluster, pod: str, name: str) -> str:
    path: str = pods(cluster.objects)[pod]["spec"]["containers"][0][name]["httpGet"]["path"]
    return path


async def answers(url: str, seconds: float = 90) -> None:
    """Wait until a probe passes. A kubelet has no token."""
    async with asyncio.timeout(seconds), httpx.AsyncClient() as client:
        while True:
            with suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.5)


async def running(client: httpx.AsyncClient, cluster: Cluster) -> list[dict[str, Any]]:
    """Wait for the application; its replicas."""
    url = cluster.url("dashboard", "/api/serve/applications/")
    async with asyncio.timeout(360):
        while True:
            found = (await client.get(url, headers=RAY)).json()["applications"]["workers-ai"]
            assert found["status"] != "DEPLOY_FAILED", found["message"]
            if found["status"] == "RUNNING":
                replicas: list[dict[str, Any]] = found["deployments"]["Replica"]["replicas"]
                return replicas
            await asyncio.sleep(1)


async def ask(client: httpx.AsyncClient, cluster: Cluster) -> int:
    path = f"/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"
    headers = {"authorization": f"Bearer {API_TOKEN}"}
    body = {"prompt": "Hello", "max_tokens": 4}
    return (await client.post(cluster.url("serve", path), json=body, headers=headers)).status_code


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_worker_is_drained_while_requests_go_on(cluster: Cluster) -> None:
    """SIGTERM to a node, as the kubelet sends it: its replica moves first, then it ends."""
    gcs = f"--address=127.0.0.1:{cluster.ports['gcs']}"
    worker = cluster.start("worker", "one", "127.0.0.2", gcs)
    await answers(cluster.url("one", probe(cluster, "worker", "startupProbe")))
    async with httpx.AsyncClient(timeout=60) as client:
        applications = cluster.url("dashboard", "/api/serve/applications/")
        config = cluster.config()
        assert (await client.put(applications, json=config)).status_code == 401
        assert (await client.put(applications, json=config, headers=RAY)).status_code == 200
        (replica,) = await running(client, cluster)
        assert replica["node_ip"] == "127.0.0.2"  # never on the head
        await answers(cluster.url("serve", probe(cluster, "worker", "readinessProbe")))
        cluster.start("worker", "two", "127.0.0.3", gcs)
        await answers(cluster.url("two", probe(cluster, "worker", "startupProbe")))
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
        assert replica["node_ip"] == "127.0.0.3"
