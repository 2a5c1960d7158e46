"""Traces with the operator's settings, in each replica."""

from __future__ import annotations

import os
from importlib.metadata import version

from serving.settings import Settings
from serving.telemetry.traces import Traces

_NAME = "llama-vision-serving"


def traces(settings: Settings, place: str) -> Traces | None:
    """The replica's, if there is an endpoint; `place` tells it from the others of the machine.

    Before vLLM makes its tracer: what it reads from the environment is set here, for its spans to
    be where and as ours are. Its traces are our requests', so it begins none.
    """
    if not settings.traces_endpoint:
        return None
    os.environ.setdefault("OTEL_SERVICE_NAME", _NAME)
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    os.environ["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = {"service.version": version(_NAME), "service.instance.id": f"replica-{place}"}
    return Traces(OTLPSpanExporter(settings.traces_endpoint), settings.traces_ratio, resource)
