"""The ledger in one SQLite file: WAL, `synchronous=FULL`, one writing process."""

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger import outbox, records, silences
from tocsin.ledger.append import Appended, Appender
from tocsin.ledger.base import (
    Attempt,
    Backlog,
    Claimed,
    Commit,
    Episode,
    EventCommit,
    Filter,
    Line,
    Occurrence,
    Record,
    Settlement,
    Stored,
)
from tocsin.ledger.checkpoints import Checkpoints
from tocsin.ledger.opening import connect, ledger_error, lock_file, migrate, one
from tocsin.ledger.queue import Queue
from tocsin.ledger.reader import Reader
from tocsin.ledger.rows import Shapes, firing_of, firing_values
from tocsin.ledger.sharing import Alone, Sharing
from tocsin.ledger.silencing import Judged
from tocsin.ledger.writer import Writer
from tocsin.model import Notification
from tocsin.silences import OpenSilences

T = TypeVar("T")


class SqliteLedger(silences.KeepsSilences):
    """See `tocsin.ledger.base.Ledger`. Made by `open_ledger`.

    Every method passes a function of a connection, the job, to one of five helpers, which run it in another thread:

    - `_read`: on a reading connection. Sees what is committed, and waits for no write.
    - `_search`: as `_read`, for what may read a whole table, on a connection of its own: no channel waits for it.
    - `_write`: on the writing connection, in the order of the calls. Jobs that are queued together share a transaction.
    - `_keep`: as `_write`, for batches and outcomes, which must not be lost. A failure is shown in `fault`.
    - `_change`: as `_write`, for what an operator changes in the outbox. Then the dispatchers' queues are read again.

    `_queues` has what this process has claimed and committed per channel, so that most claims need no read.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock: IO[str] | None,
        clock: Callable[[], float],
        observe: Callable[[float], None],
    ) -> None:
        self.fault: LedgerError | None = None
        self.sharing: Sharing = Alone()
        # Before the silences are read: one that is made in between is then seen as a change.
        self._version: int = one(connection, "PRAGMA data_version")
        self.silences = OpenSilences(silences.unclosed(connection))
        self._path = path
        self._lock = lock
        self._clock = clock
        self._connection = connection
        self._appender = Appender(connection)  # before any thread begins, as it may fail
        self._writer = Writer(connection, observe)
        self._checkpoints = Checkpoints(path, connection)
        self._reader = Reader(path, "ledger reader")
        self._searcher = Reader(path, "ledger search")
        self._shapes = Shapes()
        self._queues: defaultdict[str, Queue] = defaultdict(Queue)  # by channel
        self._since: dict[str, float] = {}  # by channel; what was written until then may have been sent before
        self._closed = False

    def now(self) -> float:
        return self._clock()

    # Batches.

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
        # Encoded here and not in the writer's thread, where other commits wait.
        firings = [firing_values(commit.alert, firing) for firing in commit.saved]

        def write(db: sqlite3.Connection) -> Appended:
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

        return self._committed(await self._keep(write))

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        now = self._clock()

        def write(db: sqlite3.Connection) -> tuple[Appended, list[Occurrence]]:
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                ((commit.source, partition, position) for partition, position in commit.position.items()),
            )
            new = [one for one in commit.occurrences if one.key is None or _is_first(db, one)]
            return self._appender.append(db, (one.routed for one in new), now), new

        appended, new = await self._keep(write)
        return self._committed(appended), new

    async def position(self, source: str) -> dict[str, int]:
        statement = "SELECT partition, position FROM positions WHERE source = ?"
        return await self._read(lambda db: dict(db.execute(statement, (source,)).fetchall()))

    # The outbox.

    async def recover(self, channel: str, since: float, ready_at: float) -> None:
        # In the writer's queue, so that what was queued before is on disk.
        await self._write(lambda db: outbox.recover(db, channel, since, ready_at))
        self._since[channel] = since
        self._queues[channel].claimed.clear()
        self._queues[channel].reset()

    async def inherit(self, channel: str, ready_at: float) -> None:
        """Nothing: only one process can open the file."""

    async def turn(self, channel: str, seconds: float) -> float:  # noqa: ARG002 - no one else sends
        return 0.0

    async def hold(self, channel: str, seconds: float, why: str) -> None:
        """Nothing: no one else sends."""

    async def claim(self, channel: str, limit: int) -> Claimed:
        queue, now = self._queues[channel], self._clock()
        in_memory = queue.claim(limit, now)
        if in_memory is not None:
            return in_memory
        while True:
            # The keys claimed when the read begins: what is settled meanwhile may still look pending to it.
            claimed, changes, resets = list(queue.claimed), queue.changes, queue.resets
            job = partial(outbox.claim, shapes=self._shapes, known=queue.ready, channel=channel, claimed=claimed)
            read = await self._read(partial(job, limit=limit, now=now))
            if queue.resets == resets:
                return queue.was_read(read, changes)

    async def release(self, notifications: Sequence[Notification]) -> None:
        for notification in notifications:
            queue = self._queues[notification.channel]
            queue.end(notification.seq, notification.ordering_key)
            queue.changed()

    async def bind(self, requests: Sequence[Sequence[int]]) -> None:
        await self._keep(lambda db: outbox.bind(db, requests))

    async def begin(self, id_: str) -> int:
        now = self._clock()
        return await self._keep(lambda db: outbox.begin(db, id_, now))

    async def end(self, id_: str) -> None:
        await self._keep(lambda db: outbox.end(db, id_))

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        more = await self._keep(lambda db: outbox.settle(db, settlements))
        for settlement in settlements:
            queue = self._queues[settlement.channel]
            queue.end(settlement.seq, settlement.ordering_key)
            if more:
                queue.changed()
        return more

    async def digest(self, head: Notification) -> list[Notification]:
        # On the writer's connection: what is being committed now is in the digest, what comes later is not.
        now = self._clock()
        return await self._keep(lambda db: outbox.digest(db, self._shapes, head, now))

    async def split_digest(self, head: Notification, at: int, *, refused: bool) -> None:
        await self._keep(lambda db: outbox.split_digest(db, head, at, refused=refused))

    async def withhold(self, channel: str, judged: Judged) -> Collection[int]:
        now, since = self._clock(), self._since.get(channel, 0.0)
        gone = await self._keep(lambda db: silences.withhold(db, channel, judged, now, since))
        self._queues[channel].withheld(gone)
        if judged.held:
            await self._read_silences()  # one of them may have been closed
        return gone

    async def previous_ids(self, notification: Notification) -> tuple[str, ...]:
        return await self._read(lambda db: outbox.previous_ids(db, notification))

    # For operators.

    async def backlog(self) -> dict[str, Backlog]:
        return await self._search(records.backlog)

    async def find(self, wanted: Filter) -> list[Record]:
        return await self._search(lambda db: records.find(db, self._shapes, wanted))

    async def attempts(self, id_: str) -> list[Attempt]:
        return await self._search(lambda db: records.attempts(db, id_))

    async def line(self, channel: str, ordering_key: str) -> Line:
        return await self._search(lambda db: records.line(db, self._shapes, channel, ordering_key))

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        return await self._search(lambda db: records.episodes(db, self._shapes, alert, limit))

    async def ended(self, since: int, limit: int) -> list[tuple[str, int, int]]:
        return await self._search(lambda db: records.ended(db, since, limit))

    async def retry(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._change(lambda db: records.retry(db, ids, now))

    async def drop(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._change(lambda db: records.drop(db, ids, now))

    # Maintenance.

    async def dead_letter_unrouted(self, channels: Sequence[str]) -> int:
        now = self._clock()
        return await self._change(lambda db: records.dead_letter_unrouted(db, channels, now))

    async def prune(self, before: float, limit: int) -> int:
        # If nothing is old enough the whole table is scanned, and no batch should wait.
        found = await self._search(lambda db: records.prunable(db, before, limit))
        now = self._clock()
        await self._write(lambda db: records.prune(db, found, before, now))
        return len(found)

    async def changed_elsewhere(self) -> bool:
        # Of the writing connection: it changes when another one has written.
        version: int = await self._write(lambda db: one(db, "PRAGMA data_version"))
        if version != self._version:
            await self._read_silences()
        # Compared here, not in the job: the writer groups jobs, and runs a job again if another one of its group fails.
        changed, self._version = version != self._version, version
        if changed:
            self._reset()
        return changed

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._checkpoints.close()
        self._reader.close()
        self._searcher.close()
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    # How jobs are run.

    def _committed(self, appended: Appended) -> list[Notification]:
        for notification in appended.notifications:
            if notification.seq not in appended.blocked:
                self._queues[notification.channel].committed(notification)
        return appended.notifications

    def _reset(self) -> None:
        for queue in self._queues.values():
            queue.reset()

    async def _change(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Write what an operator changes in the outbox."""
        result = await self._write(job)
        self._reset()
        return result

    async def _keep(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Write what must not be lost, and note in `fault` whether that was possible."""
        try:
            result = await self._write(job)
        except LedgerError as error:
            self.fault = error
            raise
        self.fault = None
        return result

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        try:
            return await self._writer.run(job)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ledger_error(error, self._path) from None

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(self._reader, job)

    async def _search(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(self._searcher, job)

    async def _run(self, reader: Reader, job: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        try:
            return await reader.run(job)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise ledger_error(error, self._path) from None

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._path}: the ledger is closed", LedgerReason.FAILED)


def _is_first(db: sqlite3.Connection, occurrence: Occurrence) -> bool:
    """Whether an event is no duplicate of another one, and remember it. An event that is delivered again is no
    duplicate of itself."""
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
    runs_alerts: bool = True,
    durable: bool = True,
    clock: Callable[[], float] = time.time,
    observe: Callable[[float], None] = lambda _: None,
) -> SqliteLedger:
    """Open or create the ledger in a file, and bring its tables up to date.

    `runs_alerts`: for the process that runs alerts; a second one is refused. Commands open it without.
    `durable`: False for a file that is thrown away: commits do not wait for the disk.
    `observe`: called in another thread with the seconds that each transaction took.
    Raises LedgerError: locked, made by a newer version, not a ledger, unreadable.
    """
    lock = lock_file(path) if runs_alerts else None
    connection = None
    try:
        if not runs_alerts and not path.exists():
            raise LedgerError(f"{path}: there is no ledger yet; `tocsin run` makes it", LedgerReason.UNREADABLE)
        connection = connect(path)
        if not durable:
            connection.execute("PRAGMA synchronous = OFF")
        migrate(connection, path, allowed=runs_alerts)
        connection.execute("PRAGMA journal_mode = WAL")  # a file that is refused stays as it is
        return SqliteLedger(path, connection, lock, clock, observe)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if lock is not None:
            lock.close()
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            raise ledger_error(error, path) from None
        raise
