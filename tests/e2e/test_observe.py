"""Telemetry of the whole stack, scraped by a real Prometheus, across the death of a replica."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.e2e.stack import MODEL, Stack, stack
from tests.e2e.test_stack import looking_at
from tests.telemetry.collector import collecting
from tests.telemetry.conftest import until
from tests.telemetry.test_rules import RULES, panels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs: [{{job_name: serving, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
# Empty where nothing went wrong and nobody sent a picture.
QUIET = re.compile(
    r"serving_refusals_total|failed\|rejected|image|vision|expiry|ratio_rate(1h|6h|3d)"
)


@pytest.fixture(scope="module")
def collector():
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def up(collector, tmp_path_factory):
    """One stack for the module; its traces go to the collector, none of its own accord."""
    settings = {
        "TRACES_ENDPOINT": collector.url,
        "TRACES_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with stack(tmp_path_factory.mktemp("stack"), **settings) as made:
        yield made


def answered(up: Stack, count: int = 5) -> int:
    """Ask so often; the tokens of the answers."""
    bodies = [up.run({"prompt": "Hello there"}).json() for _ in range(count)]
    bodies += [up.run({"prompt": "Hello", "stream": True}).text for _ in range(count)]
    return sum(body["result"]["usage"]["completion_tokens"] for body in bodies[:count])


def test_every_panel_is_answered(up):
    config = CONFIG.format(port=up.environment["METRICS_PORT"])
    try:
        with servers.prometheus(config, RULES.read_text()) as server:
            began = time.monotonic()
            while time.monotonic() < began + 15:
                answered(up)
            empty = [query for _, query in panels() if not ask(server.url, query)]
            assert [query for query in empty if not QUIET.search(query)] == []
            firing = httpx.get(f"{server.url}/api/v1/alerts").json()["data"]["alerts"]
            assert [alert for alert in firing if alert["state"] == "firing"] == []
    except servers.Missing as missing:
        pytest.skip(str(missing))


def ask(url: str, query: str) -> list[object]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    return answer["data"]["result"]


def test_vllms_spans_are_in_the_trace_of_the_request(up, collector):
    """All of one trace, as the engine's process and the replica's tell it."""
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = {"traceparent": f"00-{trace}-{caller}-01"}
    body = {"prompt": "canary words", "stream": True, "max_tokens": 20}
    reply = up.run(body, headers=sent)
    until(lambda: len(collector.of(trace)) == 7)
    found = collector.of(trace)
    request, called = found["POST ai/run"], found[f"chat {MODEL}"]
    assert reply.headers["traceresponse"] == f"00-{trace}-{request.id}-01"
    assert request.parent == caller
    vllms = found["llm_request"]
    assert vllms.parent == called.id
    assert vllms.resource["vllm.instrumenting_module_name"] == "vllm.llm_engine"
    assert vllms.attributes["gen_ai.request.id"] == reply.headers["cf-ai-req-id"]
    queue, prefill, decode = (found[f"engine {name}"] for name in ("queue", "prefill", "decode"))
    assert called.begin < queue.begin <= prefill.begin < decode.begin < decode.end < called.end
    told = vllms.attributes["gen_ai.latency.time_in_model_prefill"]
    assert prefill.end - prefill.begin == pytest.approx(told, abs=1e-5)
    assert b"canary" not in b"".join(collector.bodies)


def test_what_is_not_sampled_is_not_exported_by_vllm_either(up, collector):
    before = len(collector.spans)
    answered(up)
    trace = "5bf92f3577b34da6a3ce929d0e0e4736"
    up.run({"prompt": "x"}, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    until(lambda: len(collector.of(trace)) == 7)
    assert len(collector.spans) == before + 7


def test_the_vision_encoders_time_is_told_of_each_request_with_a_picture(up, collector):
    before = up.total("serving_vision_seconds_count")
    for colour in ("red", "blue"):
        assert up.run(looking_at(colour, max_tokens=2)).status_code == 200
    until(lambda: up.total("serving_vision_seconds_count") == before + 2)
    assert 0 < up.total("serving_vision_seconds_sum") < up.total("serving_prefill_seconds_sum")
    trace = "6bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    up.run(looking_at("green", max_tokens=2), headers=headers)
    until(lambda: len(collector.of(trace)) == 8)
    found = collector.of(trace)
    seen, prefill = found["engine vision"], found["engine prefill"]
    assert prefill.begin == pytest.approx(seen.begin, abs=1e-5)
    assert seen.begin < seen.end < prefill.end
    assert up.total("serving_image_tokens_total") % 2 == 0


def test_the_printed_command_shows_it(up):
    command = up.said.split("See what it does:\n\n")[1].splitlines()[0]
    assert f":{up.environment['METRICS_PORT']}/metrics" in up.said
    shown = [*shlex.split(command), "--once", "--interval", "0.5"]
    done = subprocess.run(shown, env=up.environment, capture_output=True, text=True, check=True)
    assert re.search("replicas +1 up, batch 0 of 32", done.stdout)


def test_ray_serves_own_metrics_are_there_too(up):
    until(lambda: "ray_serve_deployment_status{" in up.metrics(), 60)
    families = {family.name for family in text_string_to_metric_families(up.metrics())}
    assert families >= {"ray_serve_deployment_status", "vllm:num_requests_running"}
    assert len(up.metrics()) < 2**20


def test_counts_live_through_the_death_of_a_replica(up):
    answered(up)
    names = (
        "serving_requests_total",
        "serving_completion_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:e2e_request_latency_seconds_count",
    )
    before = {name: up.total(name) for name in names}
    up.find("ServeReplica").kill()
    deadline = time.monotonic() + 180
    while not restarted(up):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert {name: up.total(name) for name in names} == before
    answered(up)
    assert up.total("serving_requests_total") == before["serving_requests_total"] + 10
    assert up.total("vllm:generation_tokens_total") > before["vllm:generation_tokens_total"]
    # Only replicas write here: neither Ray's processes nor the engine's.
    folder = next((Path(up.environment["STATE_DIR"]) / "metrics").iterdir())
    assert {file.stem.rpartition("_")[2] for file in folder.iterdir()} == {"0"}


def restarted(up: Stack) -> bool:
    try:
        with up.client() as client:
            healthy = client.get("/-/healthz").status_code == 200
        return healthy and up.total("serving_replica_starts_total") == 2
    except (httpx.TransportError, AssertionError):
        return False
