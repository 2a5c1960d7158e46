"""Log lines as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from serving.core import Trace
from serving.gateway.receipts import log_access
from serving.telemetry.logs import Json
from tests.gateway.conftest import ACCOUNT, TOKEN, Service, service  # noqa: F401


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the project's loggers write."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Json())
    logger = logging.getLogger("serving")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield out
    logger.removeHandler(handler)
    logger.setLevel(before)


async def test_a_request_is_one_line_that_says_all_but_secrets(
    service: Service,  # noqa: F811
    lines: io.StringIO,
) -> None:
    service.gateway._observers = (log_access,)
    await service.post({"prompt": "my\nsecret words", "stream": True})
    (line,) = lines.getvalue().splitlines()
    said = json.loads(line)
    assert (said["logger"], said["level"]) == ("serving.access", "info")
    assert said["request"]["account"] == ACCOUNT
    assert said["request"]["outcome"] == "ok"
    assert said["request"]["usage"]["completion_tokens"] == 3
    assert said["request"]["ttft"] <= said["request"]["duration"]
    assert "secret words" not in line
    assert TOKEN not in line


async def test_a_line_has_the_stages_and_the_trace(
    service: Service,  # noqa: F811
    lines: io.StringIO,
) -> None:
    service.gateway._observers = (log_access,)
    service.gateway._tracing = lambda headers: Trace("a" * 32, "b" * 16, "c" * 16)
    await service.post({"prompt": "one two", "stop": ["my own words"]})
    said = json.loads(lines.getvalue())["request"]
    assert said["trace"] == "a" * 32
    assert set(said["stages"]) == {"at", "queue", "prefill", "decode"}
    assert "my own words" not in lines.getvalue()


async def test_warnings_only_means_no_line_for_each_request(
    service: Service,  # noqa: F811
    lines: io.StringIO,
) -> None:
    logging.getLogger("serving").setLevel("WARNING")
    service.gateway._observers = (log_access,)
    await service.post({"prompt": "one"})
    assert lines.getvalue() == ""


def test_an_exception_is_one_line_too(lines: io.StringIO) -> None:
    try:
        raise ValueError("several\nlines")
    except ValueError:
        logging.getLogger("serving.gateway").exception("it broke on %s", "x")
    (line,) = lines.getvalue().splitlines()
    said = json.loads(line)
    assert said["message"] == "it broke on x"
    assert "ValueError: several\nlines" in said["error"]
