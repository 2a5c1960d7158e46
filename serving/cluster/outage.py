"""What HAProxy says itself when no replica answers, in the words of the API instead of Serve's own.

One body for all dialects: their errors differ in fields that each leaves to the others. By it a
client knows that another try may help. HAProxy does not try again itself what a replica has begun:
that may be what ended the replica.
"""

from __future__ import annotations

import json

from ray.serve._private import haproxy

from serving import errors
from serving.protocol import envelope, openai

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
    """Put them into what Serve makes HAProxy's configuration of, in this process.

    Raises:
        RuntimeError: this Ray writes it otherwise than the one this was written for.
    """
    template = haproxy.HAPROXY_CONFIG_TEMPLATE
    if template.count(_PAGES) != 1:
        raise RuntimeError("HAProxy's template has changed: see where its error pages are")
    lines = "".join(f"    {_rule(status, error)}\n" for status, error in _ERRORS.items())
    haproxy.HAPROXY_CONFIG_TEMPLATE = template.replace(_PAGES, lines)


def _rule(status: int, error: errors.ServingError) -> str:
    # HAProxy fills in an id, where our own answers have that of the request.
    body = openai.described(error, "%[uuid]")
    body = {**body, "type": "error", "error": {**body["error"], "type": "api_error"}}
    told = "".join(f" hdr {k.decode()} {v.decode()}" for k, v in envelope.headers(error))
    text = json.dumps(body)
    return f"http-error status {status} content-type application/json lf-string '{text}'{told}"
