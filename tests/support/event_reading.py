"""Reading a source of events in tests, as the pipeline does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from support.waiting import until
from tocsin.errors import SourceError
from tocsin.model import Event
from tocsin.sources.base import EventBatch, EventSource, EventStream


class Reader:
    """Keeps each batch, then acknowledges it, or with `acknowledging` False only holds it. `position` is its ledger.
    `takes`: the names that have an alert; None for all."""

    def __init__(
        self, stream: EventStream, position: Mapping[str, int] | None = None, takes: set[str] | None = None
    ) -> None:
        self.batches: list[EventBatch] = []
        self.held: list[EventBatch] = []
        self.position = dict(position or {})
        self.acknowledging = True
        self._stream = stream
        self._takes = takes

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def ids(self) -> list[str]:
        """The ids, without the times in those of Kafka."""
        return [event.id.partition("@")[0] for event in self.events]

    @property
    def offsets(self) -> dict[str, int]:
        """The ledger's position, without the topic ids of Kafka."""
        return {place.partition("@")[0]: offset for place, offset in self.position.items()}

    async def run(self) -> None:
        async for batch in self._stream.batches():
            await self._stream.prepare(batch)
            self.batches.append(batch)
            if self.acknowledging:
                await self.acknowledge(batch)
            else:
                self.held.append(batch)

    async def acknowledge(self, batch: EventBatch) -> None:
        self.position |= batch.position
        unmatched = [event for event in batch.events if self._takes is not None and event.name not in self._takes]
        await self._stream.acknowledge(batch, unmatched)

    async def until(self, count: int) -> list[Event]:
        """Wait for so many events."""
        await until(lambda: len(self.events) >= count, f"{count} events")
        return self.events


@asynccontextmanager
async def reading(
    source: EventSource,
    *names: str,
    position: Mapping[str, int] | None = None,
    takes: set[str] | None = None,
    acknowledging: bool = True,
) -> AsyncIterator[Reader]:
    """A running reader. A stream that fails ends it."""
    async with source.open(names, position=position or {}) as stream:
        reader = Reader(stream, position, takes)
        reader.acknowledging = acknowledging
        task = asyncio.create_task(reader.run())
        try:
            yield reader
        except AssertionError as failed:
            if task.done() and not task.cancelled():
                failed.add_note(f"the stream had ended: {task.exception()!r}")
            raise
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SourceError):
                await task
