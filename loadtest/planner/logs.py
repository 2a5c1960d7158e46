"""The gateway's access log as records, so that production runs can be fitted.

A line is `<date> <time> INFO serving.access {json}` with when the request ended (`at`), how long it
took and how long to its first token. It has no moments of the tokens between, and of pictures only
their number; requests with pictures come as the tenant `<account>+images`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtest.core import Record, UsageError

IMAGES = "+images"


def read(path: Path) -> list[Record]:
    """The requests that were answered, in order of when they came.

    Raises:
        UsageError: it cannot be read, or is no such log.
    """
    try:
        lines = path.read_text().splitlines()
        rows = [
            json.loads(line.partition(" INFO serving.access ")[2])
            for line in lines
            if " INFO serving.access " in line
        ]
        found = sorted((_record(i, row) for i, row in enumerate(rows)), key=lambda r: r.sent)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not an access log: {error!r}") from error
    if not found:
        raise UsageError(f"{path} holds no request")
    return found


def _record(number: int, row: dict[str, Any]) -> Record:
    usage, end = row["usage"], float(row["at"])
    sent = end - float(row["duration"])
    ttft = row["ttft"]
    return Record(
        id=number,
        tenant=row["account"] + (IMAGES if row.get("images") else ""),
        intended=sent,
        sent=sent,
        first_token=None if ttft is None else sent + float(ttft),
        end=end,
        frames=1,
        status=int(row["status"]),
        error="" if row["outcome"] == "ok" else str(row["outcome"]),
        prompt_tokens=int(usage["prompt_tokens"]),
        output_tokens=int(usage["completion_tokens"]),
        cached_tokens=int(usage.get("cached_tokens") or 0),
        image_tokens=int(usage.get("image_tokens") or 0),
        cached_image_tokens=int(usage.get("cached_image_tokens") or 0),
    )
