"""What HAProxy does when no replica answers, or Serve names none.

It says so in the words of the API instead of Serve's own. One body for all dialects: their errors
differ in fields that each leaves to the others. By it a client knows that another try may help, and
when: `outage.lua` says how long there has been nobody. HAProxy does not try again itself what a
replica has begun: that may be what ended the replica.

While Serve builds an application anew it names no replica of the one that runs. HAProxy keeps the
ones it knew until there are others: what listens no more it leaves out by itself, and then asks
Serve's own proxy.
"""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path
from typing import Any

from ray.serve._private.haproxy import BackendConfig, HAProxyApi

from serving import errors
from serving.cluster import template
from serving.protocol import openai

# Serve makes 500 of all of these, in plain text.
_PAGES = """\
    {%- if config.error_file_path %}
    errorfile 502 {{ config.error_file_path }}
    errorfile 503 {{ config.error_file_path }}
    errorfile 504 {{ config.error_file_path }}
    {%- endif %}
"""
# A replica ended with the request, there is none, one has not begun an answer in its time.
_ERRORS: dict[int, errors.ServingError] = {
    502: errors.EngineDown(),
    503: errors.EngineDown(),
    504: errors.TimedOut(),
}


def apply() -> None:
    """Change how Serve configures HAProxy, in this process.

    Raises:
        RuntimeError: see `template.change`.
    """
    lines = "".join(f"    {_rule(status, error)}\n" for status, error in _ERRORS.items())
    script = Path(__file__).with_suffix(".lua")
    template.change({_PAGES: lines}, "where its error pages are", script)
    _keep_servers()


def body(error: errors.ServingError, request: str) -> dict[str, Any]:
    """The error answer to the request of this id, for all dialects."""
    told = openai.described(error, request)
    return {**told, "type": "error", "error": {**told["error"], "type": "api_error"}}


def _keep_servers() -> None:
    told = HAProxyApi.set_backend_configs

    @wraps(told)
    def keep(self: HAProxyApi, backends: dict[str, BackendConfig]) -> None:
        for name, backend in backends.items():
            if not backend.servers and name in self.backend_configs:
                backend.servers = self.backend_configs[name].servers
        told(self, backends)

    HAProxyApi.set_backend_configs = keep


def _rule(status: int, error: errors.ServingError) -> str:
    # HAProxy fills in an id, where our own answers have that of the request.
    text = json.dumps(body(error, "%[uuid]"))
    later = " hdr retry-after %[lua.retry_after]" if isinstance(error, errors.Overloaded) else ""
    return f"http-error status {status} content-type application/json lf-string '{text}'{later}"
