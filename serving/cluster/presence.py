"""Whether a client is still there is for the gateway to watch, and not for Serve as well.

Serve would with two tasks more for each request, and a queue for what they receive.
"""

from __future__ import annotations

from ray.serve._private.constants import SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER

from serving.cluster import template

_BIND = "    bind {{ config.frontend_host }}:{{ config.frontend_port }}\n"


def apply() -> None:
    """Have HAProxy tell replicas so, in this process.

    Raises:
        RuntimeError: see `template.change`.
    """
    rule = f"    http-request set-header {SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER} ?1\n"
    template.change({_BIND: _BIND + rule}, "where HAProxy listens")
