"""Sampling fields of a validated body -> `core.Sampling`.

The published ranges are wider than what engines take; the ends are mapped here, once:
`top_p` above 1 keeps every token, as 1 does; at 0 it keeps the likeliest one, as `top_k` 1 does;
a `repetition_penalty` of 0 is no penalty, since it has no other meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.core import Sampling
from serving.errors import InvalidInput

_DEFAULT = Sampling()
_MOST_STOPS = 64  # each is looked for after every token


def parse(body: Mapping[str, Any]) -> Sampling:
    """Fields that are absent fall to the published defaults, or to the model's own (`None`).

    Raises:
        InvalidInput: `max_tokens` or `stop` cannot be meant, though the schema lets them pass.
    """
    top_p, top_k = body.get("top_p"), body.get("top_k")
    if top_p == 0:
        top_p, top_k = None, 1
    return Sampling(
        max_tokens=_max_tokens(body.get("max_tokens", _DEFAULT.max_tokens)),
        temperature=float(body.get("temperature", _DEFAULT.temperature)),
        top_p=None if top_p is None else min(float(top_p), 1.0),
        top_k=_integer(top_k),
        seed=_integer(body.get("seed")),
        repetition_penalty=body.get("repetition_penalty") or None,
        frequency_penalty=body.get("frequency_penalty"),
        presence_penalty=body.get("presence_penalty"),
        stop=_stop(body.get("stop")),
    )


def _max_tokens(value: float) -> int:
    if value < 1:
        raise InvalidInput("'/max_tokens' must be >= 1")
    return int(value)


def _integer(value: float | None) -> int | None:
    """JSON's 40.0 is a valid integer of the schema."""
    return None if value is None else int(value)


def _stop(value: Any) -> tuple[str, ...]:
    """One text or a list of them; an empty one could never be found and is left out."""
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput("'/stop' must be a string or an array of strings")
    if len(texts) > _MOST_STOPS:
        raise InvalidInput(f"'/stop' must have at most {_MOST_STOPS} strings")
    return tuple(text for text in texts if text)
