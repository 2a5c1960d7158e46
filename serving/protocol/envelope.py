"""The envelope around every JSON answer, and the one table of what errors look like on the wire.

success        {"result": ..., "success": true, "errors": [], "messages": []}
model errors   {"errors": [{"message": "AiError: <name>: <text> (<request id>)", "code": ...}],
                "success": false, "result": {}, "messages": []}
API errors     {"result": null, "success": false,
                "errors": [{"code": ..., "message": <text>}], "messages": []}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from serving import errors

MEDIA_TYPE = b"application/json"
ABORTED = 3008  # Cloudflare's code for a request its client gave up

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Problem:
    """The wire side of an error. Without a `name` it is one of the API in front of the models.

    `text` frames the error's own words, or replaces those not meant for the caller.
    """

    status: int
    code: int
    name: str | None = None
    text: str = "{}"


# The first class in an error's ancestry that is listed here speaks for it.
_PROBLEMS: dict[type[errors.ServingError], Problem] = {
    errors.UnknownPath: Problem(400, 7000),
    errors.UnknownObject: Problem(404, 7003),
    errors.MethodRefused: Problem(405, 7001),
    errors.MissingBody: Problem(400, 3003, "AiError"),
    errors.BodyTooLarge: Problem(413, 3006, "AiError"),
    errors.BadRequest: Problem(400, 5006, "Bad input: Error"),
    errors.InvalidChoice: Problem(400, 8001, "AiError"),
    errors.InvalidImage: Problem(400, 8006, "AiError", "Invalid data for image - {}"),
    errors.NotAnImage: Problem(400, 5004, "AiError"),
    errors.UnknownModel: Problem(400, 5007, "No such model"),
    errors.UnknownEntry: Problem(404, 3042, "AiError"),
    errors.LoraUnsupported: Problem(405, 5005, "AiError"),
    # Not published; the code of a model that is not there.
    errors.UnknownAdapter: Problem(400, 5007, "No such model"),
    errors.AdapterIncomplete: Problem(400, 3039, "AiError"),
    errors.ContextExceeded: Problem(413, 5021, "Ai"),
    errors.Unauthenticated: Problem(400, 9106),
    errors.WrongToken: Problem(401, 10000),
    errors.Forbidden: Problem(403, 10000),
    errors.AccountDisabled: Problem(403, 3023, "AiError"),
    errors.NotPermitted: Problem(403, 9109),
    errors.NotAgreed: Problem(403, 5016, "Model Agreement"),
    errors.Overloaded: Problem(429, 3040, "AiError"),
    errors.RateLimited: Problem(429, 3021, "AiError"),
    errors.QuotaSpent: Problem(429, 3036, "AiError"),
    # HAProxy gives what was answered with 503 to another replica: see cluster/environment.py.
    errors.StoreDown: Problem(503, 3050, "AiError"),
    errors.EngineDown: Problem(503, 3050, "AiError"),
    # AI Gateway's; the status is not published.
    errors.TimedOut: Problem(408, 2014),
    # The status is not published. 400, since clients retry 5xx and another try rarely helps.
    errors.JsonNotMet: Problem(400, 5024, "AiError"),
    errors.ServingError: Problem(500, 3043, "AiError", "Internal server error"),
}


def problem(error: errors.ServingError) -> Problem:
    """The status, code and name of `error`."""
    return next(_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS)


def success(result: Any, **extra: Any) -> bytes:
    """The body of a 200; `extra` replaces `messages` or comes after."""
    rest = {"success": True, "errors": [], "messages": [], **extra}
    return _encode({"result": result, **rest})


class _Wrapped(msgspec.Struct):
    result: msgspec.Raw


def unwrapped(body: bytes) -> bytes:
    """The result in the body of a 200."""
    return bytes(msgspec.json.decode(body, type=_Wrapped).result)


def bare(result: Any) -> bytes:
    """The body of a 200 where the API answers without the envelope."""
    return _encode(result)


def failure(error: errors.ServingError, request_id: str) -> bytes:
    """The body of the error answer to the request `request_id`."""
    return _encode(described(error, request_id))


def refusal(error: errors.ServingError) -> bytes:
    """The body of the error answer of what is not inference, and says nothing in its words."""
    found = problem(error)
    return _encode(_refused(found.code, str(error) or found.text.format(error)))


def interruption(error: errors.ServingError, request_id: str) -> dict[str, Any]:
    """What a stream's last frame says when it breaks off.

    The empty `response` is for clients that print that field of every frame.
    """
    return {"response": "", **described(error, request_id)}


def headers(error: errors.ServingError) -> list[tuple[bytes, bytes]]:
    """Response headers that only some errors have."""
    match error:
        case errors.Overloaded(retry_after=seconds):
            return [(b"retry-after", b"%d" % max(1, math.ceil(seconds)))]
        case errors.MethodRefused(allowed=allowed):
            return [(b"allow", allowed.encode())]
    return []


def described(error: errors.ServingError, request_id: str) -> dict[str, Any]:
    """The error answer to the request `request_id`, for dialects that add to it."""
    found = problem(error)
    text = found.text.format(error)
    if found.name is None:
        return _refused(found.code, text)
    entry = {"message": f"AiError: {found.name}: {text} ({request_id})", "code": found.code}
    return {"errors": [entry], "success": False, "result": {}, "messages": []}


def _refused(code: int, message: str) -> dict[str, Any]:
    entry = {"code": code, "message": message}
    return {"result": None, "success": False, "errors": [entry], "messages": []}
