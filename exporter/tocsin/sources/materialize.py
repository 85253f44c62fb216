"""Materialize: one `COPY (SUBSCRIBE ... WITH (PROGRESS)) TO STDOUT` per alert.

What this rests on was seen on a live server: the first progress row stands at the as-of and comes before the snapshot;
updates are complete once a later progress row has come; a constant view stands at the largest timestamp and ends
without one; a lost replica is only silence; a view renamed away keeps streaming; an `AS OF AT LEAST` never fails for
age.

Its parts: `identity` notices that names refer to other objects now.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Row, Update
from tocsin.postgres import relation
from tocsin.sources.base import Stream, Subject
from tocsin.sources.identity import Answers, Identity, IdentityCheck, Watched
from tocsin.sources.settings import MaterializeConfig as Config
from tocsin.sources.wire import Wire, connect, fields, translated

_FOREVER = 2**64 - 1
"""The timestamp of a constant view."""
_PREFIX = ("mz_timestamp", "mz_progressed", "mz_diff")


def build(name: str, config: Config) -> "Materialize":
    """A source for `config`; connects to nothing yet."""
    return Materialize(name, config)


class Materialize:
    """A Materialize server. See `tocsin.sources.Source`."""

    def __init__(self, name: str, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._now = now
        self._identities = IdentityCheck(name, config)

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, resume: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        config = self._config
        async with connect(config) as wire:
            with translated(config.display):
                async with asyncio.timeout(config.snapshot_timeout):
                    columns = _relation_columns(await wire.describe(_subscribe(subject)))
                    known = await self._identity(wire, subject)
            stream = _Subscription(
                config, wire, _subscribe(subject, resume), columns, self._now, resumed=resume is not None
            )
            watched = Watched(target=_what(subject), known=known, interrupt=stream.interrupt, report=checked)
            async with self._identities.watching(watched):
                yield stream

    async def describe(self, subject: Subject) -> Columns:
        async with connect(self._config) as wire:
            with translated(self._config.display):
                async with asyncio.timeout(self._config.connect_timeout):
                    return _relation_columns(await wire.describe(_subscribe(subject)))

    async def sample(self, subject: Subject) -> Row | None:
        async with connect(self._config) as wire:
            with translated(self._config.display):
                async with asyncio.timeout(self._config.snapshot_timeout):
                    rows = await wire.query(sql.SQL("SELECT * FROM {} LIMIT 1").format(_what(subject)))
        return rows[0] if rows else None

    async def _identity(self, wire: Wire, subject: Subject) -> Identity | None:
        """What the names refer to before the subscription begins: if they change while it begins, the next check finds
        that, at the price of one subscription too many. None if the server refuses to say."""
        if not self._config.identity_check:
            return None
        try:
            return await Answers(wire).identity(_what(subject))
        except (psycopg.Error, ValueError, LookupError, TypeError) as error:
            if isinstance(error, psycopg.Error) and error.sqlstate is None:
                raise
            return None  # the first check fails for the same reason, and reports it


class _Subscription:
    """One running SUBSCRIBE."""

    def __init__(
        self,
        config: Config,
        wire: Wire,
        statement: sql.Composed,
        columns: Columns,
        now: Callable[[], float],
        *,
        resumed: bool,
    ) -> None:
        self.columns = columns
        self._resumed = resumed
        self._config = config
        self._wire = wire
        self._statement = statement
        self._now = now
        self._interruption: SourceError | None = None
        self._waiting: asyncio.Timeout | None = None

    def interrupt(self, error: SourceError) -> None:
        """End the stream with this error, at once. The first one counts."""
        if self._interruption is not None:
            return
        self._interruption = error
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def batches(self) -> AsyncIterator[Batch]:
        config = self._config
        copy = sql.SQL("COPY ({}) TO STDOUT").format(self._statement)
        chunks = self._wire.copy(copy, limit=config.snapshot_timeout)
        assembler = _Assembler(self._check_as_of)
        began = closed = False
        with translated(config.display, lambda: began):
            while (chunk := await self._chunk(chunks, closed=closed)) is not None:
                began = True
                for batch in assembler.take(chunk):
                    closed = True
                    yield batch
        last = assembler.end(self._now())
        if last is not None:
            yield last

    async def _chunk(self, chunks: AsyncIterator[list[bytes]], *, closed: bool) -> list[bytes] | None:
        """The next rows; None at the end. Raises SourceError when they do not come, or the stream was interrupted."""
        config = self._config
        # Until the first batch the server may be reading the view in; after it, it speaks every second.
        patience = config.progress_timeout if closed else config.snapshot_timeout
        try:
            async with asyncio.timeout(patience) as self._waiting:
                # It may have been interrupted while the last rows were processed.
                chunk = None if self._interruption is not None else await anext(chunks, None)
        except TimeoutError:
            if self._interruption is None:
                what = "no progress row" if closed else "no complete snapshot"
                raise SourceError(f"{config.display}: {what} for {patience:g} s", SourceReason.STALLED) from None
        finally:
            self._waiting = None
        if self._interruption is not None:
            raise self._interruption
        return chunk

    def _check_as_of(self, as_of: int) -> None:
        ahead = as_of / 1000 - self._now()
        if as_of != _FOREVER and ahead > self._config.max_ahead:
            raise SourceError(
                f"{self._config.display}: the first progress row is {ahead:.0f} s ahead of this machine's clock; "
                "the server was restored or replaced, or a clock is wrong",
                SourceReason.FUTURE,
                # Without a time in the statement it is the server's own time: then a clock is wrong, not the history.
                resume=not self._resumed,
            )


class _Assembler:
    """Lines of the stream -> batches. Pure but for the check of the as-of that it is given."""

    def __init__(self, check_as_of: Callable[[int], None]) -> None:
        self._check_as_of = check_as_of
        self._as_of: int | None = None
        self._snapshot_open = True
        self._updates: list[Update] = []
        self._sorted = True

    def take(self, chunk: list[bytes]) -> list[Batch]:
        """The batches that `chunk` closes: one for each progress row with updates before it, and one for the last
        progress."""
        batches: list[Batch] = []
        progress: int | None = None
        text, at = "", 0
        for row in fields(chunk):
            stamp, progressed, diff = row[:3]
            assert stamp is not None
            if stamp != text:
                at = int(stamp)
                self._sorted = self._sorted and (not self._updates or at >= self._updates[-1][0])
                text = stamp
            if progressed == "f":
                assert diff is not None
                self._updates.append((at, int(diff), row[3:]))
            elif self._as_of is None:
                self._check_as_of(at)
                self._as_of = at
            elif at > self._as_of:
                # Progress rows with nothing between them are one batch: the last.
                if self._updates or self._snapshot_open:
                    batches.append(self._close(at))
                    progress = None
                else:
                    progress = at
        if progress is not None and not self._updates:
            batches.append(self._close(progress))
        return batches

    def end(self, now: float) -> Batch | None:
        """The batch that a normal end of the stream closes. A constant view has no time of its own: it gets the
        clock's."""
        if self._as_of is None:
            return None
        if self._as_of == _FOREVER:
            stamp = int(now * 1000)
            self._updates = [(stamp, diff, row) for _, diff, row in self._updates]
            return Batch(updates=self._updates, frontier=None, snapshot=stamp)
        frontier = max((at for at, _, _ in self._updates), default=self._as_of) + 1
        return self._close(frontier)

    def _close(self, frontier: int) -> Batch:
        updates = self._updates if self._sorted else sorted(self._updates, key=lambda update: update[0])
        snapshot = self._as_of if self._snapshot_open else None
        self._updates, self._sorted, self._snapshot_open = [], True, False
        return Batch(updates=updates, frontier=frontier, snapshot=snapshot)


def _subscribe(subject: Subject, resume: int | None = None) -> sql.Composed:
    """The SUBSCRIBE. `AS OF` takes no bind parameter; the number is a literal."""
    statement = sql.SQL("SUBSCRIBE {} WITH (PROGRESS)").format(_what(subject))
    if resume is not None:
        statement += sql.SQL(" AS OF AT LEAST {}").format(sql.Literal(resume))
    return statement


def _what(subject: Subject) -> sql.Composable:
    if subject.relation is not None:
        return relation(subject.relation)
    assert subject.query is not None
    # A query is the operator's own SQL, taken as it stands.
    return sql.SQL("({})").format(sql.SQL(subject.query.strip().rstrip(";")))


def _relation_columns(described: Columns) -> Columns:
    assert tuple(column.name for column in described[:3]) == _PREFIX
    return described[3:]
