"""Reading a queue of RabbitMQ as the pipeline does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.rabbitmq import GUEST_PASSWORD, PASSWORD, USER, RabbitMQ
from support.waiting import until
from tocsin.errors import SourceError
from tocsin.model import Event
from tocsin.sources import rabbitmq as kind
from tocsin.sources.base import EventBatch, EventStream
from tocsin.sources.rabbitmq.stream import RabbitMQ as Source
from tocsin.values import reader

ENVELOPE = {"message": {"alertTypes": ["email", "sms"], "message": {"order": 7, "paid": False}}}


def source(broker: RabbitMQ, queue: str, **settings: Any) -> Source:
    """Build a source of a queue."""
    return kind.build("q", config(broker, queue, **settings))


def config(broker: RabbitMQ, queue: str, **settings: Any) -> kind.Config:
    """Return the settings of a source of a queue."""
    given = {
        "host": "127.0.0.1",
        "port": broker.port,
        "user": USER,
        "password": PASSWORD,
        "queue": queue,
        **settings,
    }
    if "url" in given:
        given = {name: value for name, value in given.items() if name not in ("host", "port", "user", "password")}
    return kind.Config.model_validate(given)


class Reader:
    """Reads a stream as the pipeline does: keeps a batch, then acknowledges it. `takes`: the names that have an alert;
    None for all."""

    def __init__(self, stream: EventStream, takes: set[str] | None = None) -> None:
        self.batches: list[EventBatch] = []
        self.acknowledging = True
        self._takes = takes
        self._stream = stream

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    async def run(self) -> None:
        async for batch in self._stream.batches():
            self.batches.append(batch)
            if self.acknowledging:
                await self.acknowledge(batch)

    async def acknowledge(self, batch: EventBatch) -> None:
        unmatched = [event for event in batch.events if self._takes is not None and event.name not in self._takes]
        await self._stream.acknowledge(batch, unmatched)

    async def until(self, count: int) -> list[Event]:
        """Wait for so many events."""
        await until(lambda: len(self.events) >= count, f"{count} events")
        return self.events


@asynccontextmanager
async def reading(
    source: Source, takes: set[str] | None = None, *, acknowledging: bool = True
) -> AsyncIterator[Reader]:
    """A running reader. A stream that fails ends it."""
    async with source.open([], position={}) as stream:
        made = Reader(stream, takes)
        made.acknowledging = acknowledging
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SourceError):
                await task


async def fault(source: Source, takes: set[str] | None = None) -> SourceError:
    """Return the error that ends a stream."""
    with pytest.raises(SourceError) as caught:
        async with asyncio.timeout(30), source.open([], position={}) as stream:
            await Reader(stream, takes).run()
    text = str(caught.value)
    assert PASSWORD not in text
    assert GUEST_PASSWORD not in text
    return caught.value


def rows(events: list[Event]) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, reader(event.columns)(event.row)) for event in events]
