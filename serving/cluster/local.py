"""A whole cluster on this machine, for as long as one process runs: `serving up`."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from ray import serve
from ray.serve._private.constants import RAY_SERVE_HAPROXY_MAXCONN
from ray.serve.config import HTTPOptions

from serving.cluster import hook
from serving.cluster.replica import APPLICATION, application
from serving.settings import Settings

# How long processes get to end by themselves before they are killed, in seconds.
_PATIENCE = 15.0


@contextmanager
def cluster(settings: Settings, folder: Path) -> Iterator[None]:
    """Ray and Serve running here, with their files in `folder`; nothing is left afterwards.

    Raises:
        OSError: the port is taken, or this user may not open as many files as HAProxy will.
    """
    _check_free(settings.host, settings.port)
    _check_files()
    try:
        _start_ray(folder)
        serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port))
        yield
    finally:
        _stop()


def deploy(settings: Settings) -> None:
    """Run the application and return when it answers.

    Raises:
        RuntimeError: it does not come up; the replica's log in the folder says why.
    """
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    told = settings.model_copy(update={"ray_metrics_url": url})
    serve.run(application(told), name=APPLICATION, route_prefix="/")


def _start_ray(folder: Path) -> None:
    """Raises: RuntimeError: it does not start, or not in the time it gives itself."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": hook.HOOK},
            _temp_dir=str(folder),
        )
    except Exception as error:  # Ray's own are of no class of their own
        raise RuntimeError(f"Ray: {error}") from error


def _stop() -> None:
    """End everything this process started, streams included; the replica's engine ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
    children = psutil.Process().children(recursive=True)
    ray.shutdown()
    _, alive = psutil.wait_procs(children, timeout=_PATIENCE)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_PATIENCE)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _check_files() -> None:
    """HAProxy opens two sockets for a connection and half a pipe of two ends, and some beside."""
    needed = 5 * RAY_SERVE_HAPROXY_MAXCONN // 2 + 100
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed:
        raise OSError(
            f"this user may open {most} files at once (ulimit -Hn), HAProxy needs {needed} for "
            f"{RAY_SERVE_HAPROXY_MAXCONN} connections: allow more, or set "
            "RAY_SERVE_HAPROXY_MAXCONN to fewer"
        )
