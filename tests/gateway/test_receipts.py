"""Every request leaves one receipt, and one line in the access log."""

import json
import logging
from time import time
from typing import Any

import pytest

from serving.core import Delta, Finish, Outcome, Receipt, Sampling, Usage
from serving.engine.fake import IMAGE_TOKENS
from serving.gateway.receipts import Draft, log_access
from tests.gateway.conftest import ACCOUNT, MODEL, PATH, TOKEN, Service


@pytest.mark.parametrize("stream", [False, True])
async def test_a_success(service: Service, stream: bool) -> None:
    service.engine.faults.first_token_delay = 0.02
    response = await service.post({"prompt": "one two three", "stream": stream})
    (receipt,) = service.receipts
    assert receipt == Receipt(
        id=response.headers["cf-ai-req-id"],
        account=ACCOUNT,
        route="ai/run",
        model=MODEL,
        outcome=Outcome.OK,
        status=200,
        code=None,
        usage=Usage(3, 3),
        duration=receipt.duration,
        ttft=receipt.ttft,
        at=receipt.at,
        finish=Finish.STOP,
        stream=stream,
        queued=receipt.queued,
        method="POST",
        asked=receipt.asked,
        stages=receipt.stages,
        gaps=receipt.gaps,
        sampling=Sampling(),
    )
    assert len(receipt.gaps) == (2 if stream else 0)
    assert receipt.asked is not None
    assert receipt.stages is not None
    assert 0 <= receipt.asked <= receipt.stages.at < receipt.duration
    assert receipt.stages.prefill > 0.01
    assert receipt.queued is not None
    assert abs(receipt.at - time()) < 60
    assert receipt.ttft is not None
    assert 0.02 <= receipt.ttft <= receipt.duration


async def test_a_rejection_knows_what_was_known_by_then(service: Service) -> None:
    await service.post({"prompt": "hi"}, "/nowhere")
    await service.post({"prompt": "hi"}, PATH.replace(MODEL, "@cf/x/y"))
    await service.post({})
    nowhere, unknown, bad = service.receipts
    assert (nowhere.route, nowhere.account, nowhere.model) == ("", "", "")
    assert (unknown.route, unknown.account, unknown.model) == ("ai/run", ACCOUNT, "")
    assert (bad.model, bad.status, bad.code) == (MODEL, 400, 5006)
    assert {receipt.outcome for receipt in service.receipts} == {Outcome.REJECTED}
    assert all(receipt.usage == Usage() for receipt in service.receipts)


async def test_a_failure_is_not_the_callers(service: Service) -> None:
    service.engine.faults.fail_after = 0
    await service.post({"prompt": "hi"})
    service.engine.faults.fail_after = 1
    await service.frames({"prompt": "one two"})
    service.engine.faults.overloaded = True
    await service.post({"prompt": "hi"})
    assert [(r.outcome, r.status, r.code) for r in service.receipts] == [
        (Outcome.FAILED, 500, 3043),
        (Outcome.FAILED, 200, 3043),
        (Outcome.FAILED, 429, 3040),
    ]


async def test_an_observer_that_fails_spoils_nothing(service: Service) -> None:
    def spoil(receipt: Receipt) -> None:
        raise RuntimeError

    service.gateway._observers = (spoil, *service.gateway._observers)
    assert (await service.post({"prompt": "hi"})).status_code == 200
    assert len(service.receipts) == 1


async def test_the_log_has_neither_prompt_nor_picture_nor_token(
    service: Service, caplog: Any
) -> None:
    service.gateway._observers += (log_access,)
    caplog.set_level(logging.DEBUG)
    body = {"prompt": "a-private-matter", "image": "c2VjcmV0LXBpY3R1cmU="}
    await service.post(body)
    await service.post({**body, "temperature": 9})
    await service.post({**body, "stream": True})
    lines = [json.loads(r.message) for r in caplog.records if r.name == "serving.access"]
    assert [line["status"] for line in lines] == [200, 400, 200]
    assert lines[0]["outcome"] == "ok"
    assert lines[0]["usage"]["prompt_tokens"] == 2 + IMAGE_TOKENS
    for secret in ("private", "c2VjcmV0", "secret-picture", TOKEN):
        assert secret not in caplog.text


def test_a_draft_counts_from_its_making() -> None:
    draft = Draft("r1")
    assert draft.receipt().ttft is None
    draft.note(Delta("one"))
    first = draft.receipt().ttft
    draft.note(Delta(" two"))
    assert draft.receipt().ttft == first
    assert draft.receipt().duration >= (first or 0)
