"""An events table in PostgreSQL, and a worker that reads it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from support.postgres import Database
from support.waiting import SOON, until_some
from tocsin.model import Event
from tocsin.sources import postgres_events as kind
from tocsin.sources.base import EventBatch, EventStream

INSERT = "INSERT INTO events (name, data) SELECT 'order', jsonb_build_object('n', n) FROM generate_series(1, %s) AS n"
"""Insert N events."""


def source(database: Database, **given: Any) -> kind.PostgresEvents:
    """A source on a test's database. It polls once an hour, so an earlier event came by NOTIFY."""
    return kind.build("shop", settings(database, **given))


def settings(database: Database, **given: Any) -> kind.Config:
    quick = {"poll": "1h", "connect_timeout": "5s", "statement_timeout": "15s"}
    return kind.Config.model_validate({"dsn": database.dsn, **quick, **given})


async def made(database: Database, **given: Any) -> None:
    """Create the table that such a source reads, with the SQL that it prints."""
    await database.run(kind.new_table(settings(database, **given)))


async def handled(database: Database) -> dict[int, str | None]:
    """Row id -> result."""
    return dict(await database.run("SELECT id, handled_as FROM events ORDER BY id"))


async def until_waiting(database: Database) -> None:
    """Wait until a worker found nothing and waits for a NOTIFY."""
    last = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tocsin' AND datname = current_database()"
    await until_some(lambda: database.run(f"{last} AND state = 'idle' AND query LIKE 'SELECT 1 FROM %'"), "waiting")


class Taking:
    """One open stream. `events`: those acknowledged so far; `unmatched`: names without an alert."""

    def __init__(self, stream: EventStream, batches: AsyncIterator[EventBatch], unmatched: Iterable[str]) -> None:
        self.stream = stream
        self.events: list[Event] = []
        self.batches: list[EventBatch] = []
        self._coming = batches
        self._unmatched = {*unmatched}

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def ids(self) -> list[int]:
        """The ids of the rows."""
        return [int(event.id.rpartition("/")[2]) for event in self.events]

    async def next(self) -> EventBatch:
        """The next batch, not yet acknowledged."""
        async with asyncio.timeout(SOON):
            return await anext(self._coming)

    async def acknowledge(self, batch: EventBatch) -> None:
        await self.stream.acknowledge(batch, [event for event in batch.events if event.name in self._unmatched])
        self.batches.append(batch)
        self.events += batch.events

    async def take(self) -> EventBatch:
        """The next batch, acknowledged."""
        batch = await self.next()
        await self.acknowledge(batch)
        return batch

    async def until(self, count: int) -> None:
        """Read until there are so many events."""
        while len(self.events) < count:
            await self.take()


@asynccontextmanager
async def taking(of: kind.PostgresEvents, unmatched: Iterable[str] = ()) -> AsyncIterator[Taking]:
    async with of.open([], position={}) as stream:
        batches = cast("AsyncGenerator[EventBatch]", stream.batches())
        async with aclosing(batches):
            yield Taking(stream, batches, unmatched)


def value(event: Event, column: str) -> str | None:
    """The text in one column of an event."""
    return {each.name: text for each, text in zip(event.columns, event.row, strict=True)}[column]
