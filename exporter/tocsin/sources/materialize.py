"""Materialize: one `COPY (SUBSCRIBE ... WITH (PROGRESS)) TO STDOUT` per alert.

`open` subscribes, `_batches` reads the lines, and the `Assembler` makes batches of them. A stream of a view with the
columns order_id and minutes is (with `-` for NULL):

    100  t   -   -   -   progress row at the as-of: the time of the snapshot
    100  f   1  17  15   snapshot: the row (17, 15) is in the view
    101  t   -   -   -   progress row: nothing before 101 will come any more. Closes the first batch
    130  f  -1  17  15   update: the row changed
    130  f   1  17  16
    131  t   -   -   -   closes the second batch, whose frontier is 131

Observed on a live server: the first line is the progress row at the as-of. A constant view is at the largest timestamp,
and its stream ends without a later progress row. A lost replica is only silence. A renamed view keeps streaming (see
`tocsin.sources.identity`). An `AS OF AT LEAST` never fails because it is too old.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import psycopg
from psycopg import sql
from psycopg.postgres import types

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Column, Columns, Row, Update
from tocsin.postgres import relation
from tocsin.sources.base import Stream, Subject
from tocsin.sources.identity import Identity, IdentityCheck, Subscription, identity
from tocsin.sources.query import operators_query
from tocsin.sources.server_errors import statement_error, translated
from tocsin.sources.settings import MaterializeConfig as Config
from tocsin.sources.wire import Wire, asking, connect, fields, named_type

_FOREVER = 2**64 - 1
"""The timestamp of a constant view."""
_PREFIX = ("mz_timestamp", "mz_progressed", "mz_diff")
"""Each line: time, progressed (t: nothing earlier will come), diff (+1 row added, -1 removed), then the columns."""
_INTEGERS = (16460, 16462, 16464, 16552)
"""uint2, uint4, uint8 and mz_timestamp, as a live server numbers them. The array of each has the next number."""
_KNOWN = dict.fromkeys(_INTEGERS, types["int8"].oid) | {oid + 1: types["int8"].array_oid for oid in _INTEGERS}


def build(name: str, config: Config) -> "Materialize":
    """A source for `config`; connects to nothing yet."""
    return Materialize(name, config)


class Materialize:
    """A Materialize server. See `tocsin.sources.base.Source`."""

    def __init__(self, name: str, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._now = now
        self._identity_check = IdentityCheck(name, config)

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        config = self._config
        async with connect(config) as wire:
            with translated(config.display):
                async with asyncio.timeout(config.snapshot_timeout):
                    # The columns are the same at all times, so no AS OF.
                    columns = _relation_columns(await wire.describe(_subscribe(subject)))
                    known = await self._identity(wire, subject)
            subscription = Subscription(target=_target(subject), known=known, interrupt=wire.interrupt, checked=checked)
            # In the background, check that the names still refer to the same objects. If not, `_batches` raises.
            async with self._identity_check.checking(subscription):
                yield Stream(columns, partial(self._batches, wire, subject, as_of))

    async def describe(self, subject: Subject) -> Columns:
        async with asking(self._config, self._config.connect_timeout) as wire:
            return _relation_columns(await wire.describe(_subscribe(subject)))

    async def sample(self, subject: Subject) -> Row | None:
        async with asking(self._config, self._config.snapshot_timeout) as wire:
            await try_subscribe(wire.query, subject)
            rows = await wire.query(sql.SQL("SELECT * FROM {} LIMIT 1").format(_target(subject)))
        return rows[0] if rows else None

    async def type_name(self, oid: int) -> str:
        async with asking(self._config, self._config.connect_timeout) as wire:
            return await named_type(wire, oid)

    async def _identity(self, wire: Wire, subject: Subject) -> Identity | None:
        """What the names refer to before the subscription begins; None if the server does not say.

        If they change while it begins, the next check finds a difference, at the price of one needless subscription.
        """
        if not self._config.identity_check:
            return None
        try:
            return await identity(wire.query, _target(subject))
        except (psycopg.Error, ValueError, LookupError, TypeError) as error:
            if isinstance(error, psycopg.Error) and error.sqlstate is None:
                raise
            return None  # the first check fails for the same reason, and reports it

    async def _batches(self, wire: Wire, subject: Subject, asked: int | None) -> AsyncIterator[Batch]:
        """Run the SUBSCRIBE. `asked`: the AS OF to ask for."""
        statement = sql.SQL("COPY ({}) TO STDOUT").format(_subscribe(subject, asked))
        chunks = wire.copy(statement, limit=self._config.snapshot_timeout)
        assembler = Assembler()
        started = complete = False
        try:
            while (chunk := await self._next(chunks, complete=complete)) is not None:
                batches = assembler.add(chunk)
                if not started and assembler.as_of is not None:  # the first line is always a progress row
                    started = True
                    self._check_as_of(assembler.as_of, asked=asked)
                for batch in batches:
                    complete = True
                    yield batch
        except psycopg.Error as error:
            raise statement_error(error, self._config.display, running=started) from None
        last = assembler.end(self._now())
        if last is not None:
            yield last

    async def _next(self, chunks: AsyncIterator[list[bytes]], *, complete: bool) -> list[bytes] | None:
        """The next rows; None at the end. Raises SourceError when they do not come in time.

        Before the snapshot is `complete` the server may have to read the view in; after it, it sends a progress row
        every second. A lost replica gives no error, so silence is the only sign of it.
        """
        config = self._config
        seconds = config.progress_timeout if complete else config.snapshot_timeout
        try:
            async with asyncio.timeout(seconds):
                return await anext(chunks, None)
        except TimeoutError:
            raise SourceError(
                f"{'no progress row' if complete else 'no complete snapshot'} for {seconds:g} s",
                SourceReason.STALLED,
                server=config.display,
                fix="check the cluster and its replicas",
            ) from None

    def _check_as_of(self, as_of: int, *, asked: int | None) -> None:
        """Raise SourceError if the subscription begins in the future. A server restored from elsewhere may accept such
        an AS OF (`asked`), and stay silent until that time comes."""
        ahead = as_of / 1000 - self._now()
        if as_of != _FOREVER and ahead > self._config.max_ahead:
            raise SourceError(
                f"the first progress row is {ahead:.0f} s ahead of this machine's clock: "
                "the server was restored or replaced, or a clock is wrong",
                SourceReason.FUTURE,
                server=self._config.display,
                fix="check the clocks of both machines",
                # After an AS OF, do not ask for that history again. Without one it is the server's own time: then a
                # clock is wrong, not the history.
                history=asked is None,
            )


class Assembler:
    """Lines of the stream -> batches. Pure."""

    def __init__(self) -> None:
        self.as_of: int | None = None
        """The timestamp of the first progress row, and of the snapshot; None before the first line."""
        self._snapshot_open = True
        """Whether the snapshot is not complete yet."""
        self._updates: list[Update] = []
        """Updates since the last batch, which no progress row has closed yet."""
        self._sorted = True
        """Whether they are in the order of time."""

    def add(self, chunk: list[bytes]) -> list[Batch]:
        """The batches that these lines close: one for each progress row with updates before it, and one for the last
        progress row, so that the frontier moves although nothing changed."""
        batches: list[Batch] = []
        progress: int | None = None
        """The time of the last progress row, while no batch has been made of it."""
        text, at = "", 0  # most lines have the time of the line before, which need not be parsed again
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
            elif self.as_of is None:
                self.as_of = at
            elif at > self.as_of:
                if self._updates or self._snapshot_open:
                    batches.append(self._close(at))
                    progress = None
                else:
                    progress = at  # of progress rows with nothing between them, only the last makes a batch
        # Updates after it belong to a later progress row, which moves the frontier, too.
        if progress is not None and not self._updates:
            batches.append(self._close(progress))
        return batches

    def end(self, now: float) -> Batch | None:
        """The batch that a normal end of the stream closes. `now` (seconds) is the time of a constant view, which has
        none of its own."""
        if self.as_of is None:
            return None
        if self.as_of == _FOREVER:
            stamp = int(now * 1000)
            self._updates = [(stamp, diff, row) for _, diff, row in self._updates]
            return Batch(updates=self._updates, frontier=None, snapshot=stamp)
        # After a normal end nothing more comes, so the last timestamp is complete: the frontier is one beyond it.
        return self._close(max((at for at, _, _ in self._updates), default=self.as_of) + 1)

    def _close(self, frontier: int) -> Batch:
        updates = self._updates if self._sorted else sorted(self._updates, key=lambda update: update[0])
        snapshot = self.as_of if self._snapshot_open else None
        self._updates, self._sorted, self._snapshot_open = [], True, False
        return Batch(updates=updates, frontier=frontier, snapshot=snapshot)


async def try_subscribe(query: Callable[[sql.Composable], Awaitable[object]], subject: Subject) -> None:
    """Raise psycopg.Error if the server refuses to SUBSCRIBE to something: a SELECT may call now() where a SUBSCRIBE
    may not."""
    # It ends at a time that is over, which is the error of one that is accepted.
    with suppress(psycopg.errors.DataException):
        await query(_subscribe(subject) + sql.SQL(" UP TO 1"))


def _subscribe(subject: Subject, as_of: int | None = None) -> sql.Composed:
    """The SUBSCRIBE, with the history from `as_of` (ms) if given. `AS OF` takes no bind parameter, so the number is a
    literal."""
    statement = sql.SQL("SUBSCRIBE {} WITH (PROGRESS)").format(_target(subject))
    if as_of is not None:
        statement += sql.SQL(" AS OF AT LEAST {}").format(sql.Literal(as_of))
    return statement


def _target(subject: Subject) -> sql.Composable:
    if subject.relation is not None:
        return relation(subject.relation)
    assert subject.query is not None
    return sql.SQL("({})").format(operators_query(subject.query))


def _relation_columns(described: Columns) -> Columns:
    assert tuple(column.name for column in described[:3]) == _PREFIX
    return with_known_types(described[3:])


def with_known_types(columns: Iterable[Column]) -> Columns:
    """Materialize's own integers as `bigint`, which reads the text of each: in PostgreSQL, any type that a user makes
    may have one of their numbers."""
    return tuple(replace(column, oid=_KNOWN.get(column.oid, column.oid)) for column in columns)
