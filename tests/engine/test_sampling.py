"""Workers AI's ranges squeezed into vLLM's."""

import json

import pytest

from serving.core import Generation, JsonFormat, Message, Sampling
from serving.engine import sampling

HELLO = (Message("user", ("Hello",)),)


def made(defaults=None, json_format=None, stream=False, **fields):
    generation = Generation("id", "m", HELLO, Sampling(**fields), json=json_format, stream=stream)
    return sampling.params(generation, defaults or {})


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("temperature", 5.0, 2.0),
        ("temperature", 0.0, 0.0),
        ("top_p", 2.0, 1.0),
        ("top_p", 0.0, 1e-6),
        ("top_k", 50, 50),
        ("seed", 9_999_999_999, 9_999_999_999),
        ("repetition_penalty", 0.0, 1.0),
        ("repetition_penalty", 2.0, 2.0),
        ("frequency_penalty", 2.0, 2.0),
        ("presence_penalty", 0.5, 0.5),
        ("max_tokens", 1, 1),
        ("stop", ("END",), ["END"]),
    ],
)
def test_every_legal_value_is_one_vllm_takes(field, given, expected):
    """The edges of the contract's ranges."""
    assert expected == getattr(made(**{field: given}), field)


def test_absent_fields_are_the_models_choice():
    """Those of its generation config; Workers AI's own defaults come first."""
    defaults = {"temperature": 0.1, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1}
    params = made(defaults)
    assert (
        params.temperature,
        params.top_p,
        params.top_k,
        params.repetition_penalty,
    ) == (0.6, 0.9, 7, 1.1)
    assert (made(defaults, top_p=0.5).top_p, made(defaults, top_k=3).top_k) == (0.5, 3)


def test_json_with_and_without_a_schema():
    """Both become constraints on the tokens."""
    schema = {"type": "object"}
    assert schema == json.loads(made(json_format=JsonFormat(schema)).structured_outputs.json)
    assert made(json_format=JsonFormat()).structured_outputs.json_object is True
    assert made().structured_outputs is None


def test_streams_ask_for_deltas():
    """A plain answer asks for the end only."""
    assert (
        made(stream=True).output_kind.name,
        made().output_kind.name,
    ) == ("DELTA", "FINAL_ONLY")
