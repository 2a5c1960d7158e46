"""The harness against the shipped gateway: each checks the other, over the wire."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.core import Record
from loadtest.outcome import conduct
from loadtest.scenario import Scenario, build
from serving.engine.fake import IMAGE_TOKENS
from serving.errors import Overloaded
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN, Service, service

__all__ = ["service"]  # the fixture


def scenario(service: Service, api: str, token: str = TOKEN, **tenant: Any) -> Scenario:
    base = f"http://127.0.0.1:{service.port}/client/v4"
    url = base if api == "workers-ai" else f"{base}/accounts/{ACCOUNT}/ai/v1"
    target = {"url": url, "api": api, "account": ACCOUNT, "model": MODEL, "token": token}
    asked = {"prompt_tokens": "24", "output_tokens": "12", **tenant}
    return build(
        {
            "target": {**target, "timeout": 5},
            "load": {"concurrency": 4},
            "requests": 40,
            "duration": 20,
            "tenants": [asked],
        }
    )


@pytest.mark.parametrize("api", ["workers-ai", "openai"])
@pytest.mark.parametrize("stream", [True, False])
async def test_both_dialects_count_the_same_tokens(
    service: Service, api: str, stream: bool
) -> None:
    picture = {"images": "1", "sizes": ["32x32"]}
    records: list[Record] = []
    asked = scenario(service, api, stream=stream, **picture)
    summary, _ = await conduct(asked, [records.append], calibration=0)
    assert summary["errors_by_kind"] == {}
    assert summary["requests"] == len(service.receipts) == 40
    receipts = service.receipts
    assert summary["output_tokens"] == sum(r.usage.completion_tokens for r in receipts) == 480
    assert summary["prompt_tokens"] == sum(r.usage.prompt_tokens for r in receipts)
    assert {record.image_tokens for record in records} == {IMAGE_TOKENS}
    assert 0 < sum(record.text_tokens for record in records) < 40 * IMAGE_TOKENS
    assert (summary["ttft_ms"]["count"] == 40) == stream
    if stream:
        assert summary["itl_ms"]["count"] > 40


@pytest.mark.parametrize("api", ["workers-ai", "openai"])
async def test_a_wrong_token_is_401_with_cloudflares_code(service: Service, api: str) -> None:
    summary, _ = await conduct(scenario(service, api, token="x" * 40), calibration=0)
    assert summary["errors_by_kind"] == {"http_401": 40}
    assert summary["errors_by_code"] == {"10000": 40}
    assert summary["verdict"] == "INVALID"


async def test_an_engine_that_dies_in_mid_stream_is_an_error_in_200(service: Service) -> None:
    service.engine.faults.fail_after = 5
    summary, _ = await conduct(scenario(service, "workers-ai"), calibration=0)
    assert summary["errors_by_kind"] == {"error_in_200": 40}


async def test_overload_says_when_to_return(service: Service) -> None:
    service.engine.faults.refuse = Overloaded("busy")
    summary, _ = await conduct(scenario(service, "openai"), calibration=0)
    assert summary["errors_by_kind"] == {"http_429": 40}
    assert summary["errors_by_code"] == {"3040": 40}
