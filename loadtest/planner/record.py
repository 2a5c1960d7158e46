"""What a simulated request leaves: the record that a real one would."""

from __future__ import annotations

from loadtest.core import Record
from loadtest.planner.requests import Request


def answered(number: int, request: Request, now: float, outside: float, gaps: list[int]) -> Record:
    """Of one whose last token came `now`; `outside` seconds are spent around the engine."""
    end, stream = now + outside, request.stream
    first = request.first + outside if stream else end
    return Record(
        id=number,
        tenant=request.tenant,
        stream=stream,
        intended=request.due,
        sent=request.due,
        first_byte=first,
        first_token=first,
        end=end,
        gaps=gaps,
        frames=request.output if stream else 1,
        status=200,
        prompt_tokens=request.prompt,
        output_tokens=request.output,
        cached_tokens=request.cached,
    )


def failed(number: int, request: Request, now: float, error: str, status: int) -> Record:
    """Of one that is refused, or lost with its replica."""
    return Record(
        id=number,
        tenant=request.tenant,
        stream=request.stream,
        intended=request.due,
        sent=request.due,
        end=now,
        status=status,
        error=error,
    )
