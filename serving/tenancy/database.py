"""The database: SQLite in a file, or PostgreSQL 15 and later by URL; and its migrations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

# What an unreachable or failing server raises, as opposed to a mistake in a query.
Down = (DBAPIError, PoolTimeout, OSError)

_MIGRATIONS = Path(__file__).with_name("migrations")
_CONNECT_SECONDS = 2
_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
_STATEMENT_MS = 10_000
_LOCK = 0x6C76_7365  # any number of our own, for PostgreSQL's advisory lock


class Database:
    """Connections to one database. Safe to share between threads; every call blocks."""

    def __init__(self, url: str) -> None:
        """`url`: `sqlite:///file`, or `postgresql://user:password@host/name`.

        Raises:
            ValueError: of neither kind.
        """
        self._engine = _engine(url)
        self._away_since: float | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back by exceptions.

        Raises:
            Down: any of these, when the server is away or does not answer.
        """
        with self._watched(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction that no other of this kind runs beside, in whatever process."""
        with self._watched(), self._engine.begin() as connection:
            # SQLite's take the write lock anyway.
            if self._engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection

    def migrate(self) -> None:
        """Bring the tables up to date. Several processes may do so at once."""
        with self.alone() as connection:
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")  # steps that know nothing of each other, each last

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def wait(self) -> float:
        """Seconds after which to try again: as long again as the server has been away."""
        since = self._away_since
        away = 0.0 if since is None else time.monotonic() - since
        return min(max(away, _SHORTEST_WAIT), _LONGEST_WAIT)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Down:
            self._away_since = self._away_since or time.monotonic()
            raise
        self._away_since = None


def dialect_of(connection: Connection) -> Any:
    """The module whose `insert` knows `ON CONFLICT`, in the same words for both."""
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def insert_new(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet."""
    connection.execute(dialect_of(connection).insert(table).on_conflict_do_nothing(), rows)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("DATABASE_URL is no URL") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(url)
        case "postgresql":
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_size=4,
                max_overflow=4,
                pool_timeout=_CONNECT_SECONDS,
                pool_pre_ping=True,
                hide_parameters=True,
                connect_args={
                    "client_encoding": "utf8",
                    "connect_timeout": _CONNECT_SECONDS,
                    "options": f"-c statement_timeout={_STATEMENT_MS}",
                },
            )
    raise ValueError("DATABASE_URL is neither sqlite nor postgresql")


def _sqlite(url: str) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        hide_parameters=True,
        # One writer at a time: the others wait this many seconds.
        connect_args={"timeout": 10, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below, not the driver's
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # prompts that were queued are overwritten

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Taking the lock now and not at the first write: a reader that turns writer can fail.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
