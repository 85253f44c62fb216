"""The ledger in one SQLite file: WAL, `synchronous=FULL`, one writing process."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from tocsin.errors import LedgerError, LedgerReason, Reason
from tocsin.ledger import Backlog, Commit, Filter, Record, Settlement, Status, Stored
from tocsin.ledger.encoding import (
    NOTIFICATION,
    RECORD,
    firing_of,
    firing_values,
    notification_of,
    record_of,
    transition_values,
)
from tocsin.ledger.opening import connect, ledger_error, lock_file, migrate, one
from tocsin.ledger.writer import Writer
from tocsin.model import Column, Columns, Notification, notification_id

T = TypeVar("T")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
        self._shapes: dict[int, Columns] = {}
        self._closed = False
        self._version: int = one(connection, "PRAGMA data_version")
        self._next_transition = one(connection, "SELECT coalesce(max(id), 0) + 1 FROM transitions")
        self._next_seq = one(connection, "SELECT coalesce(max(seq), 0) + 1 FROM notifications")

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
                columns=self._columns(db, shape),
                frontier=frontier,
                firings=[firing_of(*row) for row in rows],
            )

        return await self._read(read)

    async def commit(self, commit: Commit) -> list[Notification]:
        created_at = self._clock()
        # Encoding happens here and not in the writer's thread, where other commits wait for it.
        firings = [firing_values(commit.alert, firing) for firing in commit.saved]

        def write(db: sqlite3.Connection) -> list[Notification]:
            shape = self._shape(db, commit.columns)
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
            return self._append(db, commit, created_at)

        return await self._kept(write)

    def _append(self, db: sqlite3.Connection, commit: Commit, created_at: float) -> list[Notification]:
        """Transitions and their notifications. Numbers are given here, not by SQLite, so that one call writes many
        rows."""
        transition_id, seq = self._next_transition, self._next_seq
        transitions: list[tuple[object, ...]] = []
        notifications: list[Notification] = []
        values: list[tuple[object, ...]] = []
        columns: Columns | None = None
        shape = 0
        for transition, channels in commit.transitions:
            if not channels:
                continue
            if transition.columns is not columns:
                columns = transition.columns
                shape = self._shape(db, columns)
            transitions.append(transition_values(transition_id, transition, shape))
            for channel in channels:
                name = notification_id(transition, channel)
                values.append((seq, name, transition_id, channel, created_at))
                notifications.append(
                    Notification(seq=seq, id=name, channel=channel, transition=transition, created_at=created_at)
                )
                seq += 1
            transition_id += 1
        # Numbers of a transaction that is rolled back are lost, never given twice.
        self._next_transition, self._next_seq = transition_id, seq
        db.executemany("INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", transitions)
        written = db.executemany(
            "INSERT INTO notifications (seq, id, transition, channel, created_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO NOTHING",
            values,
        ).rowcount
        if values and written < len(values):
            known = {row[0] for row in db.execute("SELECT seq FROM notifications WHERE seq >= ?", (values[0][0],))}
            notifications = [notification for notification in notifications if notification.seq in known]
            db.execute(
                "DELETE FROM transitions WHERE id >= ?"
                " AND NOT EXISTS (SELECT 1 FROM notifications WHERE transition = transitions.id)",
                (transitions[0][0],),
            )
        return notifications

    # The outbox.

    async def pending(self, channel: str, after: int, limit: int) -> list[Notification]:
        statement = NOTIFICATION + "WHERE n.channel = ? AND n.status = 'pending' AND n.seq > ? ORDER BY n.seq LIMIT ?"

        def read(db: sqlite3.Connection) -> list[Notification]:
            return [
                notification_of(row, lambda shape: self._columns(db, shape))
                for row in db.execute(statement, (channel, after, limit))
            ]

        return await self._read(read)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        values = [
            (
                settlement.status,
                settlement.attempts,
                settlement.not_before,
                None if settlement.status is Status.PENDING else settlement.at,
                settlement.reason,
                # A receiver's words: half of a surrogate pair would not go into the file, and stop the channel.
                settlement.detail.encode("utf-8", "replace").decode(),
                settlement.seq,
            )
            for settlement in settlements
        ]

        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "UPDATE notifications SET status = ?, attempts = ?, not_before = ?, settled_at = ?,"
                " reason = ?, detail = ? WHERE seq = ? AND status = 'pending'",
                values,
            )

        await self._kept(write)

    async def earlier(self, notification: Notification) -> tuple[str, ...]:
        transition = notification.transition
        arguments = (transition.fingerprint, transition.started_at, transition.alert, notification.channel)
        statement = (
            "SELECT n.id FROM transitions AS t JOIN notifications AS n ON n.transition = t.id"
            " WHERE t.fingerprint = ? AND t.started_at = ? AND t.alert = ? AND n.channel = ?"
            " AND n.status = 'delivered' AND n.seq < ? ORDER BY n.seq"
        )

        def read(db: sqlite3.Connection) -> tuple[str, ...]:
            return tuple(row[0] for row in db.execute(statement, (*arguments, notification.seq)))

        return await self._read(read)

    async def backlog(self) -> dict[str, Backlog]:
        def read(db: sqlite3.Connection) -> dict[str, Backlog]:
            # Two statements, so that each finds its rows in its own small index.
            pending = db.execute(
                "SELECT channel, count(*), min(created_at) FROM notifications WHERE status = 'pending' GROUP BY channel"
            ).fetchall()
            dead = dict(
                db.execute("SELECT channel, count(*) FROM notifications WHERE status = 'dead' GROUP BY channel")
            )
            found = {name: Backlog(dead=count) for name, count in dead.items()}
            for channel, count, oldest in pending:
                found[channel] = Backlog(pending=count, oldest=oldest, dead=dead.get(channel, 0))
            return found

        return await self._read(read)

    async def find(self, wanted: Filter) -> list[Record]:
        choices = {
            "n.status = ?": wanted.status,
            "n.channel = ?": wanted.channel,
            "t.alert = ?": wanted.alert,
            "n.id = ?": wanted.id,
            "n.seq < ?": wanted.before,
        }
        conditions = {text: value for text, value in choices.items() if value is not None}
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        statement = f"{RECORD} {where} ORDER BY n.seq DESC LIMIT ?"

        def read(db: sqlite3.Connection) -> list[Record]:
            rows = db.execute(statement, (*conditions.values(), wanted.limit))
            return [record_of(row, lambda shape: self._columns(db, shape)) for row in rows]

        return await self._read(read)

    async def retry(self, ids: Sequence[str]) -> int:
        return await self._restate(
            ids,
            "UPDATE notifications SET status = 'pending', attempts = 0, not_before = 0, created_at = ?,"
            " settled_at = NULL WHERE id = ? AND status IN ('dead', 'dropped')",
        )

    async def drop(self, ids: Sequence[str]) -> int:
        return await self._restate(
            ids,
            "UPDATE notifications SET status = 'dropped', settled_at = ?"
            " WHERE id = ? AND status IN ('dead', 'pending')",
        )

    async def _restate(self, ids: Sequence[str], statement: str) -> int:
        now = self._clock()

        def write(db: sqlite3.Connection) -> int:
            return sum(db.execute(statement, (now, name)).rowcount for name in ids)

        return await self._write(write)

    async def park_unrouted(self, channels: Sequence[str]) -> int:
        # The list travels as JSON, so that the statement is the same for any number of channels.
        known = _encode(list(channels))
        now = self._clock()

        def write(db: sqlite3.Connection) -> int:
            return db.execute(
                "UPDATE notifications SET status = 'dead', settled_at = ?, reason = ?, detail = ?"
                " WHERE status = 'pending' AND channel NOT IN (SELECT value FROM json_each(?))",
                (now, Reason.UNROUTED, "the channel is no longer in the configuration", known),
            ).rowcount

        return await self._write(write)

    async def prune(self, before: float, limit: int) -> int:
        # An episode that still fires keeps its notifications: what ends it may have to name them (a cancel).
        statement = (
            "SELECT n.seq, n.transition FROM notifications AS n JOIN transitions AS t ON t.id = n.transition"
            " WHERE n.status IN ('delivered', 'dropped') AND n.settled_at < ? AND NOT EXISTS ("
            "   SELECT 1 FROM firings AS f WHERE f.alert = t.alert AND f.fingerprint = t.fingerprint"
            "   AND f.started_at = t.started_at)"
            " ORDER BY n.seq LIMIT ?"
        )
        # Looked for by the reader: where nothing is old enough the whole table is passed, and no batch should wait.
        old = await self._read(lambda db: db.execute(statement, (before, limit)).fetchall())
        if not old:
            return 0

        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "DELETE FROM notifications WHERE seq = ? AND status IN ('delivered', 'dropped')",
                ((seq,) for seq, _ in old),
            )
            db.executemany(
                "DELETE FROM transitions WHERE id = ? AND NOT EXISTS"
                " (SELECT 1 FROM notifications WHERE transition = transitions.id)",
                ((transition,) for _, transition in old),
            )

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

    def _shape(self, db: sqlite3.Connection, columns: Columns) -> int:
        """The number of a list of columns, written once. Not remembered: a rollback would take it back."""
        text = _encode([[column.name, column.oid, column.typmod] for column in columns])
        found = db.execute("SELECT id FROM shapes WHERE columns = ?", (text,)).fetchone()
        if found is None:
            number = db.execute("INSERT INTO shapes (columns) VALUES (?)", (text,)).lastrowid
            assert number is not None
            return number
        return int(found[0])

    def _columns(self, db: sqlite3.Connection, shape: int) -> Columns:
        if shape not in self._shapes:
            text = one(db, "SELECT columns FROM shapes WHERE id = ?", shape)
            self._shapes[shape] = tuple(
                Column(name=name, oid=oid, typmod=typmod) for name, oid, typmod in json.loads(text)
            )
        return self._shapes[shape]


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
