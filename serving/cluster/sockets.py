"""HAProxy reaches the replicas of its own node through sockets in the file system.

Every token is a write of the replica's. On the loopback interface that runs all of TCP, both ways:
5 us more of some 12. A replica listens on its port as well: for the HAProxys of other nodes.
"""

from __future__ import annotations

import asyncio
import socket
from functools import wraps
from pathlib import Path
from typing import Any

import uvicorn
from ray.serve._private import replica
from ray.serve._private.constants import RAY_SERVE_HAPROXY_SOCKET_PATH
from ray.serve._private.haproxy import ServerConfig
from ray.util import get_node_ip_address

from serving.cluster import template

_ADDRESS = "{{ server.host }}:{{ server.port }} check{% if"
_HERE = ("127.0.0.1", "::1")  # what Serve calls replicas that are on HAProxy's node
_POLL = 0.01  # seconds


def apply() -> None:
    """Have replicas listen and HAProxy connect that way, in this process.

    Raises:
        RuntimeError: see `template.change`.
    """
    template.change({_ADDRESS: "{{ server.address }} check{% if"}, "where its servers are")
    ServerConfig.address = property(_address)
    _listen_on_both()


def path(port: int) -> Path:
    """The socket of the replica with this port on this node; beside HAProxy's own.

    With the node's address: on one machine there may be several.
    """
    return Path(RAY_SERVE_HAPROXY_SOCKET_PATH).with_name(f"{get_node_ip_address()}-{port}.sock")


def _address(server: ServerConfig) -> str:
    file = path(server.port)
    if server.host in _HERE and file.is_socket():
        return f"unix@{file}"
    return f"{server.host}:{server.port}"


def _listen_on_both() -> None:
    start = replica.start_asgi_http_server

    @wraps(start)
    async def both(
        app: Any, http_options: Any, **more: Any
    ) -> tuple[asyncio.Task[None], uvicorn.Server]:
        task, server = await start(app, http_options, **more)
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(_POLL)
        if server.started:  # closed with the others
            server.servers.append(await _listen(server, path(http_options.port)))
        return task, server

    replica.start_asgi_http_server = both


async def _listen(server: uvicorn.Server, file: Path) -> asyncio.AbstractServer:
    config = server.config

    def connected() -> asyncio.Protocol:
        protocol: asyncio.Protocol = config.http_protocol_class(
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )
        return protocol

    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(connected, sock=_bound(file), backlog=config.backlog)


def _bound(file: Path) -> socket.socket:
    """For this user alone. Raises: OSError: as when the file's name is longer than 107 bytes."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # of one that was killed
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(file))
    file.chmod(0o600)
    return bound
