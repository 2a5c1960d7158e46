"""Telemetry with the operator's settings, in each replica."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from serving.admission.gate import Gate
from serving.cluster.tenants import Tenants
from serving.core import Trace, Usage
from serving.gateway.asgi import Headers
from serving.gateway.receipts import Observer, log_access
from serving.settings import Settings
from serving.telemetry import vocabulary as words
from serving.telemetry.certificates import expiries
from serving.telemetry.endpoint import Endpoint
from serving.telemetry.observer import Observer as Counts
from serving.telemetry.sampler import Sampler, Value
from serving.telemetry.shelf import Shelf, folder
from serving.telemetry.traces import Traces
from serving.tenancy.database import Down

_NAME = "llama-vision-serving"
_SELDOM = 60.0  # seconds between looks at what ends in days


class Telemetry:
    """What a replica keeps running of it: metrics with their threads, traces with theirs."""

    def __init__(self, settings: Settings) -> None:
        """Take a place for counts. Before vLLM makes its metrics and tracer: they join ours.

        Raises:
            OSError: the state folder cannot be used.
        """
        self._settings = settings
        self._threads: list[Endpoint | Sampler] = []
        self._shelf = Shelf(folder(settings.state_dir)) if settings.metrics_port else None
        self._traces = _traces(settings) if settings.traces_endpoint else None
        if self._shelf is not None:
            host, token = settings.metrics_host, settings.metrics_token.get_secret_value()
            port, rays = settings.metrics_port, settings.ray_metrics_url
            self._threads.append(Endpoint(self._shelf.folder, host, port, token, rays))

    @property
    def tracing(self) -> Callable[[Headers], Trace] | None:
        """For the gateway, if there are to be traces."""
        return self._traces.begin if self._traces else None

    def observers(self, price: Callable[[str, Usage], int]) -> tuple[Observer, ...]:
        """For the gateway; `price` of a model's usage in picodollars."""
        found: list[Observer] = [log_access]
        if self._shelf is not None:
            found.append(Counts(self._shelf, price, self._settings.metrics_accounts))
        if self._traces is not None:
            found.append(self._traces)
        return tuple(found)

    def encoded(self, request: str, seconds: float) -> None:
        """The vision encoder took so long for a request that has ended."""
        if self._shelf is not None:
            self._shelf.observe(words.VISION, seconds)
        if self._traces is not None:
            self._traces.encoded(request, seconds)

    def watch(self, gate: Gate, tenants: Tenants) -> None:
        """Keep the gauges true."""
        if self._shelf is None:
            return
        files = self._settings.certificate_files
        self._threads += [
            Sampler(self._shelf, lambda: _load(gate, tenants)),
            Sampler(self._shelf, lambda: _ends(tenants, files), _SELDOM),
        ]

    def close(self) -> None:
        """Leave the counts to whoever comes next; export what is left of traces."""
        for each in self._threads:
            each.close()
        if self._shelf is not None:
            self._shelf.close()
        if self._traces is not None:
            self._traces.close()


def _traces(settings: Settings) -> Traces:
    """What vLLM reads from the environment is set here, for its spans to be where and as ours are.

    Its traces are our requests', so it begins none.
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", _NAME)
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    os.environ["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(settings.traces_endpoint)
    return Traces(exporter, settings.traces_ratio, {"service.version": version(_NAME)})


def _load(gate: Gate, tenants: Tenants) -> Iterable[Value]:
    load, policy = gate.load, gate.policy
    return (
        (words.QUEUE_REQUESTS, load.waiting),
        (words.QUEUE_TOKENS, load.tokens),
        (words.QUEUE_PIXELS, load.pixels),
        (words.QUEUE_TOKENS_LIMIT, policy.queue_tokens),
        (words.QUEUE_PIXELS_LIMIT, policy.queue_pixels),
        (words.RUNNING, load.running),
        (words.RUNNING_LIMIT, policy.slots),
        (words.BACKLOG, tenants.backlog()),
        (words.LAG, tenants.lag()),
    )


def _ends(tenants: Tenants, files: Iterable[Path]) -> Iterable[Value]:
    for name, at in expiries(files).items():
        yield words.CERTIFICATE_EXPIRY, at, name
    with suppress(*Down):  # whose absence others report
        yield words.TOKEN_EXPIRY, tenants.next_expiry()
