"""The ledger in one SQLite file: WAL, `synchronous=FULL`, one writing process."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger import outbox
from tocsin.ledger.appending import Appender
from tocsin.ledger.base import (
    Attempt,
    Backlog,
    Bulks,
    Commit,
    Episode,
    EventCommit,
    Filter,
    Occurrence,
    Record,
    Settlement,
    Stored,
)
from tocsin.ledger.bulks import bound
from tocsin.ledger.bulks import change as change_bulks
from tocsin.ledger.encoding import firing_of, firing_values
from tocsin.ledger.opening import connect, ledger_error, lock_file, migrate, one
from tocsin.ledger.shapes import Shapes
from tocsin.ledger.writer import Writer
from tocsin.model import Notification

T = TypeVar("T")


class SqliteLedger:
    """See `tocsin.ledger.Ledger`. Made by `open_ledger`."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock: IO[str] | None,
        clock: Callable[[], float],
        observe: Callable[[float], None],
    ) -> None:
        self.fault: LedgerError | None = None
        self._path = path
        self._lock = lock
        self._clock = clock
        self._connection = connection
        self._writer = Writer(connection, observe)
        # A second connection in its own thread: reading waits for no fsync.
        self._readers = ThreadPoolExecutor(1, "ledger reader")
        self._reader: sqlite3.Connection | None = None
        self._shapes = Shapes()
        self._appender = Appender(connection)
        self._closed = False
        self._version: int = one(connection, "PRAGMA data_version")

    # Batches in.

    async def load(self, alert: str) -> Stored | None:
        def read(db: sqlite3.Connection) -> Stored | None:
            found = db.execute("SELECT definition, shape, frontier FROM alerts WHERE alert = ?", (alert,)).fetchone()
            if found is None:
                return None
            definition, shape, frontier = found
            rows = db.execute(
                "SELECT fingerprint, phase, started_at, marked_at, row, counts FROM firings WHERE alert = ?"
                " ORDER BY started_at, fingerprint",
                (alert,),
            )
            return Stored(
                definition=definition,
                columns=self._shapes.columns(db, shape),
                frontier=frontier,
                firings=[firing_of(*row) for row in rows],
            )

        return await self._read(read)

    async def commit(self, commit: Commit) -> list[Notification]:
        created_at = self._clock()
        # Encoding happens here and not in the writer's thread, where other commits wait for it.
        firings = [firing_values(commit.alert, firing) for firing in commit.saved]

        def write(db: sqlite3.Connection) -> list[Notification]:
            shape = Shapes.number(db, commit.columns)
            db.execute(
                "INSERT OR REPLACE INTO alerts (alert, definition, shape, frontier) VALUES (?, ?, ?, ?)",
                (commit.alert, commit.definition, shape, commit.frontier),
            )
            if commit.replace:
                db.execute("DELETE FROM firings WHERE alert = ?", (commit.alert,))
            db.executemany(
                "DELETE FROM firings WHERE alert = ? AND fingerprint = ?",
                ((commit.alert, gone) for gone in commit.gone),
            )
            db.executemany("INSERT OR REPLACE INTO firings VALUES (?, ?, ?, ?, ?, ?, ?)", firings)
            return self._appender.append(db, commit.transitions, created_at)

        return await self._kept(write)

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        now = self._clock()

        def write(db: sqlite3.Connection) -> tuple[list[Notification], list[Occurrence]]:
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                ((commit.source, partition, position) for partition, position in commit.position.items()),
            )
            first = [one for one in commit.occurrences if one.key is None or _first_seen(db, one)]
            return self._appender.append(db, (one.routed for one in first), now), first

        return await self._kept(write)

    async def position(self, source: str) -> dict[str, int]:
        statement = "SELECT partition, position FROM positions WHERE source = ?"
        return await self._read(lambda db: dict(db.execute(statement, (source,)).fetchall()))

    # The outbox.

    async def pending(self, channel: str, after: int, limit: int) -> list[Notification]:
        return await self._read(lambda db: outbox.pending(db, self._shapes, channel, after, limit))

    async def gather(self, first: Notification) -> list[Notification]:
        # On the writer's connection: what is being committed now is in the digest, what comes later is not.
        now = self._clock()
        return await self._kept(lambda db: outbox.gather(db, self._shapes, first, now))

    async def cut(self, first: Notification, at: int, *, refused: bool) -> Notification | None:
        return await self._kept(lambda db: outbox.cut(db, self._shapes, first, at, refused=refused))

    async def settle(self, settlements: Sequence[Settlement], bulks: Bulks | None = None) -> None:
        def write(db: sqlite3.Connection) -> None:
            outbox.settle(db, settlements)
            if bulks is not None:
                change_bulks(db, bulks)

        await self._kept(write)

    async def bind(self, bulks: Bulks) -> None:
        await self._kept(lambda db: change_bulks(db, bulks))

    async def bound(self, channel: str) -> list[list[Notification]]:
        return await self._read(lambda db: bound(db, self._shapes, channel))

    async def earlier(self, notification: Notification) -> tuple[str, ...]:
        return await self._read(lambda db: outbox.earlier(db, notification))

    async def backlog(self) -> dict[str, Backlog]:
        return await self._read(outbox.backlog)

    async def find(self, wanted: Filter) -> list[Record]:
        return await self._read(lambda db: outbox.find(db, self._shapes, wanted))

    async def attempts(self, id_: str) -> list[Attempt]:
        return await self._read(lambda db: outbox.attempts(db, id_))

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        return await self._read(lambda db: outbox.episodes(db, self._shapes, alert, limit))

    async def retry(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._write(lambda db: outbox.retry(db, ids, now))

    async def drop(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._write(lambda db: outbox.drop(db, ids, now))

    async def dead_letter_unrouted(self, channels: Sequence[str]) -> int:
        now = self._clock()
        return await self._write(lambda db: outbox.dead_letter_unrouted(db, channels, now))

    async def prune(self, before: float, limit: int) -> int:
        # Looked for by the reader: where nothing is old enough the whole table is passed, and no batch should wait.
        old = await self._read(lambda db: outbox.old(db, before, limit))
        now = self._clock()

        def write(db: sqlite3.Connection) -> None:
            outbox.forget(db, old)
            outbox.forget_past(db, now)

        await self._write(write)
        return len(old)

    async def changed_elsewhere(self) -> bool:
        def look(db: sqlite3.Connection) -> int:
            # Of the writing connection: it changes when another one has written.
            version: int = one(db, "PRAGMA data_version")
            return version

        # Compared out here: a job runs again when another spoils their transaction.
        version = await self._write(look)
        before, self._version = self._version, version
        return version != before

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown()
        if self._reader is not None:
            self._reader.close()
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    # Plumbing.

    def _must_be_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._path}: the ledger is closed", LedgerReason.FAILED)

    async def _kept(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Write what must not be lost, and remember whether that was possible."""
        try:
            result = await self._write(job)
        except LedgerError as error:
            self.fault = error
            raise
        self.fault = None
        return result

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._must_be_open()
        try:
            return await self._writer.run(job)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ledger_error(error, self._path) from None

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._must_be_open()

        def run() -> T:
            if self._reader is None:
                self._reader = connect(self._path)
                self._reader.execute("PRAGMA query_only = ON")
            return job(self._reader)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise ledger_error(error, self._path) from None


def _first_seen(db: sqlite3.Connection, occurrence: Occurrence) -> bool:
    """Whether an event is no repeat of another one, and remember it. Delivered again, an event is no repeat of
    itself."""
    event = occurrence.routed[0]
    return bool(
        db.execute(
            "INSERT INTO sightings VALUES (?, ?, ?, ?) ON CONFLICT (alert, key) DO UPDATE"
            " SET event = excluded.event, until = excluded.until WHERE until <= ? OR event = excluded.event",
            (event.alert, occurrence.key, event.fingerprint, occurrence.until, event.at),
        ).rowcount
    )


def open_ledger(
    path: Path,
    *,
    exclusive: bool = True,
    clock: Callable[[], float] = time.time,
    observe: Callable[[float], None] = lambda _: None,
) -> SqliteLedger:
    """Open or create the ledger in a file, and bring its tables up to date.

    `exclusive` is for the process that runs alerts: a second one is refused. Commands that look or mend go without.
    `observe` is told how many seconds each transaction took, in another thread.
    Raises LedgerError: locked, made by a newer version, not a ledger, unreadable.
    """
    lock = lock_file(path) if exclusive else None
    connection = None
    try:
        if not exclusive and not path.exists():
            raise LedgerError(f"{path}: there is no ledger yet; `tocsin run` makes it", LedgerReason.UNREADABLE)
        connection = connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, path, allowed=exclusive)
        return SqliteLedger(path, connection, lock, clock, observe)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if lock is not None:
            lock.close()
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            raise ledger_error(error, path) from None
        raise
