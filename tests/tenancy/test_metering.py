"""Every token is counted once, whatever ends the request, the process or the database."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import func, select

from serving.cluster.tenants import Tenants
from serving.core import Outcome, Receipt, Usage
from serving.engine.fake import IMAGE_TOKENS
from serving.settings import Settings
from serving.tenancy import accounts, ledger, record, tables, usage
from serving.tenancy.database import Database
from serving.tenancy.journal import Journal, lines_of
from serving.tenancy.prices import Price
from serving.tenancy.slots import COUNT, left_in
from tests.servers import Server, free_port
from tests.tenancy.conftest import ACCOUNT, MODEL, TOKEN, Service, bearer, path, serving

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
WORDS = 60
"""Tokens in each prompt, and so in each answer."""


def stored(service: Service) -> dict[str, Any]:
    """The rows of the database by receipt, after shipping what the journal holds."""
    service.tenants._ledger._ship()
    with service.tenants.tenancy.database.begin() as connection:
        return {row.receipt: row for row in connection.execute(tables.usage.select())}


async def ended(service: Service, count: int) -> None:
    while len(service.engine.finished) + len(service.engine.aborted) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_a_receipt_becomes_a_row(service: Service) -> None:
    response = await service.run(prompt="one two three", stream=True)
    row = stored(service)[response.headers["cf-ai-req-id"]]
    assert (row.account, row.model, row.outcome, row.finish) == (ACCOUNT, MODEL, "ok", "stop")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (3, 3, 0)
    assert (row.input_price, row.output_price, row.picodollars) == (240_000, 240_000, 1_440_000)
    assert row.microneurons == 3 * 4410 + 3 * 61493
    assert row.token
    assert 0 < row.ttft_us <= row.duration_us


@pytest.mark.parametrize("stream", [True, False])
async def test_what_a_client_that_left_had_used_is_counted(service: Service, stream: bool) -> None:
    """Of plain answers too, of which it has seen nothing."""
    service.engine.faults.hang_after = 7
    body = {"prompt": "a " * 20, "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        async with service.client() as client:
            await client.post(path(), json=body, timeout=0.5)
    await ended(service, 1)
    (row,) = stored(service).values()
    assert (row.outcome, row.prompt_tokens, row.completion_tokens) == ("cancelled", 20, 7)


async def test_pictures_are_counted_with_what_the_vision_tower_makes_of_them(
    service: Service,
) -> None:
    """Also of those who left, and of a process that died."""
    await service.run(image="iVBORw0KGgo=")
    service.engine.faults.hang_after = 0
    body = {"prompt": "a b", "image": "iVBORw0KGgo=", "stream": True}
    with pytest.raises(httpx.ReadTimeout):
        async with service.client() as client:
            await client.post(path(), json=body, timeout=0.5)
    await ended(service, 2)
    rows = stored(service).values()
    assert {row.outcome: (row.images, row.image_tokens) for row in rows} == {
        "ok": (1, IMAGE_TOKENS),
        "cancelled": (1, IMAGE_TOKENS),
    }


async def test_refused_and_failed_requests_leave_rows_too(service: Service) -> None:
    await service.run(temperature=99)
    service.engine.faults.fail_after = 1
    await service.run(stream=True)
    rows = sorted(stored(service).values(), key=lambda row: row.at)
    assert [(row.outcome, row.code) for row in rows] == [("rejected", 5006), ("failed", 3043)]
    assert [row.completion_tokens for row in rows] == [0, 1]


async def test_nothing_that_was_said_is_kept(service: Service) -> None:
    """Neither in the journal nor in the database."""
    await service.run(prompt="canary-in-a-prompt", image="Y2FuYXJ5LWltYWdl", stream=True)
    await service.run(prompt="canary-in-a-prompt", temperature=99)
    folder = service.tenants._ledger._journal.file.parent
    kept = b"".join(file.read_bytes() for file in folder.iterdir())
    kept += str(stored(service)).encode()
    assert b"canary" not in kept
    assert b"Y2Fu" not in kept
    assert TOKEN.encode() not in kept


def receipt(id_: str) -> Receipt:
    return Receipt(
        id_, ACCOUNT, "ai/run", MODEL, Outcome.OK, 200, None, Usage(1, 1), 1.0, 0.1, token="t"
    )


def test_shipping_twice_counts_once(settings: Settings, tmp_path: Path) -> None:
    database = _database(settings)
    records = [record.of(receipt(f"r{index}"), {}) for index in range(1200)]
    ledger.insert(database, records[:700])
    ledger.insert(database, records)
    with database.begin() as connection:
        assert connection.execute(select(func.count()).select_from(tables.usage)).scalar() == 1200
    database.close()


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for index in range(3):
        journal.write(record.of(receipt(f"r{index}"), {}))
    journal.close()
    data = bytearray(journal.file.read_bytes())
    data[len(data) // 2] ^= 1
    journal.file.write_bytes(data + b'0123abcd {"receipt":"cut')
    found, end = lines_of(journal.file, 0)
    assert [each.receipt for each in found] == ["r0", "r2"]
    assert end == len(data)


def begun(journal: Journal, id_: str) -> None:
    """A request that has used something so far."""
    slot = journal.begin(record.Start(id_, 0, ACCOUNT, "t", "ai/run", MODEL, 0, Price()))
    assert slot is not None
    slot(Usage(5, 6, 1, 1601))


def left(journal: Journal) -> list[tuple[str, str, Usage]]:
    """What its slots say."""
    return [
        (
            each.receipt,
            each.outcome,
            Usage(
                each.prompt_tokens, each.completion_tokens, each.cached_tokens, each.image_tokens
            ),
        )
        for each in left_in(journal.file.with_suffix(".slots"))
    ]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Until it is written, the slot keeps it safe from a crash."""
    journal = Journal(tmp_path)
    begun(journal, "r0")
    assert left(journal) == [("r0", record.CRASHED, Usage(5, 6, 1, 1601))]

    def full(*_: Any) -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("serving.tenancy.journal.os.write", full)
        journal.write(record.of(receipt("r0"), {}))
        journal.flush()
        assert left(journal) == [("r0", "ok", Usage(1, 1))]
    deadline = time.monotonic() + 10
    while left(journal):  # the thread tries again by itself
        assert time.monotonic() < deadline
        time.sleep(0.01)
    journal.write(record.of(receipt("r1"), {}))
    journal.flush()
    assert [each.receipt for each in lines_of(journal.file, 0)[0]] == ["r0", "r1"]
    assert left(journal) == []
    journal.close()


def test_a_process_killed_before_it_writes_its_lines_loses_and_doubles_none(
    settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    """Nor one that is killed between a line, its slot and the slot before that."""
    database, folder = _database(settings), tmp_path / "journal"
    monkeypatch.setattr(Journal, "_sync", lambda self: None)  # no thread: nothing is written
    journal = Journal(folder)
    for index in range(5):
        begun(journal, f"r{index}")
    with monkeypatch.context() as patched:
        patched.setattr(journal._slots, "_empty", lambda offset: None)  # killed before that
        for index in range(4):
            journal.write(record.of(receipt(f"r{index}"), {}))
        assert {each[:2] for each in left(journal)} == {
            *((f"r{index}", "ok") for index in range(4)),
            ("r4", record.CRASHED),
        }
        journal.flush()
        assert len(lines_of(journal.file, 0)[0]) == 4
    journal.write(record.of(receipt("r5"), {}))  # in its slot alone
    os.close(journal._descriptor)  # as the kernel does: the lock is gone
    assert ledger.ship_left(database, folder) == 1
    with database.begin() as connection:
        rows = {row.receipt: row.outcome for row in connection.execute(tables.usage.select())}
        (hourly,) = usage.sums(connection, datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC))
    assert rows == {**{f"r{n}": "ok" for n in (0, 1, 2, 3, 5)}, "r4": record.CRASHED}
    assert hourly.requests == 6
    assert list(folder.iterdir()) == []
    database.close()


def test_slots_of_an_earlier_release_are_read(tmp_path: Path) -> None:
    """They were of 512 bytes, and held requests that run only."""
    start = record.Start("r0", 0, ACCOUNT, "t", "ai/run", MODEL, 2, Price())
    head = msgspec.json.encode(start)
    slot = struct.pack("<IIIII", len(head), 5, 1, 1601, 6) + head
    file = tmp_path / "a.slots"
    file.write_bytes((bytes(512) + slot.ljust(512, b"\0")).ljust(512 * COUNT, b"\0"))
    assert left_in(file) == [start.crashed(Usage(5, 6, 1, 1601))]


async def test_a_locked_database_holds_up_no_request(sqlite: Settings) -> None:
    """Whoever holds the lock: answers go on, usage waits, and nothing is lost."""
    tenants = Tenants(sqlite)
    async with serving(tenants) as service:
        assert (await service.run()).status_code == 200
        with sqlite3.connect(sqlite.state_dir / "tenancy.db", isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(20):
                async with asyncio.timeout(3.0):
                    assert (await service.run()).status_code == 200
                await asyncio.sleep(0.25)  # for longer than an answer from memory holds good
            other.execute("ROLLBACK")
        async with asyncio.timeout(15):
            while len(await asyncio.to_thread(stored, service)) < 21:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    tenants.close()


async def test_a_token_revoked_under_way_is_charged_to_the_end(service: Service) -> None:
    """Who was let in finishes; what it used is on the account's bill."""
    token, value = service.token(ACCOUNT)
    service.engine.faults.token_delay = 0.05
    asked = asyncio.create_task(service.run(value, prompt="a " * 10, stream=True))
    while not service.engine.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with service.tenants.tenancy.database.begin() as connection:
        accounts.revoke(connection, "test", ACCOUNT, token.id)
    assert (await asked).status_code == 200
    (row,) = stored(service).values()
    assert (row.token, row.completion_tokens, row.outcome) == (token.id, 10, "ok")


def test_two_who_ship_the_same_journals_count_once(settings: Settings, tmp_path: Path) -> None:
    """And leave that of a process that lives alone."""
    database, folder = _database(settings), tmp_path / "journal"
    living = Journal(folder)
    living.write(record.of(receipt("alive"), {}))
    living.flush()
    for index in range(6):
        dead = Journal(folder)
        start = record.Start(f"cut {index}", 0, ACCOUNT, "t", "ai/run", MODEL, 0, Price())
        slot = dead.begin(start)
        assert slot is not None
        slot(Usage(3, 4))
        for line in range(40):
            dead.write(record.of(receipt(f"{index} {line}"), {}))
        dead.close()
    with ThreadPoolExecutor(4) as shippers:
        counts = list(shippers.map(lambda _: ledger.ship_left(database, folder), range(4)))
    assert sum(counts) == 6
    with database.begin() as connection:
        (hourly,) = usage.sums(connection, datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC))
        rows = connection.execute(select(func.count()).select_from(tables.usage)).scalar()
    assert hourly.requests == rows == 6 * 41
    assert [each.receipt for each in lines_of(living.file, 0)[0]] == ["alive"]
    living.close()
    database.close()


def test_a_disk_that_is_full_at_the_start_is_told_and_not_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than killing the process when a request's counters are written."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serving.tenancy.slots.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path)
    monkeypatch.undo()
    journal = Journal(tmp_path)
    file = journal.file.with_suffix(".slots")
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    journal.close()


def _database(settings: Settings) -> Database:
    from serving.cluster.tenants import Tenancy

    return Tenancy.open(settings).database


@dataclass
class Counted:
    """What the clients saw: tokens by request id, of answers that were complete and others."""

    complete: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    plain: int = 0


async def _client(port: int, counted: Counted, generator: random.Random, stop: list[bool]) -> None:
    limits = httpx.Timeout(10, connect=1)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=bearer(TOKEN), timeout=limits
    ) as client:
        while not stop:
            leave = generator.randrange(1, WORDS) if generator.random() < 0.3 else None
            try:
                if generator.random() < 0.1:
                    response = await client.post(path(), json={"prompt": "a " * WORDS})
                    counted.plain += response.json()["result"]["usage"]["completion_tokens"]
                else:
                    await _stream(client, counted, leave)
            except httpx.HTTPError:
                await asyncio.sleep(0.05)


async def _stream(client: httpx.AsyncClient, counted: Counted, leave: int | None) -> None:
    seen, id_, end = 0, "", False
    body = {"prompt": "a " * WORDS, "stream": True}
    try:
        async with client.stream("POST", path(), json=body) as response:
            id_ = response.headers.get("cf-ai-req-id", "")
            assert response.status_code == 200
            async for line in response.aiter_lines():
                seen += line.startswith('data: {"response":"') and '"response":""' not in line
                end = end or line == "data: [DONE]"
                if seen == leave:
                    counted.left[id_] = seen
                    return
    finally:
        if end:
            counted.complete[id_] = seen
        elif id_ and id_ not in counted.left:
            counted.broken[id_] = seen


def _start(port: int, settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    url = settings.database_url.get_secret_value()
    command = [sys.executable, "-m", "tests.tenancy.victim", str(port), str(settings.state_dir)]
    process = subprocess.Popen([*command, url, str(log)])
    deadline = time.monotonic() + 90  # of a busy machine
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/-/healthz")
            return process
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise
            time.sleep(0.1)


async def _rounds(
    settings: Settings, postgres: Server, log: Path, kills: int, seconds: float
) -> Counted:
    """Load all the time; the process is killed again and again, the database once."""
    counted, stop, port = Counted(), [], free_port()
    generator = random.Random(7)
    clients = [
        asyncio.create_task(_client(port, counted, random.Random(seed), stop)) for seed in range(24)
    ]
    for index in range(kills + 1):
        process = await asyncio.to_thread(_start, port, settings, log)
        await asyncio.sleep(seconds * generator.uniform(0.5, 1.5))
        if index == 0:
            postgres.stop()
            await asyncio.sleep(seconds)
            process.kill()  # with usage that the database has not seen
            process.wait()
            postgres.start()
        elif index < kills:
            process.kill()
            process.wait()
    stop.append(True)
    await asyncio.gather(*clients)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait, 30)
    return counted


@pytest.mark.parametrize(
    ("kills", "seconds", "least"),
    [(2, 1.0, 3_000), pytest.param(12, 6.0, 100_000, marks=pytest.mark.slow)],
)
async def test_killing_the_process_and_the_database_loses_no_token(
    on_postgres: Settings, postgres: Server, tmp_path: Path, kills: int, seconds: float, least: int
) -> None:
    """The rows against what the clients saw and what the engine wrote down, request by request."""
    log = tmp_path / "generated"
    counted = await _rounds(on_postgres, postgres, log, kills, seconds)
    database = _database(on_postgres)
    ledger.ship_left(database, on_postgres.state_dir / "journal")  # as the next start does
    with database.begin() as connection:
        rows = {row.receipt: row for row in connection.execute(tables.usage.select())}
        (hourly,) = usage.sums(connection, LONG_AGO, datetime.now(UTC))
    database.close()
    # The sums by the hour, from which invoices are made, are those of the rows.
    assert hourly.requests == len(rows)
    assert hourly.completion_tokens == sum(row.completion_tokens for row in rows.values())
    generated: dict[str, int] = {}
    for line in log.read_text().splitlines():
        id_, prompt, completion = line.split()
        generated[id_] = int(completion)
        assert int(prompt) == WORDS
    # Whatever the engine began has a row, and nothing else has.
    assert rows.keys() == generated.keys()
    # Complete answers: what the clients counted is what is charged, to the token.
    charged = {id_: rows[id_].completion_tokens for id_ in counted.complete}
    assert charged == counted.complete
    assert all(rows[id_].prompt_tokens == WORDS for id_ in counted.complete)
    # Whoever left, on their own accord, is charged what the engine made until it stopped.
    survivors = {id_ for id_, row in rows.items() if row.outcome != record.CRASHED}
    assert {i: rows[i].completion_tokens for i in survivors} == {i: generated[i] for i in survivors}
    assert all(rows[id_].completion_tokens >= seen for id_, seen in counted.left.items())
    # Killed under way: at least what was received, at most what was made. A kill between the
    # engine's line and ours leaves one token in between.
    crashed = rows.keys() - survivors
    assert all(rows[id_].completion_tokens >= seen for id_, seen in counted.broken.items())
    plain = {i for i in crashed if i not in counted.broken and i not in counted.left}
    for id_ in crashed - plain:
        assert 0 <= generated[id_] - rows[id_].completion_tokens <= 1
    outcomes = Counter(row.outcome for row in rows.values())
    assert outcomes["crashed"]
    assert outcomes["cancelled"]
    assert sum(counted.complete.values()) + sum(counted.left.values()) >= least
    print(  # noqa: T201 - shown with -s
        f"\n{outcomes}, {sum(charged.values())} tokens in complete answers, difference 0; "
        f"{sum(rows[i].completion_tokens for i in survivors)} in all that ended, difference 0"
    )
    assert list((on_postgres.state_dir / "journal").iterdir()) == []
