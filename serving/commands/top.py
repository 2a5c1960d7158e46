"""`serving top`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isnan
from typing import Annotated

import httpx
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serving.settings import Settings
from serving.telemetry.scrape import Change, Scrape
from serving.telemetry.top import Alert, View, alerts, view

_TIMEOUT = 10.0
_STYLES = {"page": "bold red", "ticket": "yellow", "failed": "red", "rejected": "yellow"}


def top(
    url: Annotated[
        list[str] | None, typer.Option(help="Of /metrics; several for several machines.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between frames.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    prometheus: Annotated[str, typer.Option(help="URL of a Prometheus, for its alerts.")] = "",
) -> None:
    """What the deployment does now: replicas, queue, traffic, latencies, accounts, alerts."""
    console = Console()
    try:
        settings = Settings()
        token = settings.metrics_token.get_secret_value()
        source = _Source(url or [settings.metrics_url], token, prometheus)
        if once:
            console.print(source.frame(source.scrape(), interval))
            return
        _watch(source, console, interval)
    except KeyboardInterrupt:
        return
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        typer.echo(f"serving: {_said(error)}", err=True)
        raise typer.Exit(1) from error


def _watch(source: _Source, console: Console, interval: float) -> None:
    """Until Ctrl-C. Who cannot be reached now may come back."""
    before = source.scrape()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(Text(f"measuring for {interval:g} s"), refresh=True)
        while True:
            try:
                live.update(source.frame(before, interval), refresh=True)
                before = source.last
            except httpx.HTTPError as error:
                live.update(Text(_said(error), "red"), refresh=True)
                time.sleep(interval)


class _Source:
    """Where it comes from."""

    def __init__(self, urls: Sequence[str], token: str, prometheus: str) -> None:
        self._urls = urls
        self._prometheus = prometheus
        bearer = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(timeout=_TIMEOUT, headers=bearer, trust_env=False)
        self.last: Scrape

    def scrape(self) -> Scrape:
        """Raises: httpx.HTTPError: one cannot be reached."""
        texts = {self._name(url): self._get(url).text for url in self._urls}
        self.last = Scrape.parse(time.monotonic(), texts)
        return self.last

    def frame(self, before: Scrape, interval: float) -> RenderableType:
        """What happened since `before`, `interval` or more seconds ago."""
        time.sleep(max(0.0, before.at + interval - time.monotonic()))
        return _drawn(view(Change(before, self.scrape())), self._alerts())

    def _alerts(self) -> list[Alert] | str | None:
        """Or why they cannot be read: all else is still worth seeing."""
        if not self._prometheus:
            return None
        url = f"{self._prometheus.rstrip('/')}/api/v1/alerts"
        try:
            answer = httpx.get(url, timeout=_TIMEOUT, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            return f"alerts are not known: {error}"
        return alerts(answer.json())

    def _get(self, url: str) -> httpx.Response:
        return self._client.get(url).raise_for_status()

    def _name(self, url: str) -> str:
        """Nothing for the only one."""
        return httpx.URL(url).netloc.decode() if len(self._urls) > 1 else ""


def _said(error: Exception) -> str:
    """What is wrong, and where."""
    where = f" at {error.request.url}" if isinstance(error, httpx.RequestError) else ""
    return f"no metrics{where}: {error}"


def _drawn(shown: View, firing: list[Alert] | str | None) -> RenderableType:
    parts: list[RenderableType] = [_summary(shown), _replicas(shown), _latencies(shown)]
    if shown.accounts:
        parts.append(_accounts(shown))
    if firing is not None:
        parts.append(_firing(firing))
    return Group(*(each for part in parts for each in (part, Text())))


def _summary(shown: View) -> RenderableType:
    traffic, queue = shown.traffic, shown.queue
    running, slots = (
        sum(getattr(each, name) for each in shown.replicas) for name in ("running", "slots")
    )
    table = Table.grid(padding=(0, 2))
    ended = ", ".join(f"{rate:.1f} {name}" for name, rate in traffic.requests.items()) or "none"
    rows = {
        "replicas": f"{len(shown.replicas)} up, batch {running:.0f} of {slots:.0f}",
        "queue": f"{queue.requests:.0f} requests, {_short(queue.tokens)} tokens, "
        f"{_short(queue.pixels)} pixels, {queue.filled:.0%} full",
        "requests/s": ended,
        "tokens/s": f"in {_short(traffic.prompt_tokens)} ({traffic.cached:.0%} cached), "
        f"out {_short(traffic.completion_tokens)}",
        "pictures/s": f"{traffic.images:.1f}"
        + (f" ({traffic.images_cached:.0%} cut before)" if traffic.images else ""),
        "dollars/h": f"{traffic.dollars:.4f}",
    }
    if traffic.refusals:
        rows["refused/s"] = ", ".join(f"{rate:.1f} {why}" for why, rate in traffic.refusals.items())
    if shown.backlog:
        rows["not metered yet"] = f"{_short(shown.backlog)}B"
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    return table


def _replicas(shown: View) -> RenderableType:
    table = _table("replica", "running", "batch", "waiting", "KV cache", "tokens/s", "preempted/s")
    for each in shown.replicas:
        table.add_row(
            each.name,
            f"{each.running:.0f}/{each.slots:.0f}",
            f"{each.batch:.0%}",
            f"{each.waiting:.0f}",
            f"{each.kv:.0%}",
            _short(each.tokens),
            f"{each.preemptions:.1f}",
        )
    return table


def _latencies(shown: View) -> RenderableType:
    table = _table(f"last {shown.seconds:.0f} s", "p50", "p90", "p99")
    for name, quantiles in shown.latencies.items():
        table.add_row(name, *map(_seconds, quantiles))
    return table


def _accounts(shown: View) -> RenderableType:
    table = _table("account", "tokens/s", "requests/s", "dollars/h")
    for each in shown.accounts:
        table.add_row(each.name, _short(each.tokens), f"{each.requests:.1f}", f"{each.dollars:.4f}")
    return table


def _firing(firing: list[Alert] | str) -> RenderableType:
    if isinstance(firing, str):
        return Text(firing, "red")
    if not firing:
        return Text("no alert fires", "green")
    table = Table("alert", "severity", "state", "", box=None, pad_edge=False)
    for each in firing:
        style = _STYLES.get(each.severity, "")
        table.add_row(Text(each.name, style), each.severity, each.state, each.summary)
    runbooks = dict.fromkeys(each.runbook for each in firing if each.runbook)
    return Group(table, *(Text(runbook, "dim") for runbook in runbooks))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _short(number: float) -> str:
    """Three digits or so: 950, 1.2k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def _seconds(value: float) -> str:
    if isnan(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
