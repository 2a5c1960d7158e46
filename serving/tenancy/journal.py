"""Receipts on local disk, before anything else can happen to them.

`write` puts a receipt into the request's slot (see `slots`), which outlives the process, and waits
for nothing. Within `SYNC` seconds a thread appends all that have come since to a file that belongs
to this process alone, frees their slots and calls `fdatasync`: that much a power cut can lose.

The folder holds for each process `<name>.journal`, lines of `record`, locked for as long as it
lives, and `<name>.slots`. A journal without a lock is that of a dead process: `ledger` ships both.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections import deque
from pathlib import Path
from uuid import uuid4

from serving.tenancy import record as records
from serving.tenancy.record import Record, Start
from serving.tenancy.slots import Slot, Slots

SYNC = 0.25
"""Seconds."""
_ROOM = 8 * 2**20  # bytes after which a journal that is shipped begins anew

_log = logging.getLogger("serving.tenancy")


class Journal:
    """The journal of this process."""

    def __init__(self, folder: Path) -> None:
        """Begin one in `folder`, which is made if need be."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = folder / f"{uuid4().hex}.journal"
        self._slots = Slots(self.file.with_suffix(".slots"))
        self._descriptor = _locked(self.file)
        self._lock = threading.Lock()  # between writing and beginning anew
        self._unwritten: deque[tuple[str, bytes]] = deque()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sync, name="journal", daemon=True)
        self._thread.start()

    def begin(self, start: Start) -> Slot | None:
        """A request goes to the engine: the slot hears what it uses. `None`: there is no room."""
        return self._slots.take(start)

    def write(self, record: Record) -> None:
        """Keep a record. Takes microseconds; called from one thread, the event loop's.

        A full disk loses nothing while the process lives, nor when it is killed: what could not be
        written waits in its slot.
        """
        line = records.line(record)
        kept = self._slots.end(record.receipt, line)
        self._unwritten.append((record.receipt, line))
        if not kept:
            self.flush()
        if not self._dirty.is_set():
            self._dirty.set()

    def close(self) -> None:
        """Sync, and let go of the file: whoever ships comes next."""
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        self.flush()  # what a full disk had no room for; if it still has none, slots keep it
        os.close(self._descriptor)

    def begin_anew(self, shipped: int) -> bool:
        """Empty the file if it is large and all its `shipped` bytes are in the database."""
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            if size < _ROOM or size != shipped:
                return False
            os.ftruncate(self._descriptor, 0)
            return True

    def flush(self) -> None:
        """Write what is not written yet, all of it or nothing. For any thread."""
        with self._lock:
            waiting = list(self._unwritten)
            data, written = b"".join(line for _, line in waiting), 0
            try:
                written = os.write(self._descriptor, data)
                if written != len(data):
                    raise OSError("short write")
            except OSError as error:
                if written:
                    size = os.fstat(self._descriptor).st_size
                    os.ftruncate(self._descriptor, size - written)
                _log.error("the journal cannot be written: %s", error)
                return
            for receipt, _ in waiting:
                self._unwritten.popleft()
                self._slots.free(receipt)

    def _sync(self) -> None:
        """The thread."""
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self.flush()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                _log.error("the journal cannot be synced: %s", error)
            if self._unwritten:  # the disk is full, or more has come
                self._dirty.set()
            self._closing.wait(SYNC)


def _locked(file: Path) -> int:
    """A new file, ours before it bears its name, so that nobody takes it for a dead process's."""
    draft = file.with_suffix(".new")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    draft.rename(file)
    return descriptor


def lines_of(file: Path, offset: int) -> tuple[list[Record], int]:
    """The records from a byte on, and where the last complete one ends.

    A line that is cut short or damaged by a power cut is left out; what follows it is not.
    """
    with file.open("rb") as opened:
        opened.seek(offset)
        data = opened.read()
    end = data.rfind(b"\n") + 1
    return list(records.read(data[:end])), offset + end
