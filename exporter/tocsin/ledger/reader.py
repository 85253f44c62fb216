"""A thread with a reading connection. It sees what is committed, and waits for no write."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tocsin.ledger.opening import connect

T = TypeVar("T")


class Reader:
    """Runs functions of a connection in its own thread, one after another."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, name)
        self._connection: sqlite3.Connection | None = None

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job`, all of whose statements see the same state, and return its result."""

        def read() -> T:
            if self._connection is None:
                self._connection = connect(self._path)
                self._connection.execute("PRAGMA query_only = ON")
            with self._connection as db:
                db.execute("BEGIN")
                return job(db)

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def close(self) -> None:
        """Finish what is queued, and end the thread."""
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
