"""Records added up many at a time are what they are one by one."""

from __future__ import annotations

import random

import pytest

from loadtest import columns
from loadtest.core import Failure, Record
from loadtest.instrument import Measured
from loadtest.series import Series
from loadtest.summary import curves, summarize, timeline

ERRORS = ("", "", "", "http_500", Failure.OVERFLOW, Failure.TRUNCATED)


def any_record(rng: random.Random, number: int) -> Record:
    """One of every kind: tenants, failures, whole answers, no usage, a token, none."""
    error, at = rng.choice(ERRORS), rng.uniform(-0.001, 40)
    wait, gaps = rng.lognormvariate(-2, 1), [rng.randrange(9_000_000) for _ in range(number % 7)]
    answered = error in ("", Failure.TRUNCATED) and number % 11 > 0
    first = at + wait if answered else None
    return Record(
        id=number,
        tenant=rng.choice(("a", "b")),
        stream=rng.random() < 0.8,
        intended=at,
        sent=at + 0.002,
        connect=rng.choice((0.0, 0.001)),
        first_token=first,
        end=at + wait + sum(gaps) / 1e6 + 0.004,
        gaps=gaps if answered else [],
        frames=len(gaps) + 1 if answered else 0,
        error=error,
        code=3040 if error == "http_500" else None,
        prompt_tokens=rng.choice((-1, 12)),
        output_tokens=rng.choice((-1, len(gaps) + 1, 2 * len(gaps) + 2)),
        cached_tokens=rng.choice((0, 4)),
    )


@pytest.mark.parametrize("duration", [None, 40.0, 4.0])
def test_columns_add_up_to_what_records_do(duration: float | None) -> None:
    rng = random.Random(5)
    records = [any_record(rng, number) for number in range(3000)]
    one_by_one, together = Series.over(duration), Series.over(duration)
    for record in records:
        one_by_one.add(record, not record.error)
    for begin in range(0, len(records), 700):
        columns.add(together, records[begin : begin + 700])
    columns.add(together, [])

    def found(series: Series) -> Measured:
        return Measured(series=series, open_loop=True, window=40.0, offered=3000, started=3000)

    assert together.width == one_by_one.width
    assert together.tokens == pytest.approx(one_by_one.tokens, rel=1e-9)
    assert together.busy == pytest.approx(one_by_one.busy, rel=1e-9)
    together.tokens, together.busy = one_by_one.tokens, one_by_one.busy
    for figures in (summarize, timeline, curves):
        assert figures(found(together)) == figures(found(one_by_one))
