"""Keeps Serve's internal servers off the network.

Ray Serve binds three of them to every interface whatever it is told: HAProxy's statistics and
metrics, and each replica's gRPC server, which unpickles what it is sent.
"""

from __future__ import annotations

from ray.serve._private import haproxy, haproxy_templates, replica

_BINDS = ("bind :{{ config.metrics_port }}", "bind *:{{ config.stats_port }}")


def apply() -> None:
    """Rewrite the addresses in this process.

    Raises:
        RuntimeError: this Ray binds otherwise than the one this was written for.
    """
    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    if any(template.count(bind) != 1 for bind in _BINDS):
        raise RuntimeError("HAProxy's template has changed: see which ports it binds")
    for bind in _BINDS:
        template = template.replace(bind, "bind 127.0.0.1:" + bind.partition(":")[2])
    haproxy.HAPROXY_CONFIG_TEMPLATE = template
    listen = replica.add_port_to_grpc_server

    def on_loopback(server: object, address: str) -> int:
        return listen(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = on_loopback
