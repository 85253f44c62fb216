"""PostgreSQL: an alert on a relation or query that is read on an interval, and at once on a NOTIFY.

PostgreSQL keeps no history of a query's result, so every reading is a snapshot that is compared with the one before. A
row that comes and goes between two readings is not seen; a trigger with NOTIFY makes that time as short as a statement.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Row, Update
from tocsin.postgres import Pool, relation
from tocsin.sources.base import Stream, Subject
from tocsin.sources.listening import Connections, Listener, listen, note
from tocsin.sources.query import operators_query
from tocsin.sources.server_errors import translated
from tocsin.sources.settings import PostgresConfig as Config
from tocsin.sources.wire import Wire, connection_to, fields, named_type

_CLOCK = sql.SQL("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def build(name: str, config: Config) -> "Postgres":
    """A source for `config`; connects to nothing yet."""
    return Postgres(name, config)


class Postgres:
    """A PostgreSQL server. See `tocsin.sources.base.Source`. Its alerts share a few connections, each for as long as a
    reading takes."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._config = config
        self._pool = Pool(config.max_connections, partial(connection_to, config))
        self._listener = Listener(name, config, self._connection)

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        del checked  # the query names the relation at each reading
        due = asyncio.Event()
        async with self._pool.kept(), self._listener.waking(due):
            columns = await self.describe(subject)
            readings = _Readings(
                config=self._config,
                connections=self._connection,
                listener=self._listener,
                select=_select(subject),
                columns=columns,
                identity=_identity(subject),
                due=due,
                last=as_of or 0,
            )
            yield Stream(columns, readings.batches)

    async def describe(self, subject: Subject) -> Columns:
        config = self._config
        async with self._connection() as wire, asyncio.timeout(config.connect_timeout), _transaction(wire, config):
            return await wire.describe(_select(subject))

    async def sample(self, subject: Subject) -> Row | None:
        config = self._config
        limited = sql.SQL("SELECT * FROM ({}) AS sample LIMIT 1").format(_select(subject))
        async with self._connection() as wire, asyncio.timeout(config.snapshot_timeout), _transaction(wire, config):
            rows = await wire.query(limited)
        return rows[0] if rows else None

    async def type_name(self, oid: int) -> str:
        async with self._connection() as wire, asyncio.timeout(self._config.connect_timeout):
            return await named_type(wire, oid)

    async def verify(self, names: Sequence[str]) -> list[str]:
        """Why nothing that is notified will be received, as sentences: empty if it will be. `names`: of events, which
        this source does not have. `describe` reports a server that does not answer."""
        del names
        if not self._config.notify:
            return []
        try:
            async with self._connection() as wire:
                await listen(wire, self._config, self._connection)
        except SourceError as error:
            unknown = (SourceReason.CONNECT, SourceReason.AUTH, SourceReason.DISCONNECTED)
            return [] if error.reason in unknown else [note(self._config, error)]
        return []

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Wire]:
        """A connection of the pool, for the length of the block. Raises SourceError, also for what fails in it."""
        config = self._config
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(config.progress_timeout):
                    connection = await stack.enter_async_context(self._pool.connection())
            except TimeoutError:
                raise SourceError(
                    f"no connection was free for {config.progress_timeout:g} s, as other readings took so long",
                    SourceReason.CONNECT,
                    server=config.display,
                    fix=f"raise max_connections, which is {config.max_connections}, or make the queries faster",
                ) from None
            with translated(config.display):
                yield Wire(connection)


@contextlib.asynccontextmanager
async def _transaction(wire: Wire, config: Config) -> AsyncIterator[None]:
    """Run what belongs together in one transaction, with the settings: a pooler may give the next one another session,
    in which another client's statement was prepared and other settings are made."""
    await wire.query(config.begin())
    yield
    await wire.query(sql.SQL("COMMIT"))


@dataclass(slots=True, kw_only=True)
class _Readings:
    """The readings of one query."""

    config: Config
    connections: Connections
    listener: Listener
    select: sql.Composable
    columns: Columns
    identity: sql.Composable | None
    """Asks what the name of the relation refers to; None: for a query, and for a server that cannot be asked."""
    due: asyncio.Event
    """Set when a reading is due before the interval is over."""
    last: int
    """The timestamp of the last reading."""
    known: Row | None = None
    """What the name referred to at the last reading."""

    async def batches(self) -> AsyncIterator[Batch]:
        yield await self._read(first=True)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.interval):
                    await self.due.wait()
            yield await self._read(first=False)

    async def _read(self, *, first: bool) -> Batch:
        # The first reading may have to wait for a server that has just started.
        patience = self.config.snapshot_timeout if first else self.config.progress_timeout
        async with self.connections() as wire:
            # This reading may miss what is notified from here on, so the next one follows at once.
            self.due.clear()
            try:
                async with asyncio.timeout(patience), _transaction(wire, self.config):
                    stamp, updates, columns = await self._rows(wire)
                    before, self.known = self.known, await self._identified(wire)
            except TimeoutError:
                raise SourceError(
                    f"no reading within {patience:g} s", SourceReason.STALLED, server=self.config.display
                ) from None
        if columns != self.columns:
            raise SourceError(
                "the columns changed; reading again with the new ones", SourceReason.SHAPE, server=self.config.display
            )
        # A pause that is no longer than the one between two readings is not a gap.
        polled = not first or stamp - self.last <= self.config.interval * 1000
        self.last = stamp
        return Batch(
            updates=updates,
            frontier=stamp + 1,
            snapshot=stamp,
            polled=polled,
            note=self.listener.note,
            replaced=_replaced(before, self.known),
        )

    async def _identified(self, wire: Wire) -> Row | None:
        """What the name refers to. The last statement of a reading, since an error ends the transaction."""
        if self.identity is not None:
            try:
                rows = await wire.query(self.identity)
                return rows[0] if rows else None
            except psycopg.DatabaseError as error:
                if error.sqlstate is None:
                    raise
                self.identity = None  # another server with PostgreSQL's protocol
        return None

    async def _rows(self, wire: Wire) -> tuple[int, list[Update], Columns]:
        """The time of the reading, its rows and their columns."""
        # The clock is read first: the rows are at least as new as the timestamp. It never goes back, whatever it says.
        stamp = max(int((await wire.query(_CLOCK))[0][0] or 0), self.last + 1)
        updates: list[Update] = []
        copy = sql.SQL("COPY ({}) TO STDOUT").format(self.select)
        async for chunk in wire.copy(copy, limit=self.config.snapshot_timeout):
            updates.extend((stamp, 1, row) for row in fields(chunk))
        # Asked after the rows were read: a change of the columns of those rows is visible now.
        return stamp, updates, await wire.describe(self.select)


_IDENTITY = sql.SQL("""
    WITH RECURSIVE named AS (SELECT oid, relkind FROM pg_class WHERE oid = to_regclass({})),
    below (oid) AS (
      SELECT oid FROM named
      UNION
      SELECT d.refobjid FROM below,
        LATERAL (SELECT oid FROM pg_rewrite WHERE ev_class = below.oid AND ev_type = '1' OFFSET 0) AS r,
        LATERAL (
          SELECT refobjid, refclassid FROM pg_depend WHERE classid = 'pg_rewrite'::regclass AND objid = r.oid OFFSET 0
        ) AS d
      WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid >= 16384
    )
    SELECT oid::text, CASE WHEN relkind IN ('v', 'm') THEN md5(pg_get_viewdef(oid)) END, (
      SELECT json_object_agg(c.oid::regclass, md5(pg_get_viewdef(c.oid)))::text
      FROM below JOIN pg_class AS c USING (oid) WHERE c.oid <> named.oid AND c.relkind IN ('v', 'm')
    ) FROM named
""")
"""The number of a relation, the hash of its definition, and those of the views below it by name: `CREATE OR REPLACE` of
one of these changes the rows, too, and neither of the first two. Views of the server itself (below 16384) are left
out. `OFFSET` has each looked up by itself, however many views the database has."""


def _identity(subject: Subject) -> sql.Composable | None:
    if subject.relation is None:
        return None
    return _IDENTITY.format(sql.Literal(relation(subject.relation).as_string(None)))


def _replaced(before: Row | None, now: Row | None) -> str:
    """How a relation differs from what it was: its number, the hash of the definition of a view, and of those below."""
    if before is None or now is None or before == now:
        return ""
    if before[:2] == now[:2]:
        was, is_ = (json.loads(one[2] or "{}") for one in (before, now))
        changed = sorted(name for name in was.keys() & is_.keys() if was[name] != is_[name])
        return f"the definition of {', '.join(changed)}, which the view selects from, was changed" if changed else ""
    if before[1] == now[1]:
        return "the name refers to another relation of the same definition now"
    return "the definition of the view was changed" if before[0] == now[0] else "the name refers to another view now"


def _select(subject: Subject) -> sql.Composable:
    if subject.relation is not None:
        return sql.SQL("SELECT * FROM {}").format(relation(subject.relation))
    assert subject.query is not None
    return operators_query(subject.query)
