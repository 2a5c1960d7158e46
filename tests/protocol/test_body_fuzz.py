"""Any JSON as a body, in every dialect: a generation or a refusal, never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core import Delta, Finish, Usage
from serving.errors import BadRequest, JsonNotMet
from serving.protocol import (
    anthropic,
    native,
    openai_chat,
    openai_completions,
    openai_responses,
)
from serving.protocol.dialect import Ask, Dialect
from tests.protocol.models import MODEL, catalog

DIALECTS = {
    "native": native.DIRECT,
    "named": native.NAMED,
    "bound": native.BOUND,
    "chat": openai_chat.DIALECT,
    "completions": openai_completions.DIALECT,
    "responses": openai_responses.DIALECT,
    "messages": anthropic.DIALECT,
}
ROLES = ["user", "assistant", "tool", "system"]
KINDS = [
    "text", "image_url", "image", "tool_use", "tool_result", "function", "function_call",
    "function_call_output", "input_text", "input_image", "json_object", "json_schema", "message",
]  # fmt: skip
KEYS = [
    "type", "role", "text", "content", "name", "function", "arguments", "parameters", "input",
    "input_schema", "image_url", "url", "source", "data", "id", "call_id", "tool_call_id",
    "tool_use_id", "tool_calls", "output", "schema", "json_schema", "format", "include_usage",
]  # fmt: skip
TOP = [
    "prompt", "messages", "input", "inputs", "system", "instructions", "image", "raw", "stream",
    "tools", "functions", "tool_choice", "response_format", "text", "stop", "stop_sequences",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k",
    "seed", "options", "stream_options", "metadata", "logit_bias", "modalities", "lora",
]  # fmt: skip
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 60),
    st.floats(-1, 3),
    st.sampled_from([*ROLES, *KINDS, "", "auto", "data:image/png;base64,aaaa", "{}", "\ud83d"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "content": values},
    optional={"tool_calls": values, "type": st.sampled_from(KINDS)},
)
# Enough of a body to be read on, and anything in the other fields.
bodies = st.tuples(
    st.one_of(
        st.fixed_dictionaries({"messages": st.lists(turns, max_size=2)}),
        st.fixed_dictionaries({"prompt": st.text(min_size=1, max_size=5)}),
        st.fixed_dictionaries({"input": st.lists(turns, max_size=2)}),
        st.just({}),
    ),
    st.dictionaries(st.sampled_from(TOP), values, max_size=3),
).map(lambda pair: pair[0] | pair[1])


def check(name: str, body: Any) -> None:
    dialect: Dialect = DIALECTS[name]
    if name == "named":
        body = {"model": MODEL, "input": body}
    elif name == "bound":
        body = {"inputs": body}
    else:
        body = {"model": MODEL, **body}
    ask = Ask("r1", catalog(), MODEL if name in ("native", "bound") else "", 1)
    try:
        generation, writer = dialect.parse(json.dumps(body).encode(), ask)
        delta = Delta("{}", finish=Finish.STOP, usage=Usage(1, 1))
        written = writer.frames(delta) if generation.stream else writer.whole(delta)
    except (BadRequest, JsonNotMet):
        return
    assert written


@pytest.mark.parametrize("name", DIALECTS)
@given(bodies)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_body_is_answered_or_refused(name: str, body: Any) -> None:
    check(name, body)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIALECTS)
@given(bodies)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_body_is_answered_or_refused_at_length(name: str, body: Any) -> None:
    check(name, body)
