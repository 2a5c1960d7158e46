"""Ray Serve's own metrics, passed on beside ours under the names they have.

Ray's agent takes a tenth of a second of a core to tell them, so it is asked in the background,
seldom, and only while somebody scrapes. Of its half a megabyte what begins with `ray_serve_` is
passed on, without the labels that are the same everywhere, up to a bound.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import groupby

import httpx

PERIOD = 60.0
"""Seconds between two questions, at least."""
_STALE = 3 * PERIOD
_MOST = 200_000  # bytes
_TIMEOUT = 10.0
_ANEW = httpx.Limits(max_keepalive_connections=0)  # a connection each time: Ray's agent restarts

_WANTED = re.compile(r"(?:# (?:HELP|TYPE) )?(ray_serve_\w+)")
_NOISE = re.compile(r'(?:otel_scope_\w+|SessionName|Version|NodeAddress|Component)="[^"]*",?')
_ENDING = re.compile("_(?:bucket|sum|count|total)$")


class Neighbour:
    """What Ray said last. For any thread."""

    def __init__(self, url: str) -> None:
        """`url` of its metrics on this machine."""
        self._url = url
        # Made once: a client reads the certificates of all authorities, in 20 ms without a token.
        self._client = httpx.Client(timeout=_TIMEOUT, trust_env=False, limits=_ANEW)
        self._asking = threading.Lock()
        self._asked = -PERIOD
        self._said: tuple[float, list[str]] = (0.0, [])

    def lines(self) -> list[str]:
        """Whole families in Prometheus' text format; none before it was asked for the first time.

        Waits for nothing.
        """
        if time.monotonic() - self._asked >= PERIOD and self._asking.acquire(blocking=False):
            self._asked = time.monotonic()
            threading.Thread(target=self._ask, name="ray-metrics", daemon=True).start()
        at, said = self._said
        return said if time.monotonic() - at < _STALE else []

    def _ask(self) -> None:
        try:
            answer = self._client.get(self._url).raise_for_status()
            self._said = (time.monotonic(), passed_on(answer.text.splitlines()))
        except httpx.HTTPError:
            pass  # it starts, or has gone: what it said last grows stale
        finally:
            self._asking.release()


def passed_on(lines: Iterable[str]) -> list[str]:
    """What we want of an exposition, family by family, as long as there is room."""
    found: list[str] = []
    size = 0
    for _, family in groupby(filter(_WANTED.match, lines), _family):
        whole = [_NOISE.sub("", line).replace(",}", "}").replace("{}", "") for line in family]
        size += sum(map(len, whole))
        if size > _MOST:
            break
        found += whole
    return found


def openmetrics(lines: Iterable[str]) -> Iterator[str]:
    """The same in OpenMetrics: there a counter's family has no `_total`."""
    for line in lines:
        if line.startswith("# "):
            name = line.split(" ", 3)[2]
            line = line.replace(name, name.removesuffix("_total"), 1)
        yield line


def _family(line: str) -> str:
    found = _WANTED.match(line)
    assert found is not None
    return _ENDING.sub("", found[1])
