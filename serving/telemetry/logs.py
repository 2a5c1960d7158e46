"""Log lines as JSON, one object a line, for those who collect them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec

_ACCESS = "serving.access"  # its messages are JSON already: a receipt each
_encode = msgspec.json.Encoder().encode


class Json(logging.Formatter):
    """`at`, `level`, `logger`, then `message`, or `request` in the access log; maybe `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`. The error's trace is one string: a line stays a line."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        said = record.getMessage()
        if record.name == _ACCESS:
            line["request"] = msgspec.Raw(said.encode())
        else:
            line["message"] = said
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()
