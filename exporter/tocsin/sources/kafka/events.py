"""Records as events: one consumer in one group for all the alerts of a source."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Columns, Row
from tocsin.sources.base import EventStream, Subject
from tocsin.sources.documents import Unreadable
from tocsin.sources.kafka import records
from tocsin.sources.kafka.consuming import consumer_thread
from tocsin.sources.kafka.inspection import RECORDS, latest, problems
from tocsin.sources.kafka.records import Cell, columns_of, row
from tocsin.sources.kafka.settings import Config
from tocsin.sources.kafka.stream import Stream


class KafkaEvents:
    """See `tocsin.sources.base.EventSource`. The names of events are topics."""

    described_by = f"the latest records (up to {RECORDS}) of the topic"
    """Where `describe` knows columns from."""

    def __init__(self, name: str, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._now = now

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        classic = self._config.group_protocol == "classic"
        settings = {
            **({"partition.assignment.strategy": "cooperative-sticky"} if classic else {"group.protocol": "consumer"}),
            "enable.auto.commit": True,  # of the offsets that `acknowledge` stores
            "auto.commit.interval.ms": 1000,
            "queued.max.messages.kbytes": 16384,
        }
        async with consumer_thread(self.name, self._config, settings) as consumer:
            found = await consumer.existing(list(self._rights(names)))
            stream = Stream(self.name, consumer, {name: found[name].id for name in names}, position, self._now)
            try:
                await consumer.call(stream.subscribe)
                yield stream
            finally:
                await stream.close()

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.base.EventSource`."""
        try:
            async with consumer_thread(self.name, self._config, {}) as consumer:
                return [str(error) for error in await problems(consumer, self._rights(names))]
        except SourceError as error:
            return [str(error)]

    async def describe(self, subject: Subject) -> Columns | None:
        """Return the columns of the latest records of a topic; None while there is none. Raises SourceError."""
        return columns_of(await self._latest(subject)) or None

    async def sample(self, subject: Subject) -> Row | None:
        """Return the latest record, with NULL for columns that only others of the latest have. Raises SourceError."""
        found = await self._latest(subject)
        return row(columns_of(found), found[-1]) if found else None

    async def _latest(self, subject: Subject) -> list[dict[str, Cell]]:
        """Return the latest valid records of a topic as cells, the newest last."""
        assert subject.topic is not None
        config, found = self._config, []
        settings = {"enable.auto.commit": False, "enable.partition.eof": True}
        async with consumer_thread(self.name, config, settings) as consumer:
            for message in await latest(consumer, subject.topic):
                with contextlib.suppress(Unreadable):
                    event = records.event(message, config.include, config.max_bytes, self._now)
                    cells = zip(event.columns, event.row, strict=True)
                    found.append({column.name: (column.oid, text) for column, text in cells})
        return found

    def _rights(self, names: Sequence[str]) -> dict[str, str]:
        """Return the topics that must exist, with the right that each needs."""
        config = self._config
        if config.dead_letters in names:
            raise SourceError(
                f"an alert reads {config.dead_letters}, which also takes its dead letters; refused records would come "
                "back for ever, so use two topics",
                SourceReason.OTHER,
                server=config.display,
            )
        return dict.fromkeys(names, "READ") | ({config.dead_letters: "WRITE"} if config.dead_letters else {})
