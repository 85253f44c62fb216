"""A compacted topic as a relation: the latest value of each key is a row, a tombstone removes it.

The topic is read from its beginning each time, which is the snapshot; later records are changes. There is no group:
every process reads all partitions.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import cast

import structlog
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException, Message, TopicPartition

from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import END_OF_PARTITION, UNKNOWN_TOPIC, Fault, cause
from tocsin.model import Batch, Column, Columns, Row, Update
from tocsin.repeats import Repeats
from tocsin.sources.base import Stream, Subject
from tocsin.sources.documents import Unreadable
from tocsin.sources.kafka.consuming import ConsumerThread, consumer_thread, is_transient
from tocsin.sources.kafka.records import TYPES, Cell, Reader, columns_of, place, row
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

_TICK = 1.0
"""Seconds between requests to the brokers; each answer moves the frontier."""
_LAYOUT_EVERY = 30
"""Ticks between checks whether the topic has the same id and partitions."""
_AHEAD = 1000
"""Milliseconds that timestamps may be ahead of the clock to keep the changes of one key apart."""


class KafkaState:
    """See `tocsin.sources.base.Source`."""

    def __init__(self, name: str, config: Config, *, now: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._now = now

    @asynccontextmanager
    async def open(
        self,
        subject: Subject,
        *,
        as_of: int | None,
        checked: Callable[[str], None] = lambda _: None,  # noqa: ARG002 - a topic is known by its id
    ) -> AsyncIterator[Stream]:
        async with self._read(subject, as_of) as table:
            yield Stream(table.columns, table.batches)

    async def describe(self, subject: Subject) -> Columns:
        async with self._read(subject, None) as table:
            return table.columns

    async def sample(self, subject: Subject) -> Row | None:
        async with self._read(subject, None) as table:
            return table.first()

    @asynccontextmanager
    async def _read(self, subject: Subject, as_of: int | None) -> AsyncIterator["_Table"]:
        assert subject.topic is not None
        config = self._config
        async with consumer_thread(
            self.name, config, {"enable.auto.commit": False, "enable.partition.eof": True}
        ) as consumer:
            table = _Table(self.name, consumer, subject.topic, -1 if as_of is None else as_of, self._now)
            try:
                async with asyncio.timeout(config.snapshot_timeout):
                    await table.read()
            except TimeoutError:
                raise SourceError(
                    f"{config.display}: {subject.topic} is not read to its end within {config.snapshot_timeout:g} s",
                    SourceReason.STALLED,
                ) from None
            yield table


class _Table:
    """The rows of the topic by key. Methods without `async` run in the consumer's thread, except `first`."""

    def __init__(
        self, source: str, consumer: ConsumerThread, topic: str, frontier: int, now: Callable[[], float]
    ) -> None:
        config = consumer.config
        self.columns: Columns = tuple(Column(name=name, oid=TYPES[type_]) for name, type_ in config.columns.items())
        self._source = source
        self._consumer = consumer
        self._config = config
        self._topic = topic
        self._frontier = frontier + 1
        self._now = now
        self._reader = Reader(debezium=config.envelope == "debezium", include=config.include, limit=config.max_bytes)
        self._partitions: list[int] = []
        self._topic_id = ""
        self._rows: dict[bytes, Row] = {}
        self._unreadable = 0
        self._invalid = Repeats(log, "invalid record; its key keeps its row")
        self._named: set[str] = set()
        self._known: set[str] = set()  # the columns, and the fields left out

    def first(self) -> Row | None:
        """Return a row, if there is one."""
        return next(iter(self._rows.values()), None)

    async def read(self) -> None:
        """Read the topic to its end, which defines the columns. Raises SourceError."""
        cells: dict[bytes, dict[str, Cell]] = {}
        topic = (await self._consumer.existing([self._topic]))[self._topic]
        self._topic_id = topic.id
        self._partitions = topic.partitions
        left = await self._consumer.call(self._start)
        while left:
            await self._consumer.call(self._read_on, cells, left)
        self.columns = self.columns or columns_of(cells.values())
        if not self.columns:
            raise SourceError(
                f"{self._config.display}: {self._topic} holds no row, so its columns are unknown; set `columns` in the "
                "source",
                SourceReason.SHAPE,
            )
        self._named = {column.name for column in self.columns}
        self._known = self._named.copy()
        self._rows = {key: self._row(found) for key, found in cells.items()}

    async def batches(self) -> AsyncIterator[Batch]:
        stamp = max(self._clock(), self._frontier)
        self._frontier = stamp + 1
        snapshot = [(stamp, 1, row) for row in self._rows.values()]
        yield Batch(updates=snapshot, frontier=self._frontier, snapshot=stamp, polled=True)
        loop = asyncio.get_running_loop()
        answered, due, ticks = loop.time(), loop.time() + _TICK, 0
        while True:
            if updates := await self._consumer.call(self._changes):
                yield Batch(updates=updates, frontier=self._frontier)
            if loop.time() < due:
                continue
            ticks += 1
            before = self._clock()
            try:
                fault = await self._consumer.call(self._ask)
                if ticks % _LAYOUT_EVERY == 0 or (fault is not None and fault.code() in UNKNOWN_TOPIC):
                    await self._check_layout()
                if fault is not None:
                    raise self._stalled(fault)
            except SourceError as error:
                # A partition has no leader for a moment when a broker is replaced.
                if error.reason is not SourceReason.STALLED or loop.time() - answered > self._config.progress_timeout:
                    raise
                due = loop.time() + _TICK
                continue
            answered, due = loop.time(), loop.time() + _TICK
            self._frontier = max(self._frontier, before)
            yield Batch(updates=(), frontier=self._frontier)

    def _start(self) -> set[int]:
        """Start at the beginning of all partitions, and return them."""
        places = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._partitions]
        self._consumer.consumer.assign(places)
        return set(self._partitions)

    def _read_on(self, cells: dict[bytes, dict[str, Cell]], left: set[int]) -> None:
        for message in self._consumer.records():
            error = message.error()
            if error is not None and error.code() == END_OF_PARTITION:
                left.discard(cast("int", message.partition()))
            for key, found in self._read_one(message):
                if found is None:
                    cells.pop(key, None)
                else:
                    cells[key] = found

    def _changes(self) -> list[Update]:
        """Return the updates of new records. Changes of one key have different timestamps, so that none cancels
        another."""
        updates: list[Update] = []
        clock = self._clock()
        stamp = max(clock, self._frontier)
        touched: set[bytes] = set()
        for message in self._consumer.records():
            for key, found in self._read_one(message):
                old = self._rows.get(key)
                new = None if found is None else self._row(found)
                if old == new:
                    continue
                if key in touched and stamp - clock < _AHEAD:
                    stamp += 1
                    touched.clear()
                touched.add(key)
                if old is not None:
                    updates.append((stamp, -1, old))
                if new is None:
                    del self._rows[key]
                else:
                    updates.append((stamp, 1, new))
                    self._rows[key] = new
        if updates:
            self._frontier = stamp + 1
        return updates

    def _read_one(self, message: Message) -> Iterable[tuple[bytes, dict[str, Cell] | None]]:
        """Yield the key and its row; nothing for errors and invalid records."""
        error = message.error()
        if error is not None:
            if error.code() != END_OF_PARTITION and not is_transient(error):
                raise self._consumer.error(error, self._topic)
            return ()
        try:
            found = self._reader.read(message)
        except Unreadable as why:
            self._unreadable += 1
            about = {"source": self._source, "at": place(message), "reason": why.reason, "detail": why.detail}
            self._invalid.add(**about, so_far=self._unreadable)
            return ()
        return ((cast("bytes", message.key()), found),)

    def _row(self, found: dict[str, Cell]) -> Row:
        if not self._known.issuperset(found):
            if self._known == self._named:
                log.warning(
                    "fields without a column are left out; add them to `columns`, or restart to include them",
                    source=self._source,
                    topic=self._topic,
                    fields=sorted(found.keys() - self._known),
                )
            self._known |= found.keys()
        return row(self.columns, found)

    def _ask(self) -> Fault | None:
        """Ask the brokers about every partition. Returns what is wrong with an answer."""
        ends = [TopicPartition(self._topic, number, OFFSET_END) for number in self._partitions]
        try:
            answers = self._consumer.consumer.offsets_for_times(ends, timeout=self._config.progress_timeout / 2)
        except KafkaException as error:
            if (fault := cause(error)) is None:
                raise
            return fault
        return next((one.error for one in answers if one.error is not None), None)

    def _stalled(self, fault: Fault) -> SourceError:
        text = self._consumer.trouble.reason or self._consumer.redact(fault.str())
        what = f"no answer about all partitions of {self._topic} for {self._config.progress_timeout:g} s"
        return SourceError(f"{what}: {text}", SourceReason.STALLED, server=self._config.display)

    async def _check_layout(self) -> None:
        """Raise SourceError if the topic was deleted or recreated, or a partition was added."""
        found = await self._consumer.checked({self._topic: self._topic_id})
        if found and found[self._topic].partitions != self._partitions:
            text = f"{self._topic} has other partitions now; reading it again"
            raise SourceError(text, SourceReason.REPLACED, server=self._config.display)

    def _clock(self) -> int:
        return int(self._now() * 1000)
