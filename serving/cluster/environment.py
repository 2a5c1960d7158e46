"""The environment variables Ray and vLLM read when they are imported. Import this before them."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from socket import socket

# Ports Serve would otherwise take at fixed numbers: a second stack could not start beside ours.
_FIXED_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def prepare(folder: Path, cores: int, replicas: int) -> None:
    """Set them in this process, for itself and all its children. What the operator set stays."""
    for name, value in variables(folder, cores, replicas).items():
        os.environ.setdefault(name, value)


def variables(folder: Path, cores: int, replicas: int) -> dict[str, str]:
    """What `prepare` sets, for a process that is yet to start.

    `folder` is for Ray's, HAProxy's and vLLM's files: private to the user, its path short (unix
    sockets).
    """
    return {
        # HAProxy straight to the replicas; the Python proxy costs ten times the CPU per request.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # What a replica answers with 503 it has not begun: another may serve it.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure 503",
        # Our receipts count requests; Ray's way is a log line per request through a socket.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Where vLLM leaves a file for each engine, and its sockets if it is killed.
        "TMPDIR": str(folder),
        **dict(zip(_FIXED_PORTS, map(str, free_ports(len(_FIXED_PORTS))), strict=True)),
        # A local socket: the default is UDP.
        "RAY_SERVE_HAPROXY_LOG_TARGET": "/dev/log",
        # Ray's own servers on 127.0.0.1. Named after the systems where that is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at nice 15: the replica would yield to its own engine.
        "RAY_worker_niceness": "0",
        # What Ray does ten times a second whether anything happens or not, three times over.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_raylet_report_resources_period_milliseconds": "500",
        # Ray's monitor would look for log files and send new lines to whoever listens, up to a
        # hundred times a second: nobody does, the files are there to be read.
        "RAY_LOG_MONITOR_NUM_LINES_TO_READ": "0",
        "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
        # Ray gives up on its raylet after 30 s, which a busy machine exceeds, and on HAProxy's
        # process after 5.
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # The engine core runs the model itself instead of starting yet another process for it.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # On CPU: more threads than cores make all of them wait for each other.
        "OMP_NUM_THREADS": str(max(1, cores // replicas)),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, nor is given one of meanwhile.

    Linux gives those from 32768 on; Ray's many servers take such before Serve's begin.
    """
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(10_000)
        with suppress(OSError), socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)
