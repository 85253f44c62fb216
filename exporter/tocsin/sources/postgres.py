"""PostgreSQL: an alert on a relation or query that is read on an interval, and at once on a NOTIFY.

PostgreSQL keeps no history of a query's result, so every reading is a snapshot that is compared with the one before. A
row that comes and goes between two readings is not seen; a trigger with NOTIFY makes that time as short as a statement.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Row, Update
from tocsin.postgres import relation
from tocsin.sources.base import Stream, Subject
from tocsin.sources.query import operators_query
from tocsin.sources.server_errors import translated
from tocsin.sources.settings import PostgresConfig as Config
from tocsin.sources.wire import Wire, asking, connect, fields, named_type, shares_sessions

_PROMOTED = sql.SQL("SELECT pg_is_in_recovery()")
"""`f` once a standby has become a primary. A LISTEN would leave an error in the log of a standby."""
_STANDBY = "a standby accepts no LISTEN"
_CLOCK = sql.SQL("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def build(name: str, config: Config) -> "Postgres":
    """A source for `config`; connects to nothing yet."""
    return Postgres(name, config)


class Postgres:
    """A PostgreSQL server. See `tocsin.sources.base.Source`."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._config = config

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        del checked  # the query names the relation at each reading
        config, select = self._config, _select(subject)
        async with connect(config) as wire:
            with translated(config.display):
                async with asyncio.timeout(config.connect_timeout), _transaction(wire, config):
                    columns = await wire.describe(select)
                deaf = await _listen(wire, config)
            readings = _Readings(config, wire, select, columns, last=as_of or 0, deaf=deaf)
            yield Stream(columns, readings.batches)

    async def describe(self, subject: Subject) -> Columns:
        async with asking(self._config, self._config.connect_timeout) as wire, _transaction(wire, self._config):
            return await wire.describe(_select(subject))

    async def sample(self, subject: Subject) -> Row | None:
        limited = sql.SQL("SELECT * FROM ({}) AS sample LIMIT 1").format(_select(subject))
        async with asking(self._config, self._config.snapshot_timeout) as wire, _transaction(wire, self._config):
            rows = await wire.query(limited)
        return rows[0] if rows else None

    async def type_name(self, oid: int) -> str:
        return await named_type(self._config, oid)

    async def verify(self, names: Sequence[str]) -> list[str]:
        """Why nothing that is notified will be received, as sentences: empty if it will be. `names`: of events, which
        this source does not have. `describe` reports a server that does not answer."""
        del names
        if not self._config.notify:
            return []
        try:
            async with asking(self._config, self._config.connect_timeout) as wire:
                deaf = await _listen(wire, self._config)
        except SourceError as error:
            unknown = (SourceReason.CONNECT, SourceReason.AUTH, SourceReason.DISCONNECTED)
            return [] if error.reason in unknown else [str(error)]
        return [deaf] if deaf else []


@contextlib.asynccontextmanager
async def _transaction(wire: Wire, config: Config) -> AsyncIterator[None]:
    """Run what belongs together in one transaction, with the settings: a pooler may give the next one another session,
    in which another client's statement was prepared and other settings are made."""
    await wire.query(config.begin())
    yield
    await wire.query(sql.SQL("COMMIT"))


async def _listen(wire: Wire, config: Config) -> str:
    """Listen to the channels. Returns why nothing will be received; empty if it will. Raises psycopg.Error, and
    SourceError if a second connection is needed and cannot be made."""
    if not config.notify:
        return ""
    try:
        if await shares_sessions(wire, config):
            return _unheard(config, "a pooler passes on NOTIFY only in pool mode session")
        for channel in config.notify:
            await wire.query(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    except psycopg.errors.ReadOnlySqlTransaction:
        return _unheard(config, _STANDBY)
    return ""


def _unheard(config: Config, why: str) -> str:
    return (
        f"{config.display}: {why}, so NOTIFY on {', '.join(config.notify)} is not received and rows are read every"
        f" {config.interval:g} s; connect to the primary itself, or remove notify"
    )


@dataclass(slots=True)
class _Readings:
    """The readings of one query over one connection."""

    config: Config
    wire: Wire
    select: sql.Composable
    columns: Columns
    last: int
    """The timestamp of the last reading."""
    deaf: str
    """Why nothing that is notified will be received; empty if it will."""

    async def batches(self) -> AsyncIterator[Batch]:
        first = True
        while True:
            with translated(self.config.display):
                # The first reading may have to wait for a server that has just started.
                patience = self.config.snapshot_timeout if first else self.config.progress_timeout
                try:
                    async with asyncio.timeout(patience):
                        batch = await self._read(first=first)
                except TimeoutError:
                    raise SourceError(
                        f"no reading within {patience:g} s", SourceReason.STALLED, server=self.config.display
                    ) from None
            first = False
            yield batch
            with translated(self.config.display), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.interval):
                    await self.wire.wait_notified()

    async def _read(self, *, first: bool) -> Batch:
        if _STANDBY in self.deaf and await self.wire.query(_PROMOTED) == [("f",)]:
            self.deaf = await _listen(self.wire, self.config)
        # This reading may miss what is notified from here on, so the next one follows at once.
        self.wire.notified()
        copy = sql.SQL("COPY ({}) TO STDOUT").format(self.select)
        updates: list[Update] = []
        async with _transaction(self.wire, self.config):
            # The clock is read first: the rows are at least as new as the timestamp. It never goes back, whatever it
            # says.
            stamp = max(int((await self.wire.query(_CLOCK))[0][0] or 0), self.last + 1)
            async for chunk in self.wire.copy(copy, limit=self.config.snapshot_timeout):
                updates.extend((stamp, 1, row) for row in fields(chunk))
            # Asked after the rows were read: a change of the columns of those rows is visible now.
            columns = await self.wire.describe(self.select)
        if columns != self.columns:
            raise SourceError(
                "the columns changed; reading again with the new ones", SourceReason.SHAPE, server=self.config.display
            )
        # A pause that is no longer than the one between two readings is not a gap.
        polled = not first or stamp - self.last <= self.config.interval * 1000
        self.last = stamp
        return Batch(updates=updates, frontier=stamp + 1, snapshot=stamp, polled=polled, note=self.deaf)


def _select(subject: Subject) -> sql.Composable:
    if subject.relation is not None:
        return sql.SQL("SELECT * FROM {}").format(relation(subject.relation))
    assert subject.query is not None
    return operators_query(subject.query)
