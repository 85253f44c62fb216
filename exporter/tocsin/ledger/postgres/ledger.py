"""The ledger in PostgreSQL: the same promises as the SQLite file, on a server that others can reach."""

import asyncio
import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg import sql

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import (
    Attempt,
    Backlog,
    Claimed,
    Commit,
    Episode,
    EventCommit,
    Filter,
    Occurrence,
    Record,
    Settlement,
    Stored,
)
from tocsin.ledger.postgres import outbox, records
from tocsin.ledger.postgres.append import Appended, append, shape_number
from tocsin.ledger.postgres.connection import Fenced, LedgerServer, Link, ledger_error
from tocsin.ledger.postgres.leases import Lease, give_up, renew, take
from tocsin.ledger.postgres.schema import migrate
from tocsin.ledger.postgres.values import rows_text, storable
from tocsin.ledger.postgres.writer import Job, Writer
from tocsin.ledger.queue import Queue
from tocsin.ledger.rows import columns_of, firing_of, firing_values
from tocsin.model import Notification
from tocsin.postgres import PgConnection, granted, script, within

T = TypeVar("T")

_CLAIMED_AT_ONCE = 200
"""Notifications of a channel that are claimed with their commit, so that they are sent without another transaction."""
_LEASE = "ledger"


class PostgresLedger:
    """See `tocsin.ledger.base.Ledger`. Made by `open_ledger`.

    As in `SqliteLedger`, `_read` runs a job on one connection and `_write`, `_keep` and `_change` on another, in the
    order of the calls. `_queues` has what this process has claimed per channel, so that most claims need no read.
    """

    def __init__(
        self,
        server: LedgerServer,
        links: tuple[Link, Link],
        lease: Lease | None,
        changes: int,
        clock: Callable[[], float],
        observe: Callable[[float], None],
    ) -> None:
        """`links`: to write and to read. `lease`: None in a command, which neither commits nor claims. `changes`: the
        number of changes by operators."""
        self.fault: LedgerError | None = None
        self._server = server
        self._reading = links[1]
        self._begin_reading = sql.SQL("; ").join([server.begin(), sql.SQL("SET TRANSACTION READ ONLY")])
        self._lease = lease
        self._clock = clock
        self._writer = Writer(links[0], server.begin(), self._fence, server.timeout, observe)
        self._reader = asyncio.Lock()
        self._queues: defaultdict[str, Queue] = defaultdict(Queue)  # by channel
        self._closed = False
        self._changes = changes
        self._renewing = asyncio.create_task(self._renew())

    # Batches.

    async def load(self, alert: str) -> Stored | None:
        async def read(db: PgConnection) -> Stored | None:
            cursor = await db.execute(
                "SELECT definition, columns, frontier FROM alerts JOIN shapes ON id = shape WHERE alert = %s",
                (storable(alert),),
            )
            if (found := await cursor.fetchone()) is None:
                return None
            rows = await db.execute(
                'SELECT fingerprint, phase, started_at, marked_at, "row", counts FROM firings WHERE alert = %s',
                (storable(alert),),
            )
            definition, columns, frontier = found
            return Stored(
                definition=definition,
                columns=columns_of(columns),
                frontier=frontier,
                firings=[firing_of(*row) for row in await rows.fetchall()],
            )

        return await self._read(read)

    async def commit(self, commit: Commit) -> list[Notification]:
        now, alert = self._clock(), storable(commit.alert)
        firings = rows_text(_FIRING, [firing_values(alert, firing) for firing in commit.saved])

        async def write(db: PgConnection) -> Appended:
            shape = await shape_number(db, commit.columns)
            await db.execute(_ALERT, (alert, storable(commit.definition), shape, commit.frontier))
            if commit.replace:
                await db.execute("DELETE FROM firings WHERE alert = %s", (alert,))
            elif commit.gone:
                await db.execute(
                    "DELETE FROM firings WHERE alert = %s AND fingerprint = ANY(%s)", (alert, [*commit.gone])
                )
            if commit.saved:
                await db.execute(_SAVE, (firings,))
            return await append(db, commit.transitions, now, self._epoch, self._room)

        return self._committed(await self._keep(write))

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        now = self._clock()

        async def write(db: PgConnection) -> tuple[Appended, list[Occurrence]]:
            for partition, position in sorted(commit.position.items()):
                await db.execute(_POSITION, (storable(commit.source), storable(partition), position))
            new = [one for one in commit.occurrences if one.key is None or await _is_first(db, one)]
            return await append(db, (one.routed for one in new), now, self._epoch, self._room), new

        appended, new = await self._keep(write)
        return self._committed(appended), new

    async def position(self, source: str) -> dict[str, int]:
        async def read(db: PgConnection) -> dict[str, int]:
            cursor = await db.execute(
                "SELECT partition, position FROM positions WHERE source = %s", (storable(source),)
            )
            return dict(await cursor.fetchall())

        return await self._read(read)

    # The outbox.

    async def recover(self, channel: str, since: float, ready_at: float) -> None:
        await self._write(lambda db: outbox.recover(db, channel, since, ready_at))
        self._queues[channel].claimed.clear()
        self._queues[channel].reset()

    async def claim(self, channel: str, limit: int) -> Claimed:
        queue, now = self._queues[channel], self._clock()
        in_memory = queue.claim(limit, now)
        if in_memory is not None:
            return in_memory
        changes = queue.changes
        read = await self._write(
            lambda db: outbox.claim(db, queue.ready, channel, queue.claimed.values(), limit, now, self._epoch)
        )
        return queue.was_read(read, changes)

    async def release(self, notifications: Sequence[Notification]) -> None:
        seqs = [one.seq for one in notifications]
        await self._write(lambda db: outbox.release(db, seqs, self._epoch))
        for notification in notifications:
            queue = self._queues[notification.channel]
            queue.end(notification.seq, notification.ordering_key)
            queue.changed()

    async def bind(self, requests: Sequence[Sequence[int]]) -> None:
        await self._keep(lambda db: outbox.bind(db, requests))

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        more = await self._keep(lambda db: outbox.settle(db, settlements), locks=True)
        for settlement in settlements:
            queue = self._queues[settlement.channel]
            queue.end(settlement.seq, settlement.ordering_key)
            if more:
                queue.changed()
        return more

    async def digest(self, head: Notification) -> list[Notification]:
        now = self._clock()
        return await self._keep(lambda db: outbox.digest(db, head, now))

    async def split_digest(self, head: Notification, at: int, *, refused: bool) -> None:
        await self._keep(lambda db: outbox.split_digest(db, head, at, refused=refused), locks=True)

    async def previous_ids(self, notification: Notification) -> tuple[str, ...]:
        return await self._read(lambda db: outbox.previous_ids(db, notification))

    # For operators.

    async def backlog(self) -> dict[str, Backlog]:
        return await self._read(records.backlog)

    async def find(self, wanted: Filter) -> list[Record]:
        return await self._read(lambda db: records.find(db, wanted))

    async def attempts(self, id_: str) -> list[Attempt]:
        return await self._read(lambda db: records.attempts(db, id_))

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        return await self._read(lambda db: records.episodes(db, alert, limit))

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
        now = self._clock()
        return await self._write(lambda db: records.prune(db, before, limit, now))

    async def changed_elsewhere(self) -> bool:
        changes = await self._read(_changes)
        changed, self._changes = changes != self._changes, changes
        if changed:
            self._reset()
        return changed

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        if (lease := self._lease) is not None:
            self._lease = None
            # The claims end with it, so that another process goes on at once.
            ending = self._writer.run(lambda db: _end(db, lease))
            await asyncio.gather(ending, return_exceptions=True)
        await self._writer.close()
        async with self._reader:
            await self._reading.close()

    # How jobs are run.

    @property
    def _epoch(self) -> int:
        return 0 if self._lease is None else self._lease.epoch

    def _room(self, channel: str) -> int:
        queue = self._queues[channel]
        return _CLAIMED_AT_ONCE - len(queue.ready) - len(queue.claimed)

    def _committed(self, appended: Appended) -> list[Notification]:
        for notification in appended.notifications:
            queue = self._queues[notification.channel]
            if notification.seq in appended.owned:
                queue.committed(notification)
            else:
                queue.changed()
        return appended.notifications

    def _reset(self) -> None:
        for queue in self._queues.values():
            queue.reset()

    async def _fence(self, db: PgConnection) -> None:
        if self._lease is not None:
            await renew(db, self._lease)

    async def _renew(self) -> None:
        """Keep the lease while nothing is written."""
        while self._lease is not None:
            await asyncio.sleep(self._lease.seconds / 5)
            with contextlib.suppress(LedgerError):
                await self._write(_nothing)

    async def _change(self, job: Job[T]) -> T:
        """Write what an operator changes in the outbox."""

        async def change(db: PgConnection) -> tuple[T, int]:
            cursor = await db.execute("UPDATE ledger SET changes = changes + 1 RETURNING changes")
            row = await cursor.fetchone()
            assert row is not None
            return await job(db), row[0]

        result, changes = await self._write(change, locks=True)
        if changes == self._changes + 1:  # otherwise another process has made changes, too
            self._changes = changes
        self._reset()
        return result

    async def _keep(self, job: Job[T], *, locks: bool = False) -> T:
        """Write what must not be lost, and note in `fault` whether that was possible."""
        try:
            result = await self._write(job, locks=locks)
        except LedgerError as error:
            self.fault = error
            raise
        self.fault = None
        return result

    async def _write(self, job: Job[T], *, locks: bool = False) -> T:
        self._check_open()
        try:
            return await self._writer.run(job, locks=locks)
        except (psycopg.Error, OSError, Fenced) as error:  # TimeoutError is an OSError
            raise ledger_error(error, self._server) from None

    async def _read(self, job: Job[T]) -> T:
        self._check_open()

        async def run(db: PgConnection) -> T:
            await db.execute(self._begin_reading)
            try:
                return await job(db)
            finally:
                await db.execute("ROLLBACK")

        try:
            async with self._reader:
                connection = await self._reading.get()
                return await within(self._server.timeout, connection, run(connection))
        except (psycopg.Error, OSError) as error:
            raise ledger_error(error, self._server) from None

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._server.display}: the ledger is closed", LedgerReason.FAILED)


_FIRING = ("alert", "fingerprint", "phase", "started_at", "marked_at", "row", "counts")
_SAVE = """
    INSERT INTO firings SELECT * FROM json_to_recordset(%s) AS given (
      alert text, fingerprint text, phase text, started_at bigint, marked_at bigint, "row" text, counts text)
    ON CONFLICT (alert, fingerprint) DO UPDATE SET phase = excluded.phase, started_at = excluded.started_at,
      marked_at = excluded.marked_at, "row" = excluded."row", counts = excluded.counts
"""
_ALERT = """
    INSERT INTO alerts VALUES (%s, %s, %s, %s) ON CONFLICT (alert)
    DO UPDATE SET definition = excluded.definition, shape = excluded.shape, frontier = excluded.frontier
"""
_POSITION = """
    INSERT INTO positions VALUES (%s, %s, %s) ON CONFLICT (source, partition)
    DO UPDATE SET position = excluded.position
"""
_SIGHTING = """
    INSERT INTO sightings VALUES (%s, %s, %s, %s) ON CONFLICT (alert, key)
    DO UPDATE SET event = excluded.event, until = excluded.until
    WHERE sightings.until <= %s OR sightings.event = excluded.event
"""


async def _is_first(db: PgConnection, occurrence: Occurrence) -> bool:
    """Whether an event is no duplicate of another one, and remember it. An event that is delivered again is no
    duplicate of itself."""
    event = occurrence.routed[0]
    assert occurrence.key is not None
    values = (storable(event.alert), storable(occurrence.key), event.fingerprint, occurrence.until, event.at)
    return (await db.execute(_SIGHTING, values)).rowcount > 0


async def _changes(db: PgConnection) -> int:
    row = await (await db.execute("SELECT changes FROM ledger")).fetchone()
    assert row is not None
    return int(row[0])


async def _end(db: PgConnection, lease: Lease) -> None:
    await give_up(db, lease)
    await outbox.release_all(db, lease.epoch)


async def _nothing(_: PgConnection) -> None:
    pass


async def open_ledger(
    server: LedgerServer,
    *,
    exclusive: bool = True,
    waiting: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
    observe: Callable[[float], None] = lambda _: None,
) -> PostgresLedger:
    """Open the ledger on a server; the process that runs alerts also makes its tables and brings them up to date.

    `exclusive`: for the process that runs alerts. While another one does, this waits, and calls `waiting` with a word
    for the other now and then. Commands open it without.
    `observe`: called with the seconds that each transaction took.
    Raises LedgerError: in use, made by a newer version, no rights, not reachable.
    """
    links = Link(server), Link(server)
    try:
        db = await links[0].get()
        await within(server.timeout, db, migrate(db, server, allowed=exclusive))
        lease = await _taken(links[0], server, waiting) if exclusive else None
        db = await links[0].get()
        await db.execute(server.begin())
        changes = await _changes(db)
        await db.execute("COMMIT")
    except BaseException as error:
        await links[0].close()
        if isinstance(error, (psycopg.Error, OSError)):
            raise ledger_error(error, server) from None
        raise
    return PostgresLedger(server, links, lease, changes, clock, observe)


async def verify(server: LedgerServer) -> list[str]:
    """What would keep `tocsin run` from using this ledger. Writes nothing."""
    link = Link(server)
    try:
        db = await link.get()
        async with db.transaction(force_rollback=True):
            await within(server.timeout, db, migrate(db, server, allowed=True))
            await db.execute("SELECT nextval('epochs')")
    except LedgerError as error:
        return [str(error)]
    except (psycopg.Error, OSError) as error:
        return [str(ledger_error(error, server))]
    finally:
        await link.close()
    return []


def ddl(server: LedgerServer) -> str:
    """SQL that makes a role and the schema that it owns, for an administrator to read and run. It may be run again."""
    schema, role = sql.Identifier(server.namespace), server.role
    made = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema)
    if role is not None:
        made += sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(role))
    return script([*granted(role, {}), made + sql.SQL(";")])


async def _taken(link: Link, server: LedgerServer, waiting: Callable[[str], None]) -> Lease:
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    while True:
        try:
            found = await _try(link, server, holder)
        except (psycopg.OperationalError, OSError) as error:  # the server restarts, say
            found = str(ledger_error(error, server))
        if isinstance(found, Lease):
            return found
        waiting(found)
        await asyncio.sleep(min(0.2, server.lease / 10))


async def _try(link: Link, server: LedgerServer, holder: str) -> Lease | str:
    db = await link.get()
    await db.execute(server.begin())
    found = await take(db, _LEASE, holder, server.lease)
    await db.execute("COMMIT")
    return found if isinstance(found, Lease) else f"{found} runs the alerts"
