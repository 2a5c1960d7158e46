"""Traces of requests, as a collector gets them; exemplars that lead to them."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Iterator
from itertools import pairwise
from uuid import uuid4

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from tests import servers
from tests.contract.requests import URI
from tests.telemetry.collector import Collector, collecting
from tests.telemetry.conftest import ACCOUNT, MODEL, PATH, SECRET, TOKEN, VISION, Site, until

CALLER = "00f067aa0ba902b7"
SERVER, INTERNAL = 2, 1  # OTLP's span kinds
SECRET_WORDS = "canary in the prompt"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A replica whose traces go to the collector, none of its own accord."""
    site = Site(tmp_path_factory.mktemp("traced") / "state")
    site.environment = {
        "TRACES_ENDPOINT": collector.url,
        "TRACES_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    site.start()
    yield site
    for port in list(site.replicas):
        site.stop(port)


def sampled(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-01"}


async def ask(site: Site, body: object, **headers: str) -> str:
    """POST; the `traceresponse` of the answer."""
    async with site.client(*site.replicas) as client:
        answer = await client.post(PATH, json=body, headers=headers)
    return answer.headers["traceresponse"]


async def test_a_request_is_one_trace_from_the_callers_span_to_decode(
    traced: Site, collector: Collector
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = {"prompt": f"{SECRET_WORDS} and more", "stream": True, "max_tokens": 5}
    began = time.time()
    said = await ask(traced, body, **sampled(trace))
    ended = time.time()
    until(lambda: len(collector.of(trace)) == 6)
    found = collector.of(trace)
    request, called = found["POST ai/run"], found[f"chat {MODEL}"]
    assert said == f"00-{trace}-{request.id}-01"
    assert (request.parent, request.kind) == (CALLER, SERVER)
    assert (found["admission"].parent, called.parent) == (request.id, request.id)
    stages = [found[f"engine {name}"] for name in ("queue", "prefill", "decode")]
    assert {stage.parent for stage in stages} == {called.id}
    assert {span.kind for span in found.values()} == {SERVER, INTERNAL}
    assert began <= request.begin <= found["admission"].begin <= found["admission"].end
    assert found["admission"].end <= called.begin <= stages[0].begin
    for before, after in pairwise(stages):
        assert before.end == pytest.approx(after.begin, abs=1e-5)
    assert stages[1].end - stages[1].begin > 0.29  # the fake's first token
    assert stages[-1].end <= called.end == request.end
    assert request.end <= ended + 1e-3  # spans are timed by the monotonic clock
    assert request.resource["service.name"] == "llama-vision-serving"


async def test_the_vision_encoders_time_joins_the_trace_when_it_is_told(
    traced: Site, collector: Collector
) -> None:
    trace = "3bf92f3577b34da6a3ce929d0e0e4736"
    await ask(traced, {"prompt": "what is it", "image": URI, "stream": True}, **sampled(trace))
    until(lambda: len(collector.of(trace)) == 7)
    found = collector.of(trace)
    seen, prefill = found["engine vision"], found["engine prefill"]
    assert seen.parent == prefill.parent == found[f"chat {MODEL}"].id
    assert seen.begin == pytest.approx(prefill.begin, abs=1e-5)
    assert seen.end - seen.begin == pytest.approx(VISION, abs=1e-5)
    assert seen.attributes["serving.images"] == 1
    assert traced.total("serving_vision_seconds_sum") == VISION
    before = len(collector.spans)
    await ask(traced, {"prompt": "what is it", "image": URI})  # of no trace
    until(lambda: traced.total("serving_vision_seconds_sum") == 2 * VISION)
    await ask(traced, {"prompt": 5}, **sampled("2bf92f3577b34da6a3ce929d0e0e4736"))
    until(lambda: len(collector.spans) > before)
    assert len(collector.spans) == before + 1


async def test_spans_follow_the_conventions(traced: Site, collector: Collector) -> None:
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    body = {"prompt": f"{SECRET_WORDS}", "max_tokens": 3, "temperature": 0.25, "stream": True}
    await ask(traced, body, **sampled(trace))
    until(lambda: len(collector.of(trace)) == 6)
    found = collector.of(trace)
    request, called = found["POST ai/run"].attributes, found[f"chat {MODEL}"].attributes
    assert request["http.request.method"] == "POST"
    assert request["http.route"] == "ai/run"
    assert request["http.response.status_code"] == 200
    assert request["serving.account"] == ACCOUNT
    assert (
        called.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": MODEL,
            "gen_ai.request.max_tokens": 3,
            "gen_ai.request.temperature": 0.25,
            "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 4,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.response.id": request["http.response.header.cf-ai-req-id"][0],
        }.items()
    )
    assert called["gen_ai.response.time_to_first_chunk"] > 0.29


async def test_an_error_is_a_trace_as_far_as_the_request_came(
    traced: Site, collector: Collector
) -> None:
    trace = "6bf92f3577b34da6a3ce929d0e0e4736"
    await ask(traced, {"prompt": 5}, **sampled(trace))
    until(lambda: len(collector.of(trace)) == 1)
    (span,) = collector.of(trace).values()
    assert span.attributes["http.response.status_code"] == 400
    assert span.attributes["error.type"] == "InvalidInput"
    assert span.status == 0  # the caller's error, not the server's


PICTURE = b"canary in the picture"  # its base64 has no such word
TOOL = {"name": "canary_tool", "description": "canary", "parameters": {"type": "object"}}
SAYING = {
    "prompt": {"prompt": SECRET_WORDS, "stop": ["canary"]},
    "conversation": {
        "messages": [
            {"role": "system", "content": "canary"},
            {"role": "user", "content": SECRET_WORDS},
        ],
        "stream": True,
    },
    "picture": {"prompt": SECRET_WORDS, "image": URI},
    "no-picture": {"prompt": SECRET_WORDS, "image": list(PICTURE)},
    "tool": {"messages": [{"role": "user", "content": SECRET_WORDS}], "tools": [TOOL]},
    "adapter": {"prompt": SECRET_WORDS, "lora": "canary"},
    "malformed": {"prompt": {"canary": SECRET_WORDS}},
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in SAYING.items()])
async def test_no_word_of_a_request_or_its_answer_leaves_and_no_secret(
    traced: Site, collector: Collector, body: object
) -> None:
    """Neither in spans nor in metrics nor in a log, however much is logged."""
    trace = uuid4().hex
    async with traced.client(*traced.replicas) as client:
        headers = sampled(trace) | {"user-agent": "canary", "tracestate": "canary=canary"}
        answer = await client.post(PATH, json=body, headers=headers)
    until(lambda: bool(collector.of(trace)))
    until(lambda: trace.encode() in traced.log.read_bytes())  # its line in the access log
    told = {
        "spans": b"".join(collector.bodies),
        "metrics": traced.scrape().content,
        "openmetrics": traced.scrape(accept="application/openmetrics-text").content,
        "log": traced.log.read_bytes(),
    }
    pictures = (b64encode(PICTURE).decode(), str(list(PICTURE)), URI.partition(",")[2])
    secrets = [word.encode() for word in ("canary", *pictures, TOKEN, "Bearer", SECRET)]
    assert answer.status_code < 500
    leaks = {
        (where, secret) for where, text in told.items() for secret in secrets if secret in text
    }
    assert leaks == set()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(f"00-8bf92f3577b34da6a3ce929d0e0e4736-{CALLER}-00", id="callers-decision"),
        pytest.param(f"00-{'0' * 32}-{CALLER}-01", id="no-trace-id"),
        pytest.param("nonsense", id="malformed"),
        pytest.param("", id="none"),
    ],
)
async def test_what_is_not_sampled_is_not_exported(
    traced: Site, collector: Collector, given: str
) -> None:
    said = await ask(traced, {"prompt": "x"}, **({"traceparent": given} if given else {}))
    found = re.fullmatch("00-([0-9a-f]{32})-[0-9a-f]{16}-00", said)
    assert found
    assert (found[1] in given) == given.endswith("-00")
    marker = "9bf92f3577b34da6a3ce929d0e0e4736"
    await ask(traced, {"prompt": 5}, **sampled(marker))
    until(lambda: bool(collector.of(marker)))  # whatever came before has come
    assert not collector.of(found[1])


async def test_a_ratio_of_the_requests_without_a_trace_is_sampled(
    site: Site, collector: Collector
) -> None:
    site.environment = {"TRACES_ENDPOINT": collector.url, "TRACES_RATIO": "0.5"}
    site.start()
    said = [await ask(site, {"prompt": 5}) for _ in range(100)]
    kept = sum(each.endswith("-01") for each in said)
    assert 20 < kept < 80  # within six standard deviations


async def test_buckets_have_the_trace_of_a_request_in_them(
    traced: Site, collector: Collector
) -> None:
    trace = "abf92f3577b34da6a3ce929d0e0e4736"
    await ask(traced, {"prompt": "one two three", "stream": True}, **sampled(trace))

    def exemplars() -> dict[str, tuple[float, float]]:
        text = traced.scrape(accept="application/openmetrics-text").text
        return {
            sample.name: (sample.exemplar.value, float(sample.labels["le"]))
            for family in openmetrics(text)
            for sample in family.samples
            if sample.exemplar and sample.exemplar.labels == {"trace_id": trace}
        }

    until(lambda: len(exemplars()) == 5)
    for value, edge in exemplars().values():
        assert value <= edge
    assert exemplars()["serving_time_to_first_token_seconds_bucket"][0] > 0.29
    assert "serving_prefill_seconds_bucket" in exemplars()
    assert trace not in traced.scrape().text  # Prometheus' own format has none


CONFIG = """
global: {{scrape_interval: 500ms}}
scrape_configs:
  - job_name: serving
    authorization: {{credentials: {secret}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


async def test_a_prometheus_finds_the_trace_of_a_slow_request(traced: Site) -> None:
    trace = "bbf92f3577b34da6a3ce929d0e0e4736"
    name = "serving_request_duration_seconds_bucket"
    config = CONFIG.format(secret=SECRET, port=traced.metrics_port)
    try:
        with servers.prometheus(config, "") as server:
            await ask(traced, {"prompt": "one two three"}, **sampled(trace))

            def found() -> list[str]:
                asked = {"query": name, "start": time.time() - 60, "end": time.time() + 60}
                answer = httpx.get(f"{server.url}/api/v1/query_exemplars", params=asked).json()
                kept = [each for series in answer["data"] for each in series["exemplars"]]
                return [each["labels"]["trace_id"] for each in kept]

            until(lambda: trace in found(), 15)
    except servers.Missing as missing:
        pytest.skip(str(missing))


async def test_without_an_endpoint_there_is_no_trace(standing: Site) -> None:
    async with standing.client(*standing.replicas) as client:
        answer = await client.post(
            PATH, json={"prompt": 5}, headers=sampled("bbf92f3577b34da6a3ce929d0e0e4736")
        )
    assert "traceresponse" not in answer.headers
