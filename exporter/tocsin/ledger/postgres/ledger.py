"""The ledger in PostgreSQL: the same promises as the SQLite file, on a server that others can reach."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import psycopg

from tocsin.errors import LedgerError, LedgerReason
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
from tocsin.ledger.postgres import instances, outbox, records, silences
from tocsin.ledger.postgres.append import Appended, Shapes, append
from tocsin.ledger.postgres.batches import ALERT, FIRING, POSITION, distinct, see, stored_of
from tocsin.ledger.postgres.connection import LedgerServer, Link, begin, ledger_error, sessions_of
from tocsin.ledger.postgres.instances import Member, fence, leave
from tocsin.ledger.postgres.membership import Membership
from tocsin.ledger.postgres.transaction import Job, Transaction, answering, in_one, plain
from tocsin.ledger.postgres.values import names_text, storable
from tocsin.ledger.postgres.writer import Writer
from tocsin.ledger.queue import Queue
from tocsin.ledger.rows import firing_values
from tocsin.ledger.sharing import Alone, Sharing
from tocsin.ledger.silencing import Judged
from tocsin.model import Columns, Notification
from tocsin.silences import OpenSilences, Silence

T = TypeVar("T")

_CLAIMED_AT_ONCE = 200
"""Notifications of a channel that are claimed with their commit, so that they are sent without another transaction."""


class PostgresLedger(silences.KeepsSilences):
    """See `tocsin.ledger.base.Ledger`. Made by `open_ledger`.

    As in `SqliteLedger`, `_read` runs a job on one connection and `_write`, `_keep` and `_change` on another, in the
    order of the calls. `_queues` has what this process has claimed per channel, so that most claims need no read.
    """

    def __init__(
        self,
        server: LedgerServer,
        links: tuple[Link, Link],
        member: Member | None,
        known: tuple[int, list[Silence]],
        clock: Callable[[], float],
        observe: Callable[[float], None],
    ) -> None:
        """`links`: to write and to read. `member`: None in a command, which neither commits nor claims. `known`: see
        `changes`."""
        self._failed: LedgerError | None = None
        # Whether a write that failed may be in the tables all the same, with notifications that no queue has.
        self._uncertain = False
        self._out_of_contact: LedgerError | None = None
        self._server = server
        self._links = links
        self._reading = links[1]
        # One snapshot for all statements: another process may commit between two of them.
        self._begin_reading = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *begin(server)[1:]]
        self._member = member
        self._membership = None if member is None else Membership(server, member, self._met)
        self.sharing: Sharing = self._membership or Alone()
        self._clock = clock
        if member is not None:
            links[0].sessions = sessions_of(server, member.epoch, "writer")
        statements = begin(server, links[0].sessions)
        self._writer = Writer(links[0], statements, self._fence, server.timeout, observe)
        self._reader = asyncio.Lock()
        self._shapes = Shapes()
        # By alert, as of the last load or commit here. A commit that was given up may be on its way to the server, and
        # arrive after the alert was loaded again.
        self._commits: dict[str, int] = {}
        self._queues: defaultdict[str, Queue] = defaultdict(Queue)  # by channel
        self._closed = False
        self._changes, unclosed = known
        self.silences = OpenSilences(unclosed)

    @property
    def fault(self) -> LedgerError | None:
        return self._failed or self._out_of_contact

    def now(self) -> float:
        return self._clock()

    # Batches.

    async def load(self, alert: str) -> Stored | None:
        async def read(db: Transaction) -> Callable[[], tuple[Stored | None, int]]:
            found = db.add(
                "SELECT commits, definition, columns, frontier FROM alerts JOIN shapes ON id = shape WHERE alert = %s",
                (storable(alert),),
            )
            firings = db.add(
                'SELECT fingerprint, phase, started_at, marked_at, "row", counts FROM firings WHERE alert = %s',
                (storable(alert),),
            )
            return lambda: (stored_of(found, firings), found.rows[0][0]) if found.rows else (None, 0)

        stored, self._commits[alert] = await self._read(read)
        return stored

    async def commit(self, commit: Commit) -> list[Notification]:
        now, alert = self._clock(), storable(commit.alert)
        # Replaced as a whole: COPY cannot update.
        outdated = [*commit.gone, *(firing.fingerprint for firing in commit.saved)]
        columns = distinct([commit.columns, *(transition.columns for transition, _ in commit.transitions)])
        seen = self._commits.get(commit.alert)

        async def write(db: Transaction) -> Callable[[], Appended]:
            shapes = await self._shapes.numbers(db, columns)
            shape = shapes[commit.columns]
            db.do(ALERT, (alert, storable(commit.definition), shape, commit.frontier, seen, self._epoch))
            if commit.replace:
                db.do("DELETE FROM firings WHERE alert = %s", (alert,))
            elif outdated:
                db.do("DELETE FROM firings WHERE alert = %s AND fingerprint = ANY(%s)", (alert, names_text(outdated)))
            await db.insert("firings", FIRING, (firing_values(alert, firing) for firing in commit.saved))
            appended = await append(db, commit.transitions, shapes, now, self._epoch, self._room)
            return lambda: self._written(appended(), shapes)

        appended = await self._keep(write)
        if seen is not None:
            self._commits[commit.alert] = seen + 1
        return self._committed(appended)

    async def commit_events(self, commit: EventCommit) -> tuple[list[Notification], list[Occurrence]]:
        now = self._clock()
        columns = distinct(one.routed[0].columns for one in commit.occurrences)

        async def write(db: Transaction) -> Callable[[], tuple[Appended, list[Occurrence]]]:
            shapes = await self._shapes.numbers(db, columns)
            for partition, position in sorted(commit.position.items()):
                db.do(POSITION, (storable(commit.source), storable(partition), position))
            seen = [None if one.key is None else see(db, one) for one in commit.occurrences]
            if any(seen):
                await db.send()
            new = [one for one, first in zip(commit.occurrences, seen, strict=True) if first is None or first.count]
            appended = await append(db, (one.routed for one in new), shapes, now, self._epoch, self._room)
            return lambda: (self._written(appended(), shapes), new)

        appended, new = await self._keep(write)
        return self._committed(appended), new

    async def position(self, source: str) -> dict[str, int]:
        async def read(db: Transaction) -> Callable[[], dict[str, int]]:
            found = db.add("SELECT partition, position FROM positions WHERE source = %s", (storable(source),))
            return lambda: dict(found.rows)

        return await self._read(read)

    # The outbox.

    async def recover(self, channel: str, since: float, ready_at: float) -> None:
        await self._write(plain(lambda db: outbox.recover(db, channel, self._epoch, since, ready_at)))
        self._queues[channel].claimed.clear()
        self._queues[channel].reset()

    async def inherit(self, channel: str, ready_at: float) -> None:
        await self._write(plain(lambda db: outbox.recover(db, channel, 0, self._clock(), ready_at)))
        self._queues[channel].changed()

    async def turn(self, channel: str, seconds: float) -> float:
        return await self._write(answering(lambda db: instances.turn(db, channel, seconds)))

    async def hold(self, channel: str, seconds: float, why: str) -> None:
        if (member := self._member) is not None:
            await self._write(plain(lambda db: instances.hold(db, member, channel, seconds, why)))

    async def claim(self, channel: str, limit: int) -> Claimed:
        queue, now = self._queues[channel], self._clock()
        if channel in self.sharing.waiting:
            queue.changed()
        in_memory = queue.claim(limit, now)
        if in_memory is not None:
            return in_memory
        changes = queue.changes
        read = await self._write(
            lambda db: outbox.claim(db, queue.ready, channel, queue.claimed, limit, now, self._epoch)
        )
        return queue.was_read(read, changes)

    async def release(self, notifications: Sequence[Notification]) -> None:
        seqs = [one.seq for one in notifications]
        await self._write(plain(lambda db: outbox.release(db, seqs, self._epoch)))
        for notification in notifications:
            queue = self._queues[notification.channel]
            queue.end(notification.seq, notification.ordering_key)
            queue.changed()

    async def bind(self, requests: Sequence[Sequence[int]]) -> None:
        await self._keep(plain(lambda db: outbox.bind(db, requests)))

    async def begin(self, id_: str) -> int:
        now = self._clock()
        return await self._keep(answering(lambda db: outbox.begin(db, id_, now)))

    async def end(self, id_: str) -> None:
        await self._keep(plain(lambda db: outbox.end(db, id_)))

    async def settle(self, settlements: Sequence[Settlement]) -> bool:
        more = await self._keep(answering(lambda db: outbox.settle(db, settlements)), locks=True)
        for settlement in settlements:
            queue = self._queues[settlement.channel]
            queue.end(settlement.seq, settlement.ordering_key)
            if more:
                queue.changed()
        return more

    async def digest(self, head: Notification) -> list[Notification]:
        now = self._clock()
        return await self._keep(answering(lambda db: outbox.digest(db, head, now)))

    async def split_digest(self, head: Notification, at: int, *, refused: bool) -> None:
        await self._keep(plain(lambda db: outbox.split_digest(db, head, at, refused=refused)), locks=True)

    async def withhold(self, channel: str, judged: Judged) -> Collection[int]:
        now = self._clock()
        gone = await self._keep(lambda db: silences.withhold(db, channel, judged, now, self._epoch), locks=True)
        self._queues[channel].withheld(gone)
        if judged.held:
            await self._read_silences()  # one of them may have been closed
        return gone

    async def previous_ids(self, notification: Notification) -> tuple[str, ...]:
        return await self._read(answering(lambda db: outbox.previous_ids(db, notification)))

    # For operators.

    async def backlog(self) -> dict[str, Backlog]:
        return await self._read(records.backlog)

    async def find(self, wanted: Filter) -> list[Record]:
        return await self._read(lambda db: records.find(db, wanted))

    async def attempts(self, id_: str) -> list[Attempt]:
        return await self._read(lambda db: records.attempts(db, id_))

    async def line(self, channel: str, ordering_key: str) -> Line:
        return await self._read(lambda db: records.line(db, channel, ordering_key))

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        return await self._read(lambda db: records.episodes(db, alert, limit))

    async def ended(self, since: int, limit: int) -> list[tuple[str, int, int]]:
        return await self._read(lambda db: records.ended(db, since, limit))

    async def retry(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._change(lambda db: records.retry(db, ids, now))

    async def drop(self, ids: Sequence[str]) -> int:
        now = self._clock()
        return await self._change(lambda db: records.drop(db, ids, now))

    # Maintenance.

    async def dead_letter_unrouted(self, channels: Sequence[str]) -> int:
        now = self._clock()
        dead = await self._write(lambda db: records.dead_letter_unrouted(db, channels, now), locks=True)
        self._reset()
        return dead

    async def prune(self, before: float, limit: int) -> int:
        now = self._clock()
        return await self._write(lambda db: records.prune(db, before, limit, now))

    async def changed_elsewhere(self) -> bool:
        now, unclosed = await self._read(changes)
        changed, self._changes = now != self._changes, now
        if changed:
            self.silences.all = unclosed
        outdated = changed or self._uncertain
        self._uncertain = self._uncertain and self._failed is not None
        if outdated:
            self._reset()
        return outdated

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._membership is not None:
            await self._membership.close()
        if (member := self._member) is not None:
            self._member = None
            ending = self._writer.run(plain(lambda db: leave(db, member)))
            await asyncio.gather(ending, return_exceptions=True)
        await self._writer.close()
        async with self._reader:
            await self._reading.close()

    # How jobs are run.

    @property
    def _epoch(self) -> int:
        return 0 if self._member is None else self._member.epoch

    def _room(self, channel: str) -> int:
        queue = self._queues[channel]
        return _CLAIMED_AT_ONCE - len(queue.ready) - len(queue.claimed)

    def _written(self, appended: Appended, shapes: Mapping[Columns, int]) -> Appended:
        self._shapes.committed(shapes)
        return appended

    def _committed(self, appended: Appended) -> list[Notification]:
        for notification in appended.notifications:
            queue = self._queues[notification.channel]
            if notification.seq in appended.owned:
                queue.committed(notification)
            elif notification.seq not in appended.blocked:
                queue.changed()
        return appended.notifications

    def _reset(self) -> None:
        for queue in self._queues.values():
            queue.reset()

    def _fence(self, db: Transaction) -> Callable[[], None] | None:
        return None if self._member is None else fence(db, self._member)

    def _met(self, error: LedgerError | None) -> None:
        """The process has met the others, or why not."""
        self._out_of_contact = error
        if error is not None and error.reason in (LedgerReason.SILENT, LedgerReason.FENCED):
            for link in self._links:  # what is under way on them would wait for as long as it may
                link.give_up()

    async def _change(self, job: Job[T]) -> T:
        """Write what an operator changes in the outbox."""

        async def change(db: Transaction) -> Callable[[], tuple[T, int]]:
            changes = db.add("UPDATE ledger SET changes = changes + 1 RETURNING changes")
            after = await job(db)
            return lambda: (after(), changes.rows[0][0])

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
            self._failed, self._uncertain = error, True
            raise
        self._failed = None
        return result

    async def _write(self, job: Job[T], *, locks: bool = False) -> T:
        self._check_open()
        try:
            return await self._writer.run(job, locks=locks)
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            raise ledger_error(error, self._server) from None

    async def _read(self, job: Job[T]) -> T:
        self._check_open()

        try:
            async with self._reader:
                return await self._reading.run(
                    self._server.timeout, lambda connection: in_one(connection, self._begin_reading, job)
                )
        except (psycopg.Error, OSError) as error:
            raise ledger_error(error, self._server) from None

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._server.display}: the ledger is closed", LedgerReason.FAILED)


async def changes(db: Transaction) -> Callable[[], tuple[int, list[Silence]]]:
    """How often operators have changed the outbox, and the silences that have not been closed."""
    found, unclosed = db.add("SELECT changes FROM ledger"), silences.unclosed(db)
    return lambda: (int(found.rows[0][0]), unclosed())
