"""A ledger in a SQLite file as tables. See `tocsin.ledger.tables.Store`."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

from tocsin.ledger.opening import connect, copied_from, ledger_error, lock_file, migrate, one
from tocsin.ledger.tables import Row, Table

T = TypeVar("T")


class SqliteTables:
    """Used by one task."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[str]) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock

    async def copying(self) -> str | None:
        return await self._run(copied_from)

    async def mark(self, source: str | None) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute("DROP TABLE IF EXISTS copying")
            if source is not None:
                db.execute("CREATE TABLE copying AS SELECT ? AS source", (source,))

        await self._run(write)

    async def rows(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        names = _names(table)
        key = ", ".join(names[: table.key])
        past = f"WHERE ({key}) > ({', '.join('?' * table.key)})" if after is not None else ""
        statement = f"SELECT {', '.join(names)} FROM {table.name} {past} ORDER BY {key} LIMIT ?"  # noqa: S608 - fixed names
        return await self._run(lambda db: [*db.execute(statement, (*(after or ()), limit))])

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        names = _names(table)
        statement = f"INSERT OR IGNORE INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - fixed names
        await self._run(lambda db: db.executemany(statement, rows))

    async def count(self, table: Table) -> int:
        return int(await self._run(lambda db: one(db, f"SELECT count(*) FROM {table.name}")))  # noqa: S608 - fixed names

    async def close(self) -> None:
        await asyncio.to_thread(self._connection.close)
        self._lock.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                return work(self._connection)

        try:
            return await asyncio.to_thread(run)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ledger_error(error, self._path) from None


def _names(table: Table) -> list[str]:
    """The columns as the file has them: its failed attempts are numbered by the store itself."""
    return ["rowid" if name == "number" else f'"{name}"' for name in table.columns]


def open_tables(path: Path) -> SqliteTables:
    """Open or create the file, which no process may use meanwhile. Raises LedgerError."""
    lock = lock_file(path)
    try:
        connection = connect(path)
        migrate(connection, path, allowed=True, copying=True)
    except BaseException as error:
        lock.close()
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            raise ledger_error(error, path) from None
        raise
    return SqliteTables(path, connection, lock)
