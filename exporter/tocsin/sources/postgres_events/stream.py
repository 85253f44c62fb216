"""An open subscription to a table of events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from psycopg import sql

from tocsin.errors import RefusedReason, SourceError, SourceReason
from tocsin.model import Columns, Event, Row
from tocsin.postgres import BEGIN, name_parts
from tocsin.sources.base import EventBatch, EventStream, Refused, Subject
from tocsin.sources.postgres_events.settings import HANDLED_AS, HANDLED_AT, Config
from tocsin.sources.postgres_events.statements import Outcome, Statements
from tocsin.sources.server_errors import translated
from tocsin.sources.wire import Wire, asking, connect, fields, hears, named_type
from tocsin.values import typed

_ROLLBACK = sql.SQL("ROLLBACK")

_AGAIN_FIRST, _AGAIN_MAX = 0.02, 1.0
"""Seconds before reading again while another process holds events: no NOTIFY comes when it releases them."""

_MOST_GIVEN_BACK = 10_000
"""Unacknowledged events after which a caller gets no more."""


class PostgresEvents:
    """See `tocsin.sources.base.EventSource`."""

    def __init__(self, name: str, config: Config, clock: Callable[[], float] = time.time) -> None:
        """`clock`: the wall clock in seconds, for events without a time of their own."""
        self.name = name
        self._config = config
        self._clock = clock

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        # Every event is read, so that unmatched ones are counted, and the database knows what is pending.
        del names, position
        async with connect(self._config) as wire:
            with translated(self._config.display):
                await self._require_session(wire)
                async with asyncio.timeout(self._config.connect_timeout):
                    statements = await self._prepared(wire)
                    await wire.allow_idling()
                    # Before the first reading: later events are either in it or notified.
                    await wire.query(statements.listen())
            yield _Stream(self.name, self._config, wire, statements, self._clock)

    async def describe(self, subject: Subject) -> Columns:
        """Return the columns of an event. Raises SourceError where the database lacks something."""
        del subject
        async with asking(self._config, self._config.connect_timeout) as wire:
            await self._prepared(wire)
            columns = await wire.describe(Statements(self._config).events())
        return tuple(columns[place] for place in _places(columns))

    async def sample(self, subject: Subject) -> Row | None:
        """Return one event of this name, handled or not."""
        limited = Statements(self._config).one_event(subject.event or "")
        async with asking(self._config, self._config.statement_timeout) as wire:
            with translated(self._config.display, _fixes(self.name, there=False)):
                columns = await wire.describe(limited)
                rows = await wire.query(limited)
        return tuple(rows[0][place] for place in _places(columns)) if rows else None

    async def type_name(self, oid: int) -> str:
        async with asking(self._config, self._config.connect_timeout) as wire:
            return await named_type(wire, oid)

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.base.EventSource`. The table may hold events of any name."""
        del names
        try:
            async with connect(self._config) as wire:
                with translated(self._config.display):
                    await self._require_session(wire)
                    async with asyncio.timeout(self._config.connect_timeout):
                        await self._try(wire)
        except SourceError as error:
            return [str(error)]
        return []

    async def _try(self, wire: Wire) -> None:
        """Plan every statement without running it. Raises SourceError."""
        statements = await self._prepared(wire)
        await wire.query(statements.listen())
        with translated(self._config.display, _fixes(self.name, there=True)):
            for statement in statements.all_that_run():
                await wire.query(sql.SQL("EXPLAIN {}").format(statement))

    async def _require_session(self, wire: Wire) -> None:
        if not await hears(wire, self._config, partial(connect, self._config)):
            raise SourceError(
                "a pooler shares its sessions, but events need one of their own",
                SourceReason.CONNECT,
                server=self._config.display,
                fix="use pool mode session, or connect to the server itself",
            )

    async def _prepared(self, wire: Wire) -> Statements:
        """Return the statements for the table as it is. Raises SourceError if it lacks something."""
        config, statements = self._config, Statements(self._config)
        with translated(config.display, _fixes(self.name, there=False)):
            columns = {column.name: column for column in await wire.describe(statements.events())}
        for setting in ("id", "name", "time", "key"):
            name = getattr(config, setting)
            if name is not None and name not in columns:
                # The owner's columns are not added by the SQL of `tocsin sql`.
                raise self._lacks(f"has no column {name}", f"add it, or name another one with `{setting}`")
        marks = [name for name in (HANDLED_AT, HANDLED_AS) if name not in columns]
        if marks:
            raise self._lacks(f"has no column {' and no column '.join(marks)}", _fix(f"{self.name} --existing"))
        key = columns[config.id]
        named = sql.SQL("SELECT format_type({}, {})").format(key.oid, key.typmod)
        return Statements(config, str((await wire.query(named))[0][0]))

    def _lacks(self, what: str, fix: str) -> SourceError:
        return SourceError(f"{self._config.table} {what}", SourceReason.SHAPE, server=self._config.display, fix=fix)


def _fix(arguments: str) -> str:
    return f"run the SQL that `tocsin sql {arguments}` prints"


def _fixes(source: str, *, there: bool) -> dict[SourceReason, str]:
    """Which SQL to run for an error about the table. `there`: whether the table is known to exist; then that SQL adds
    what it lacks and leaves its rows alone."""
    existing = _fix(f"{source} --existing")
    missing = existing if there else _fix(source)
    return {SourceReason.MISSING: missing, SourceReason.PERMISSION: existing}


@dataclass(frozen=True, slots=True)
class _Receipt:
    """The rows of a batch: id of the row -> id of the event, the ids of refused rows, and whether it is about the rows
    without an id."""

    events: Mapping[str, str]
    refused: Collection[str]
    nameless: bool = False


class _Stream:
    """Batches of one table over one connection. Each has a transaction that locks its rows, which `acknowledge` ends.
    A caller that asks for the next batch instead releases the rows for other processes."""

    def __init__(
        self, source: str, config: Config, wire: Wire, statements: Statements, clock: Callable[[], float]
    ) -> None:
        self._source = source
        self._config = config
        self._wire = wire
        self._statements = statements
        self._clock = clock
        self._table = ".".join(name_parts(config.table))
        self._held: EventBatch | None = None
        self._given_back: list[str] = []
        self._nameless_given_back = False

    async def batches(self) -> AsyncIterator[EventBatch]:
        pause = _AGAIN_FIRST
        while True:
            await self._give_back()
            batch = await self._take()
            if batch is not None:
                pause = _AGAIN_FIRST
                yield batch
            elif await self._others_hold_some():
                await self._wait(min(pause, self._config.poll))
                pause = min(pause * 2, _AGAIN_MAX)
            else:
                pause = _AGAIN_FIRST
                await self._wait(self._config.poll)

    async def prepare(self, batch: EventBatch) -> None:
        """Do nothing: refused events are marked in the table."""

    async def hold(self) -> bool:
        # An open transaction would keep the rows from other processes, the NOTIFY queue of the server from shrinking,
        # and dead rows from VACUUM.
        if self._held is not None:
            self._held = None
            await self._query(_ROLLBACK)
        with translated(self._config.display):
            self._wire.read_notifications()
        return False

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:
        if batch is not self._held:
            raise RuntimeError("a batch must be acknowledged before the next one is requested")
        receipt = batch.receipt
        assert isinstance(receipt, _Receipt)
        unmatched_ids = {event.id for event in unmatched}
        outcomes: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
        for row, event in receipt.events.items():
            outcomes[Outcome.UNMATCHED if event in unmatched_ids else Outcome.TAKEN].append(row)
        outcomes[Outcome.REFUSED] += receipt.refused
        await self._query(self._statements.settle(outcomes, nameless=receipt.nameless))
        self._held = None

    async def _take(self) -> EventBatch | None:
        """Return the next batch, with its transaction open; None if there is none."""
        if len(self._given_back) >= _MOST_GIVEN_BACK:
            return None
        # A NOTIFY from here on may be about events that this reading misses, so it triggers the next one.
        self._wire.notified()
        take = self._statements.take(self._given_back)
        rows: list[Row] = []
        nameless = 0
        async with self._answering():
            await self._wire.query(BEGIN)
            copy = sql.SQL("COPY ({}) TO STDOUT").format(take)
            async for chunk in self._wire.copy(copy, limit=self._config.statement_timeout):
                rows += fields(chunk)
            # In the same transaction, so these are the columns of these rows.
            columns = await self._wire.describe(take) if rows else ()
            if not rows:
                # Last, since they are not in the order of ids.
                if not self._nameless_given_back:
                    nameless = int((await self._wire.query(self._statements.count_nameless()))[0][0] or 0)
                if not nameless:
                    await self._wire.query(_ROLLBACK)
                    return None
        self._held = self._batch(columns, rows) if rows else self._refused(nameless)
        return self._held

    async def _give_back(self) -> None:
        batch, self._held = self._held, None
        if batch is not None:
            assert isinstance(batch.receipt, _Receipt)
            self._given_back += [*batch.receipt.events, *batch.receipt.refused]
            self._nameless_given_back |= batch.receipt.nameless
            await self._query(_ROLLBACK)

    async def _others_hold_some(self) -> bool:
        return bool(await self._query(self._statements.any_pending(self._given_back)))

    async def _wait(self, seconds: float) -> None:
        """Wait for a NOTIFY, at most this long."""
        with translated(self._config.display), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wire.wait_notified()

    async def _query(self, statement: sql.Composable) -> list[Row]:
        async with self._answering():
            return await self._wire.query(statement)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        # The server cancels a slow statement. The longer timeout here is for a server that does not answer at all.
        with translated(self._config.display, _fixes(self._source, there=False)):
            async with asyncio.timeout(self._config.statement_timeout + self._config.connect_timeout):
                yield

    def _refused(self, nameless: int) -> EventBatch:
        one = Refused(id=f"{self._table}/NULL", reason=RefusedReason.MALFORMED, detail=f"its {self._config.id} is NULL")
        return EventBatch(events=[], refused=[one] * nameless, receipt=_Receipt({}, [], nameless=True))

    def _batch(self, columns: Columns, rows: Sequence[Row]) -> EventBatch:
        own = 2 if self._config.key else 1
        found = columns[own:]
        places = _places(found)
        shown = tuple(found[place] for place in places)
        index = {column.name: place for place, column in enumerate(found)}
        name = index[self._config.name]
        when = index[self._config.time] if self._config.time else None
        now = round(self._clock() * 1000)
        events: list[Event] = []
        refused: list[Refused] = []
        taken: dict[str, str] = {}
        bad: list[str] = []
        for whole in rows:
            row_id, row = str(whole[0]), whole[own:]
            event_id = f"{self._table}/{row_id}"
            label = row[name]
            if label is None:
                detail = f"its {self._config.name} is NULL"
                refused.append(Refused(id=event_id, reason=RefusedReason.MALFORMED, detail=detail))
                bad.append(row_id)
                continue
            at = now if when is None else _milliseconds(typed(found[when], row[when]), now)
            events.append(
                Event(name=label, id=event_id, at=at, columns=shown, row=tuple(row[place] for place in places))
            )
            taken[row_id] = event_id
        return EventBatch(events=events, refused=refused, receipt=_Receipt(taken, bad))


def _places(columns: Columns) -> list[int]:
    """Return the places of the columns other than Tocsin's own two."""
    return [place for place, column in enumerate(columns) if column.name not in (HANDLED_AT, HANDLED_AS)]


def _milliseconds(value: object, otherwise: int) -> int:
    if not isinstance(value, datetime):
        return otherwise
    return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
