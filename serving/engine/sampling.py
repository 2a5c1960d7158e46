"""Workers AI's sampling fields -> vLLM's, whose ranges are a little narrower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from serving.core import Generation, Sampling, Tool

# The contract allows up to 5. vLLM stops at 2, where drawing is all but uniform: more acts as 2.
_MAX_TEMPERATURE = 2.0
# top_p 0 is legal in the contract and means the same as the smallest value: the best token only.
_SMALLEST_TOP_P = 1e-6


def params(generation: Generation, defaults: Mapping[str, Any]) -> SamplingParams:
    """The parameters of one request; `defaults` are those of the model's generation config.

    Raises:
        ValueError: vLLM refuses a value; the message is fit for the caller.
    """
    sampling = generation.sampling
    kind = RequestOutputKind.DELTA if generation.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=min(sampling.temperature, _MAX_TEMPERATURE),
        seed=sampling.seed,
        stop=list(sampling.stop),
        presence_penalty=sampling.presence_penalty or 0.0,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        structured_outputs=_structure(generation),
        output_kind=kind,
        skip_clone=True,  # made for this request, shared with nobody
        **_or_default(sampling, defaults),
    )


def _or_default(sampling: Sampling, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The three fields whose absence leaves the choice to the model."""
    top_p = defaults.get("top_p", 1.0) if sampling.top_p is None else sampling.top_p
    top_k = defaults.get("top_k", 0) if sampling.top_k is None else sampling.top_k
    repetition = sampling.repetition_penalty
    if repetition is None:
        repetition = defaults.get("repetition_penalty", 1.0)
    return {
        # The contract allows up to 2; beyond 1 there is nothing left to include.
        "top_p": min(max(top_p, _SMALLEST_TOP_P), 1.0),
        "top_k": top_k,
        # A factor: 0 is legal in the contract and cannot be divided by. Who sends 0 wants none.
        "repetition_penalty": repetition or 1.0,
    }


def _structure(generation: Generation) -> StructuredOutputsParams | None:
    if generation.must_call:
        return StructuredOutputsParams(json=json.dumps(_any_call(generation.tools)))
    if generation.json is None:
        return None
    if generation.json.schema is None:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=json.dumps(generation.json.schema))


def _any_call(tools: Sequence[Tool]) -> dict[str, Any]:
    """The schema of a call of one of `tools`, in the form the model was trained to write."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    "parameters": {"type": "object", **tool.parameters},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
    }
