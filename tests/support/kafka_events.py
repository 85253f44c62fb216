"""Kafka as a source of events for tests: a source, and a reader of its streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tocsin.model import Event
from tocsin.sources import kafka as kind
from tocsin.sources.base import EventBatch, EventStream
from tocsin.sources.kafka.events import KafkaEvents


def source(at: str, group: str, **settings: Any) -> KafkaEvents:
    quick = {"heartbeat.interval.ms": "200"} | settings.pop("librdkafka", {})  # so that rebalances are noticed at once
    values = {"bootstrap_servers": [at], "group": group, "start": "earliest", "librdkafka": quick, **settings}
    made = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(made, KafkaEvents)
    return made


class Reader:
    """Reads a stream as the pipeline does: stores a batch, then acknowledges it. `position` is its ledger."""

    def __init__(self, stream: EventStream, position: Mapping[str, int] | None = None) -> None:
        self.stream = stream
        self.batches: list[EventBatch] = []
        self.position = dict(position or {})
        self.held: list[EventBatch] = []
        self.acknowledging = True

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def ids(self) -> list[str]:
        return [event.id.partition("@")[0] for event in self.events]

    @property
    def offsets(self) -> dict[str, int]:
        """The ledger's position, without the topic ids."""
        return {place.partition("@")[0]: offset for place, offset in self.position.items()}

    async def run(self) -> None:
        async for batch in self.stream.batches():
            await self.stream.prepare(batch)
            self.batches.append(batch)
            if self.acknowledging:
                await self.acknowledge(batch)
            else:
                self.held.append(batch)

    async def acknowledge(self, batch: EventBatch) -> None:
        self.position |= batch.position
        await self.stream.acknowledge(batch, [])


@asynccontextmanager
async def reading(of: KafkaEvents, *topics: str, position: Mapping[str, int] | None = None) -> AsyncIterator[Reader]:
    async with of.open(topics, position=position or {}) as stream:
        reader = Reader(stream, position)
        task = asyncio.create_task(reader.run())
        try:
            yield reader
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def numbered(numbers: Iterable[int]) -> list[tuple[str, str]]:
    return [(f"key-{number}", json.dumps({"number": number})) for number in numbers]


def numbers(events: Iterable[Event]) -> list[int]:
    return [int(event.row[0] or "") for event in events]
