"""The published input schema's validator, and its own way of saying no.

Workers AI answers with the text of its JSON-Schema validator (Cabidela), so clients have come to
read sentences such as `'/top_k' must be <= 50`. The shapes are `published`; the
interpreter keeps the validator's habits, of which these are not obvious:

1. A body is either the `PROMPT` or the `MESSAGES` shape, and exactly one must match.
2. A choice inside them never fails the request: the field just does not count as present. What
   its options complained about is kept, and is listed if the body fails for another reason.
3. A list matches as many times as its items do, so in a choice only lists of one item match.
4. A list of nothing but numbers and strings is "binary": its items are not looked at.
5. The length of a text is counted in UTF-16 code units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serving.errors import InvalidInput
from serving.protocol.published import MESSAGES, PROMPT, Choice, List, Record, Scalar, Shape

_MISSING = object()
_BODY = Choice((PROMPT, MESSAGES))


class _ShapeError(Exception):
    """A shape's first complaint."""


def validate(payload: Any) -> None:
    """Return when the decoded body meets the schema.

    Raises:
        InvalidInput: it does not; the text is the published validator's, letter for letter.
    """
    notes: dict[str, None] = {}
    matches = _matches_of(_BODY, payload, "", notes)
    if matches != 1:
        listed = f": {', '.join(notes)}" if notes else ""
        raise InvalidInput(f"oneOf at '/' not met, {matches} matches{listed}")


def _check(shape: Shape, value: Any, path: str, notes: dict[str, None]) -> int:
    """How often `value` matches; 0 when it is absent. `notes` collects what choices swallow."""
    match shape:
        case Scalar():
            return 0 if value is _MISSING else _check_scalar(shape, value, path)
        case Record():
            return _check_record(shape, value, path, notes)
        case List():
            return _check_list(shape, value, path, notes)
        case Choice():
            return int(_matches_of(shape, value, path, notes) == 1)


def _matches_of(choice: Choice, value: Any, path: str, notes: dict[str, None]) -> int:
    matches = 0
    for option in choice.options:
        try:
            matches += _check(option, value, path, notes)
        except _ShapeError as error:
            notes[str(error)] = None
            continue
        if matches != 1:
            break  # also at 0: an option that neither fits nor complains ends the search
    return matches


def _check_record(shape: Record, value: Any, path: str, notes: dict[str, None]) -> int:
    known = value if isinstance(value, dict) else {}
    found = set()
    for name, of in shape.fields.items():
        # Of an absent field only a record makes something: it complains of its required ones.
        if (name in known or type(of) is Record) and _check(
            of, known.get(name, _MISSING), f"{path}/{name}", notes
        ):
            found.add(name)
    others = 0
    if shape.others:
        # The validator starts afresh here: paths begin at the key, notes are thrown away.
        rest = known.keys() - found
        others = sum(_check(shape.others, known[k], f"/{k}", {}) for k in known if k in rest)
    if not found.issuperset(shape.required):
        raise _ShapeError(
            f"required properties at '{path or '/'}' are '{','.join(shape.required)}'"
        )
    return int(bool(found) or others > 0)


def _check_list(shape: List, value: Any, path: str, notes: dict[str, None]) -> int:
    if isinstance(value, str | bytes) or (isinstance(value, list) and _is_binary(value)):
        return _check_type("array", value, path)
    return sum(_check(shape.items, v, f"{path}/{k}", notes) for k, v in _entries(value))


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """What JavaScript's `for (key in value)` visits."""
    if isinstance(value, list):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()


def _check_scalar(shape: Scalar, value: Any, path: str) -> int:
    _check_type(shape.type, value, path)
    if shape.type == "string":
        _check_length(shape, value, path)
    else:
        _check_range(shape, value, path)
    if shape.pattern and not shape.pattern.search(value):
        # The third t is the validator's.
        raise _ShapeError(f"'{path}' failed test {shape.pattern.pattern} patttern")
    return 1


def _check_length(shape: Scalar, text: str, path: str) -> None:
    if shape.high is not None and _utf16_exceeds(text, shape.high):
        raise _ShapeError(f"Length of '{path}' must be <= {shape.high}")
    if shape.low is not None and len(text) < shape.low:
        raise _ShapeError(f"Length of '{path}' must be >= {shape.low} not met")


def _check_range(shape: Scalar, number: float, path: str) -> None:
    if shape.low is not None and number < shape.low:
        raise _ShapeError(f"'{path}' must be >= {shape.low}")
    if shape.high is not None and number > shape.high:
        raise _ShapeError(f"'{path}' must be <= {shape.high}")


def _check_type(expected: str, value: Any, path: str) -> int:
    types = _types(value)
    if expected not in types:
        found = ",".join(f"'{name}'" for name in types)
        raise _ShapeError(f"Type mismatch of '{path}', '{expected}' not in {found}")
    return 1


def _types(value: Any) -> tuple[str, ...]:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case str():
            return ("string",)
        case int():
            return ("number", "integer")
        case float():  # JavaScript knows one kind of number: 5.0 is an integer
            return ("number", "integer") if value.is_integer() else ("number",)
        case bytes():  # how `images.pack` leaves an array of bytes
            return ("array", "binary")
        case list():
            return ("array", "binary") if _is_binary(value) else ("array",)
        case _:
            return ("object",)


def _is_binary(items: list[Any]) -> bool:
    """Nothing but numbers and strings; by an oversight also if the first other item is null."""
    if {int, float, str}.issuperset(map(type, items)):
        return True
    return next(i for i in items if type(i) not in (int, float, str)) is None


def _utf16_exceeds(text: str, limit: int) -> bool:
    if 2 * len(text) <= limit:
        return False
    return len(text) > limit or len(text.encode("utf-16-le", "surrogatepass")) > 2 * limit
