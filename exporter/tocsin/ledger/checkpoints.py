"""Moves what is committed from the WAL to the file, in a thread with a connection of its own.

Otherwise the commit with which the WAL becomes too long moves everything, and all others wait for that: milliseconds on
a fast disk, every second under load.
"""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from tocsin.ledger.opening import connect

_EVERY = 1.0
"""Seconds."""
_ENOUGH = 2000
"""Changed rows. Fewer are left for later: a page that changes again is then moved once."""


class Checkpoints:
    """Follows what a writing connection changes. It waits for no commit, and no commit waits for it. A commit moves
    only what was written meanwhile (`wal_autocheckpoint`)."""

    def __init__(self, path: Path, writing: sqlite3.Connection) -> None:
        self._path = path
        self._writing = writing
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        moved = 0
        while not self._ending.wait(_EVERY):
            changed = self._writing.total_changes
            if changed - moved >= _ENOUGH:
                moved = changed
                self._move()

    def _move(self) -> None:
        try:
            with closing(connect(self._path)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            pass  # a commit moves it, and reports what is wrong with the file
