"""Requests that begin alike go to one replica, which has that beginning in its caches.

HAProxy, which Ray Serve configures and which has no such rule by itself, asks `affinity.lua` for a
request's replica: by the session that a client names in `x-session-affinity`, else by the first
picture, else by how the conversation begins. It is sent there while that has hardly more than 1.25
times the mean of open requests, else to the next in the same order: a cache is worth a wait, not a
queue. What has none of these goes where the fewest are. When a replica goes or comes, its share of
all that is known moves and the rest stays. There is no state: all HAProxys decide the same.
"""

from __future__ import annotations

from pathlib import Path

from serving.cluster import template

HEADER = "x-session-affinity"
# What is read of a body before its replica is chosen.
_READ = 65536
_SIZE = "    tune.bufsize {{ config.bufsize }}\n"
BUFFER = f"{{{{ [config.bufsize, {_READ}] | max }}}}"
"""The size in bytes of HAProxy's buffers, in its template."""
_SERVERS = "    # Servers in this backend\n"
# For one backend; between these lines and the servers nothing may come. A body may take as long to
# arrive as without them.
_RULES = f"""\
    {{%- if backend.servers | length > 1 %}}
    acl named req.hdr({HEADER}) -m found
    http-request wait-for-body time {{{{ config.timeout_client_s or 3600 }}}}s if METH_POST !named
    http-request lua.place "{{{{ backend.servers | join(' ', attribute='name') }}}}"
    use-server %[var(txn.replica)] if {{ var(txn.replica) -m found }}
    {{%- endif %}}
"""


def apply() -> None:
    """Add the rules to what Serve makes HAProxy's configuration of, in this process.

    Raises:
        RuntimeError: see `template.change`.
    """
    texts = {_SIZE: f"    tune.bufsize {BUFFER}\n", _SERVERS: _RULES + _SERVERS}
    template.change(texts, "where its servers are", Path(__file__).with_suffix(".lua"))
