"""Sums by the hour say what the rows say, whoever added them and however often."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from msgspec.structs import asdict
from sqlalchemy import Connection, func, select

from serving import tenancy
from serving.cluster.tenants import Tenants
from serving.settings import Settings
from serving.tenancy import hours, ledger, record, tables, usage
from serving.tenancy.database import Database
from tests.tenancy.conftest import MODEL

BEGIN = datetime(2026, 10, 31, 22, 30, tzinfo=UTC)
WITH_MORE = {"image_tokens": 1601, "images": 1, "cached_tokens": 2}


def made(index: int, at: datetime, generator: random.Random) -> record.Record:
    tokens = generator.randrange(1000)
    return record.Record(
        receipt=f"r{index}",
        at=int(at.timestamp() * 1000),
        account=generator.choice("ab"),
        token=generator.choice("tuv"),
        route="ai/run",
        model=MODEL,
        adapter="",
        outcome=generator.choice(["ok", "cancelled"]),
        finish=None,
        status=200,
        code=None,
        prompt_tokens=tokens,
        completion_tokens=1,
        duration_us=1,
        ttft_us=None,
        input_price=1,
        cached_price=1,
        output_price=1,
        picodollars=tokens + 1,
        microneurons=3,
        **WITH_MORE,
    )


def migrations(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(tenancy.__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


def some(count: int) -> list[record.Record]:
    """Over some five hours and the end of a month."""
    generator = random.Random(5)
    times = [BEGIN + timedelta(seconds=generator.randrange(18_000)) for _ in range(count)]
    return [made(index, at, generator) for index, at in enumerate(times)]


@pytest.mark.parametrize("period", [None, "hour", "day"])
def test_sums_are_those_of_the_requests(tenants: Tenants, period: str | None) -> None:
    """Between any two moments, within an hour or over several."""
    records, database = some(700), tenants.tenancy.database
    ledger.insert(database, records[:500])
    ledger.insert(database, records[300:])  # some a second time
    for first, last in ((0, 18_000), (90, 17_000), (1800, 5400), (100, 160), (1700, 1900)):
        begin, end = BEGIN + timedelta(seconds=first), BEGIN + timedelta(seconds=last)
        expected: Counter[Any] = Counter()
        for each in records:
            at = datetime.fromtimestamp(each.at / 1000, UTC)
            start = at.replace(minute=0, second=0)
            start = start if period == "hour" else start.replace(hour=0)
            if begin <= at < end:
                expected[start.isoformat() if period else "", each.account] += each.prompt_tokens
        with database.begin() as connection:
            lines = usage.sums(connection, begin, end, period=period, by=("account",))
        assert {(each.period, *each.groups): each.prompt_tokens for each in lines} == expected
        assert all(line.image_tokens == 1601 * line.requests for line in lines)


def test_what_a_subject_has_used_since_an_hour(tenants: Tenants) -> None:
    records, database = some(300), tenants.tenancy.database
    ledger.insert(database, records)
    midnight = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
    for subject in ("a", "t"):
        found = [r for r in records if subject in (r.account, r.token) and r.at >= midnight]
        tokens = sum(r.prompt_tokens + r.completion_tokens for r in found)
        with database.begin() as connection:
            counted = hours.used(connection, subject, midnight)
        assert counted == (tokens, sum(r.picodollars for r in found))


def test_a_database_of_an_earlier_release_is_added_up(settings: Settings) -> None:
    """Rows from before the sums are in them after the update."""
    file = settings.state_dir / "tenancy.db"
    settings.state_dir.mkdir(parents=True)
    database = Database(settings.database_url.get_secret_value() or f"sqlite:///{file}")
    with database.begin() as connection:
        command.upgrade(migrations(connection), "0003")
        rows = [asdict(each) for each in some(50)]
        for row in rows:
            del row["image_tokens"]
        connection.execute(tables.usage.insert(), rows)
    database.migrate()
    with database.begin() as connection:
        total = select(func.sum(tables.hours.c.prompt_tokens), func.sum(tables.hours.c.requests))
        counted = tuple(map(int, connection.execute(total).one()))
        command.downgrade(migrations(connection), "0003")
        command.upgrade(migrations(connection), "heads")
    database.close()
    assert counted == (sum(row["prompt_tokens"] for row in rows), 50)
