"""OpenTelemetry: which trace a request belongs to, and its spans on their way to a collector.

Whether a request is sampled is decided when it arrives. All else is known when it has ended, and
only then are there spans: one that is not sampled costs a few microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.core import Outcome, Receipt, Trace
from serving.telemetry.spans import Span, spans, vision

_SCOPE = InstrumentationScope("serving")
_MOST = 1000  # receipts that are kept for what is told late
_read = TraceContextTextMapPropagator().extract


class Traces:
    """Joins requests to traces; as an observer of receipts, exports those that are sampled.

    What decides is OpenTelemetry's `ParentBased(TraceIdRatioBased(ratio))`, without its objects.
    """

    def __init__(self, exporter: SpanExporter, ratio: float, resource: Mapping[str, str]) -> None:
        """`ratio` of the requests without a trace are sampled, others as their callers decided.

        `resource` says who we are; OpenTelemetry's own variables add to it.
        """
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._ids = RandomIdGenerator()
        self._resource = Resource.create(dict(resource))
        self._exports = BatchSpanProcessor(exporter)
        self._pictured: dict[str, Receipt] = {}  # sampled ones with pictures, the latest

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        """The trace of a request with these headers; a malformed `traceparent` is as none."""
        if (caller := _caller(headers)) is not None:
            trace, sampled = caller.trace_id, caller.trace_flags.sampled
        else:
            trace = self._ids.generate_trace_id()
            sampled = trace & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound
        return Trace(
            id=format_trace_id(trace),
            span=self._id(),
            inner=self._id(),
            parent=format_span_id(caller.span_id) if caller is not None else "",
            sampled=sampled,
        )

    def __call__(self, receipt: Receipt) -> None:
        """Hand over its spans; another thread exports them."""
        if receipt.trace is not None and receipt.trace.sampled:
            for span in spans(receipt, receipt.trace):
                self._exports.on_end(self._exported(span, receipt, receipt.trace))
            if receipt.images:
                self._pictured[receipt.id] = receipt
            if len(self._pictured) > _MOST:
                del self._pictured[next(iter(self._pictured))]

    def encoded(self, request: str, seconds: float) -> None:
        """The vision encoder took so long for a request that has ended."""
        receipt = self._pictured.pop(request, None)
        if receipt is None or receipt.trace is None:
            return
        if (span := vision(receipt, receipt.trace, seconds)) is not None:
            self._exports.on_end(self._exported(span, receipt, receipt.trace))

    def close(self) -> None:
        """Export what is left."""
        self._exports.shutdown()  # type: ignore[no-untyped-call]

    def _exported(self, span: Span, receipt: Receipt, trace: Trace) -> ReadableSpan:
        """Made without a tracer: that one would choose the ids, and we have told them already."""
        whole = span.id == trace.span
        broken = receipt.outcome is Outcome.FAILED and (whole or span.id == trace.inner)
        arrived = receipt.at - receipt.duration
        return ReadableSpan(
            span.name,
            _placed(trace.id, span.id or self._id()),
            _placed(trace.id, span.parent) if span.parent else None,
            self._resource,
            span.attributes,
            kind=SpanKind.SERVER if whole else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR) if broken else Status(),
            start_time=int((arrived + span.begin) * 1e9),
            end_time=int((arrived + span.end) * 1e9),
            instrumentation_scope=_SCOPE,
        )

    def _id(self) -> str:
        return format_span_id(self._ids.generate_span_id())


def _caller(headers: Iterable[tuple[bytes, bytes]]) -> SpanContext | None:
    """What the caller says of its trace, if anything; W3C: several say nothing."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1:
        return None
    context = _read({"traceparent": given[0].decode("latin-1")}, Context())
    found = get_current_span(context).get_span_context()
    return found if found.is_valid else None


def _placed(trace: str, span: str) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=flags)
