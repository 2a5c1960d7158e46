"""Requests of one session go to one replica, whose prefix cache knows their beginning.

Clients name a session in `x-session-affinity`. HAProxy, which Ray Serve configures and which has
no such rule by itself, sends its requests to the replica that the session's hash falls on. Others
go where the fewest are, and so do a session's while its replica is down or has twice its share:
a cache is worth a wait, not a queue. The hash is over the path as well, which holds the account,
so that two accounts' sessions of one name are two. When replicas come or go, sessions move.
"""

from __future__ import annotations

from ray.serve._private import haproxy

HEADER = "x-session-affinity"
_SERVERS = "    # Servers in this backend\n"
# For one backend; between these lines and the servers nothing may come. Four more than its share
# is nothing yet: replicas that are all but idle follow sessions too.
_RULES = f"""\
    {{%- set replicas = backend.servers | sort(attribute="name") %}}
    {{%- if replicas | length > 1 %}}
    http-request set-var(txn.session) req.hdr({HEADER})
    http-request set-var(txn.place) path,concat(,txn.session),crc32,mod({{{{ replicas | length }}}})
    http-request set-var(txn.replicas) nbsrv()
    http-request set-var(txn.room) be_conn(),mul(2)
    {{%- for server in replicas %}}
    use-server {{{{ server.name }}}} if {{ req.hdr({HEADER}) -m found }} {{ var(txn.place) -m int {{{{ loop.index0 }}}} }} {{ srv_conn({{{{ server.name }}}}),sub(4),mul(txn.replicas),sub(txn.room) -m int lt 0 }}
    {{%- endfor %}}
    {{%- endif %}}
"""  # noqa: E501


def apply() -> None:
    """Add the rules to what Serve makes HAProxy's configuration of, in this process.

    Raises:
        RuntimeError: this Ray writes it otherwise than the one this was written for.
    """
    template = haproxy.HAPROXY_CONFIG_TEMPLATE
    if template.count(_SERVERS) != 1:
        raise RuntimeError("HAProxy's template has changed: see where its servers are")
    haproxy.HAPROXY_CONFIG_TEMPLATE = template.replace(_SERVERS, _RULES + _SERVERS)
