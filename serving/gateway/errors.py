"""Exceptions nobody declared, made into one the dialects know."""

from __future__ import annotations

import logging
import traceback

from serving.errors import EngineFailed, ServingError

_log = logging.getLogger("serving.gateway")


def declared(error: Exception, request_id: str) -> ServingError:
    """`error` itself if it is one of ours; otherwise it is logged and an `EngineFailed` returned.

    The log has the place and the kind, not the message: that may quote the prompt.
    """
    if isinstance(error, ServingError):
        return error
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("request %s: undeclared %s\n%s", request_id, type(error).__name__, place)
    return EngineFailed("an undeclared exception")
