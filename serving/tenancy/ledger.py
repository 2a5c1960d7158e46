"""Carries journals into the database: every record once, however often the attempt fails.

A thread ships what is new in this process's journal every other second, and the journals that dead
processes left. The receipt's id is the row's primary key and a row that is there already is left
alone, so it does no harm to ship a line again; nothing is removed from disk before the database
has committed it. While the database is away the journals grow.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from serving.tenancy import hours
from serving.tenancy.database import Database, Down
from serving.tenancy.journal import Journal, lines_of
from serving.tenancy.record import Record
from serving.tenancy.slots import left_in

PERIOD = 2.0
"""Seconds. A shipment costs the database's client 0.9 ms of CPU and 6 us more for every row."""
_BATCH = 500
_WAIT = 5.0  # seconds between attempts while the database is away

_log = logging.getLogger("serving.tenancy")


class Ledger:
    """Ships the journals of one folder, from a thread of its own."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self._shipped = 0
        self._level = time.monotonic()  # all usage from before then is in the database
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Bytes of the journal that are not in the database yet. For any thread."""
        return max(0, self._journal.file.stat().st_size - self._shipped)

    @property
    def lag(self) -> float:
        """Seconds for which usage may have been waiting; 0 while none does. For any thread."""
        return time.monotonic() - self._level if self.backlog else 0.0

    def close(self) -> None:
        """Close the journal and ship the rest; what cannot be shipped now the next one ships."""
        self._closing.set()
        self._thread.join()
        self._journal.close()
        try:
            ship_left(self._database, self._journal.file.parent)
        except Down as error:
            _log.warning("usage stays in the journal: %s", type(error).__name__)

    def _run(self) -> None:
        pause = 0.0
        while not self._closing.wait(pause):
            try:
                self._ship()
                ship_left(self._database, self._journal.file.parent)
                pause = PERIOD
            except Down as error:
                _log.warning("the database is away, usage waits: %s", type(error).__name__)
                pause = _WAIT
            except Exception:
                _log.exception("shipping usage failed")
                pause = _WAIT

    def _ship(self) -> None:
        began = time.monotonic()
        self._journal.flush()
        records, end = lines_of(self._journal.file, self._shipped)
        insert(self._database, records)
        self._shipped, self._level = end, began
        if self._journal.begin_anew(end):
            self._shipped = 0


def insert(database: Database, records: Sequence[Record]) -> None:
    """Put the records that are not there yet into the table.

    Raises:
        Down: some may be there, and may be sent again.
    """
    for begin in range(0, len(records), _BATCH):
        with database.begin() as connection:
            hours.add(connection, records[begin : begin + _BATCH])


def ship_left(database: Database, folder: Path) -> int:
    """Ship and remove the journals of dead processes; how many there were.

    Raises:
        Down: the database is away; what is not shipped stays.
    """
    return sum(_ship_dead(database, file) for file in sorted(folder.glob("*.journal")))


def _ship_dead(database: Database, file: Path) -> bool:
    """False: its process lives, or somebody else is or was at it."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            return False  # somebody shipped it between our opening and our lock
        slots = file.with_suffix(".slots")
        insert(database, lines_of(file, 0)[0])
        # After the lines: a request that has both a line and a slot had just ended.
        if slots.exists():
            insert(database, left_in(slots))
        slots.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
