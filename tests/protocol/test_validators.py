"""Our validator against a JSON-Schema engine, over the schema we publish.

The two agree on whether a body is acceptable, but for the published validator's habits: inside a
choice nothing fails a request, and a list that only holds numbers and texts is not looked into. So
the engine is given the same schema with the choices left open and those lists let through.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import InvalidInput
from serving.protocol import published, schema

PUBLISHED = published.json_schema()
PROMPT, MESSAGES = PUBLISHED["oneOf"]


def opened(shape: Any) -> Any:
    """`shape` without the choices inside it."""
    if isinstance(shape, dict):
        if "oneOf" in shape:
            return {}
        return {name: opened(value) for name, value in shape.items()}
    return shape


ENGINES = [jsonschema.Draft202012Validator(opened(option)) for option in (PROMPT, MESSAGES)]


def acceptable(body: Any) -> bool:
    """What the engine says: exactly one of the two shapes is met."""
    return sum(engine.is_valid(body) for engine in ENGINES) == 1


def accepted(body: Any) -> bool:
    """What we say."""
    try:
        schema.validate(body)
    except InvalidInput:
        return False
    return True


texts = st.text(max_size=8)
numbers = st.one_of(
    st.integers(-3, 60), st.sampled_from([9_999_999_999, 10**10, 0.5, 2.5, 5.0, 5.1, -0.1])
)
scalars = st.one_of(texts, numbers, st.booleans())
parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}),
    st.fixed_dictionaries(
        {"image_url": st.fixed_dictionaries({"url": st.sampled_from(["data:x", "http://x"])})}
    ),
)
# Objects only: a list with a text among them is one of the habits.
turns = st.fixed_dictionaries(
    {"role": texts},
    optional={
        "content": st.one_of(texts, parts, st.lists(parts, min_size=1, max_size=3)),
        "tool_call_id": st.one_of(st.text("ab9_", max_size=12), st.integers()),
    },
)
functions = st.fixed_dictionaries({}, optional={"name": scalars, "code": scalars})
SAMPLING = (
    "stream",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
sampling = dict.fromkeys(SAMPLING, scalars)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.one_of(texts, numbers),
        "messages": st.lists(turns, max_size=3),
        "functions": st.lists(functions, min_size=1, max_size=2),
        "raw": scalars,
        "lora": scalars,
        "unknown": scalars,
        **sampling,
    },
)


def agree(body: dict[str, Any]) -> None:
    assert accepted(body) == acceptable(body), body


@given(bodies)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_validators_agree(body: dict[str, Any]) -> None:
    agree(body)


@pytest.mark.slow
@given(bodies)
@settings(max_examples=50_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_validators_agree_at_length(body: dict[str, Any]) -> None:
    agree(body)


@pytest.mark.parametrize(
    ("habit", "body"),
    [
        ("a choice fails nothing", {"prompt": "x", "image": {"a": 1}}),
        ("nor a tool of no shape", {"messages": [{"role": "user"}], "tools": [{"a": 1}]}),
        ("binary lists are not looked into", {"messages": ["x"]}),
    ],
)
def test_the_habits_in_which_they_differ(habit: str, body: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(PUBLISHED).is_valid(body), habit
    assert accepted(body), habit


def test_the_published_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
