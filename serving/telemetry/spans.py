"""What a trace says of a request: its spans, from its receipt. Pure.

Names are those of OpenTelemetry's semantic conventions, for HTTP servers and for generative AI,
and our own under `serving.`. No span holds a word of a prompt or of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from serving.core import Receipt, Stages, Trace

Attributes = dict[str, str | bool | int | float | Sequence[str]]

_PROVIDER = "vllm"
_TEXT_ROUTE = "ai/v1/completions"


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a request, `begin` to `end` in seconds after its arrival.

    `id` and `parent` are hexadecimal; without an `id` of its own it is a leaf, and any will do.
    """

    name: str
    begin: float
    end: float
    id: str = ""
    parent: str = ""
    attributes: Attributes = field(default_factory=dict)


def spans(receipt: Receipt, trace: Trace) -> Iterator[Span]:
    """The request first, then what it went through, as far as it came."""
    name = f"{receipt.method} {receipt.route}".strip()
    yield Span(name, 0.0, receipt.duration, trace.span, trace.parent, _request(receipt))
    if receipt.asked is None or receipt.queued is None:
        return
    admitted = receipt.asked + receipt.queued
    yield Span("admission", receipt.asked, admitted, parent=trace.span)
    if not receipt.usage.prompt_tokens:
        return  # it never came to the engine
    called = f"{_operation(receipt)} {receipt.model}"
    yield Span(called, admitted, receipt.duration, trace.inner, trace.span, _generation(receipt))
    if receipt.stages is not None:
        yield from _stages(receipt.stages, trace.inner)


def vision(receipt: Receipt, trace: Trace, seconds: float) -> Span | None:
    """Of the encoder, which is told of late: how long it took, from the start of prefill on.

    None for a request that was not answered to the end: when it began is not known.
    """
    if (stages := receipt.stages) is None:
        return None
    begin = stages.at + stages.queue
    pictures: Attributes = {"serving.images": receipt.images}
    return Span("engine vision", begin, begin + seconds, "", trace.inner, pictures)


def _stages(stages: Stages, parent: str) -> Iterator[Span]:
    at = stages.at
    lengths = (("queue", stages.queue), ("prefill", stages.prefill), ("decode", stages.decode))
    for name, length in lengths:
        yield Span(f"engine {name}", at, at + length, parent=parent)
        at += length


def _request(receipt: Receipt) -> Attributes:
    found: Attributes = {
        http_attributes.HTTP_REQUEST_METHOD: receipt.method,
        http_attributes.HTTP_ROUTE: receipt.route,
        http_attributes.HTTP_RESPONSE_STATUS_CODE: receipt.status,
        f"{http_attributes.HTTP_RESPONSE_HEADER_TEMPLATE}.cf-ai-req-id": [receipt.id],
        "serving.outcome": receipt.outcome.value,
        "serving.account": receipt.account if receipt.token else "",
        "serving.images": receipt.images,
        error_attributes.ERROR_TYPE: receipt.reason,
    }
    return _known(found)


def _generation(receipt: Receipt) -> Attributes:
    asked, usage = receipt.sampling, receipt.usage
    found: Attributes = {
        gen_ai.GEN_AI_OPERATION_NAME: _operation(receipt),
        gen_ai.GEN_AI_PROVIDER_NAME: _PROVIDER,
        gen_ai.GEN_AI_REQUEST_MODEL: receipt.model,
        gen_ai.GEN_AI_RESPONSE_MODEL: receipt.model,
        gen_ai.GEN_AI_RESPONSE_ID: receipt.id,
        gen_ai.GEN_AI_REQUEST_STREAM: receipt.stream,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
        error_attributes.ERROR_TYPE: receipt.reason,
    }
    if receipt.finish is not None:
        found[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] = [receipt.finish.value]
    if receipt.stream and receipt.ttft is not None:
        found[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = receipt.ttft
    if asked is not None:
        found[gen_ai.GEN_AI_REQUEST_MAX_TOKENS] = asked.max_tokens
        found[gen_ai.GEN_AI_REQUEST_TEMPERATURE] = asked.temperature
        for name, value in (
            (gen_ai.GEN_AI_REQUEST_TOP_P, asked.top_p),
            (gen_ai.GEN_AI_REQUEST_TOP_K, asked.top_k),
            (gen_ai.GEN_AI_REQUEST_SEED, asked.seed),
            (gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY, asked.frequency_penalty),
            (gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY, asked.presence_penalty),
        ):
            if value is not None:
                found[name] = value
    return _known(found)


def _operation(receipt: Receipt) -> str:
    return "text_completion" if receipt.route == _TEXT_ROUTE else "chat"


def _known(found: Attributes) -> Attributes:
    """Without what is empty: an attribute that is not there says so better."""
    return {name: value for name, value in found.items() if value != ""}
