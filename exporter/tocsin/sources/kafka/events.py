"""Records as events: one consumer in one group for all the alerts of a source.

The ledger says where to continue. The group's offsets follow it after each batch, for other processes of the group,
each of which has its own ledger, and for tools that watch the lag. The metadata of an offset is the id of the topic:
the offset of a topic that was deleted and recreated means another record.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tocsin.errors import RefusedReason, SourceError, SourceReason
from tocsin.kafka import OFFSET_RESET
from tocsin.model import Columns, Event, Row
from tocsin.sources.base import EventBatch, EventStream, Refused, Subject
from tocsin.sources.kafka import records
from tocsin.sources.kafka.consuming import ConsumerThread, consumer_thread, is_transient
from tocsin.sources.kafka.dead_letters import DeadLetters, Refusal
from tocsin.sources.kafka.inspection import RECORDS, latest, rights_missing
from tocsin.sources.kafka.positions import Place, positions, stored
from tocsin.sources.kafka.records import Cell, Unreadable, columns_of, row
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

_MAX_POLL = 300_000.0
"""The library's default of `max.poll.interval.ms`."""
_IDLE = 0.3
"""Seconds; longer than one call waits for records, so that a consumer in use is left alone."""
_CHECK_TOPICS_EVERY = 10.0
"""Seconds. Records read from a recreated topic before the check are read again, and known by their ids."""


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
        topics = self._topics(names)
        settings = {
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": True,  # of the offsets that `acknowledge` stores
            "auto.commit.interval.ms": 1000,
            "queued.max.messages.kbytes": 16384,
        }
        async with consumer_thread(self.name, self._config, settings) as consumer:
            await consumer.call(consumer.partitions, topics)
            stream = _Stream(self.name, consumer, await consumer.topic_ids(names), position, self._now)
            tasks = [asyncio.create_task(stream.check_topics()), asyncio.create_task(stream.stay_in_group())]
            try:
                await consumer.call(stream.subscribe, list(names))
                yield stream
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await stream.close()

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.base.EventSource`."""
        try:
            topics = self._topics(names)
            async with consumer_thread(self.name, self._config, {}) as consumer:
                problems = await consumer.call(consumer.missing, topics)
                if not any(error.reason is not SourceReason.MISSING for error in problems):
                    rights = dict.fromkeys(names, "READ")
                    if self._config.dead_letters:
                        rights[self._config.dead_letters] = "WRITE"
                    problems += await rights_missing(consumer, rights)
                return [str(error) for error in problems]
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

    def _topics(self, names: Sequence[str]) -> list[str]:
        """Return the topics that must exist."""
        config = self._config
        if config.dead_letters in names:
            raise SourceError(
                f"{config.display}: an alert reads {config.dead_letters}, which also takes its dead letters; refused "
                "records would come back for ever, so use two topics",
                SourceReason.OTHER,
            )
        return [*names, *([config.dead_letters] if config.dead_letters else ())]


@dataclass(slots=True)
class _Gathered:
    """The records of one batch."""

    events: list[Event] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    next: dict[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Receipt:
    """Where a batch ends: the next offset by partition; and the records whose copies are not written yet."""

    next: Mapping[Place, int]
    refusals: list[Refusal]


class _Stream:
    """The partitions of this consumer, and how far each has been read and acknowledged.

    `subscribe`, `_gather`, `_pause` and what they call run in the consumer's thread, the rest on the event loop.
    """

    def __init__(
        self,
        source: str,
        consumer: ConsumerThread,
        ids: Mapping[str, str],
        position: Mapping[str, int],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._consumer = consumer
        self._config = consumer.config
        self._now = now
        self._known = positions(position, ids)
        self._acknowledged = dict(self._known.current)
        self._read: dict[Place, int] = {}  # the next offset of each partition that is ours
        self._paused: list[Message] | None = None  # records that arrived while paused; None: not paused
        self._polled_at = time.monotonic()
        self._assigned = _Gathered()  # what the next batch reports of partitions that were assigned
        self._ended: SourceError | None = None
        topic = self._config.dead_letters
        self._dead_letters = None if topic is None else DeadLetters(source, topic, consumer)

    # On the event loop.

    async def check_topics(self) -> None:
        """End the stream when a topic was recreated, or when that can no longer be checked."""
        while True:
            await asyncio.sleep(_CHECK_TOPICS_EVERY)
            try:
                for topic in await self._consumer.recreated(self._known.ids):
                    text = f"the topic {topic} was recreated; reading it from the beginning"
                    raise SourceError(f"{self._config.display}: {text}", SourceReason.REPLACED)
            except SourceError as error:
                self._ended = error
                return
            except Exception as error:  # noqa: BLE001 - a task of its own: no one else would see it
                text = self._consumer.redact(f"{type(error).__name__}: {error}")
                self._ended = SourceError(
                    f"{self._config.display}: cannot check whether topics were recreated: {text}", SourceReason.OTHER
                )
                return

    async def stay_in_group(self) -> None:
        """Poll while no batch is requested: after `max.poll.interval.ms` without a poll the group takes the partitions
        away."""
        part = float(self._config.client_settings().get("max.poll.interval.ms", _MAX_POLL)) / 1000 / 5
        try:
            while True:
                await asyncio.sleep(max(0.0, self._polled_at + part - time.monotonic()) + _IDLE)
                if time.monotonic() - self._polled_at >= part:
                    await self._consumer.call(self._pause)
        except SourceError as error:
            self._ended = error

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            if self._ended is not None:
                raise self._ended
            gathered = await self._consumer.call(self._gather)
            if gathered.next:
                yield EventBatch(
                    events=gathered.events,
                    refused=gathered.refused,
                    position={stored(place, self._known.ids): offset for place, offset in gathered.next.items()},
                    receipt=_Receipt(next=gathered.next, refusals=gathered.refusals),
                )

    async def prepare(self, batch: EventBatch) -> None:
        assert isinstance(batch.receipt, _Receipt)
        if batch.receipt.refusals and self._dead_letters is not None:
            await self._dead_letters.write(batch.receipt.refusals)

    async def hold(self) -> bool:
        if self._ended is not None:
            raise self._ended
        await self._consumer.call(self._pause)
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002 - every topic read has an alert
        assert isinstance(batch.receipt, _Receipt)
        for place, offset in batch.receipt.next.items():
            safe = self._acknowledged[place] = max(offset, self._acknowledged.get(place, 0))
            if place not in self._read:
                continue  # it was taken away: its new consumer commits for it
            try:
                self._consumer.consumer.store_offsets(offsets=[self._labelled(place, safe)])
            except (KafkaException, RuntimeError) as error:
                # Taken away this moment, or closed.
                log.debug("an offset is not committed", source=self._source, partition=place, error=str(error))

    async def close(self) -> None:
        """Close the producer of dead letters."""
        if self._dead_letters is not None:
            await self._dead_letters.close()

    # In the consumer's thread: assignment of partitions. The library calls these while it is polled.

    def subscribe(self, topics: list[str]) -> None:
        """Join the group."""
        self._consumer.consumer.subscribe(
            topics,
            on_assign=partial(self._consumer.translated, self._assign),
            on_revoke=self._revoke,
            on_lost=self._revoke,
        )

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        by_group = self._committed(consumer, partitions)
        known = self._known.topics | {topic for topic, _ in (*self._acknowledged, *by_group)}
        for one in partitions:
            place = one.topic, one.partition
            # The group is ahead where another process, with another ledger, had the partition meanwhile.
            offsets = [offset for offset in (self._acknowledged.get(place), by_group.get(place)) if offset is not None]
            if offsets:
                one.offset = max(offsets)
            else:
                low, high = self._consumer.ends(*place)
                # Every record of a partition that was added, or of a recreated topic, came after the start.
                one.offset = low if self._config.start == "earliest" or one.topic in known else high
            self._read[place] = one.offset
            if self._acknowledged.get(place) != one.offset:
                self._assigned.next[place] = one.offset
            if (former := self._known.former.pop(place, None)) is not None:
                detail = f"the topic was recreated; reading it from record {one.offset}"
                self._assigned.refused.append(_lost(place, former, detail))
        consumer.incremental_assign(partitions)
        log.debug("partitions assigned", source=self._source, partitions=[str(one) for one in self._read])

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> dict[Place, int | None]:
        """Return the offsets of the group; None where one belongs to a topic that no longer exists. Raises
        KafkaException."""

        def answer() -> list[TopicPartition]:
            found = consumer.committed(partitions, timeout=self._config.connect_timeout)
            for one in found:
                if one.error is not None:  # its offset is unknown, which is not the same as none
                    raise KafkaException(one.error)
            return found

        found: dict[Place, int | None] = {}
        for one in self._consumer.retried(answer):
            if one.offset < 0:
                continue
            id_ = self._known.ids.get(one.topic, "")
            # Without metadata it was not committed by Tocsin: it counts where nothing else is known of the topic.
            unlabelled = not one.metadata and one.topic not in self._known.topics
            found[one.topic, one.partition] = one.offset if one.metadata == id_ or unlabelled or not id_ else None
        return found

    def _labelled(self, place: Place, offset: int) -> TopicPartition:
        return TopicPartition(*place, offset, self._known.ids.get(place[0], ""))

    def _revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._read.pop((one.topic, one.partition), None)
            self._assigned.next.pop((one.topic, one.partition), None)
        log.debug("partitions revoked", source=self._source, left=[str(one) for one in self._read])

    # In the consumer's thread: records.

    def _pause(self) -> None:
        """Poll without fetching more records."""
        self._polled_at = time.monotonic()
        self._consumer.consumer.pause(self._consumer.consumer.assignment())
        # Partitions that are assigned in this call are not paused yet.
        self._paused = [*(self._paused or ()), *self._consumer.records(0)]

    def _gather(self) -> _Gathered:
        """Return what has arrived since the last call."""
        self._polled_at = time.monotonic()
        found, self._paused = self._paused, None
        if found is not None:
            self._consumer.consumer.resume(self._consumer.consumer.assignment())
        found = [*(found or ()), *self._consumer.records()]
        gathered, self._assigned = self._assigned, _Gathered()
        for message in found:
            if (error := message.error()) is None:
                self._add(message, gathered)
            elif error.code() == OFFSET_RESET:
                self._reset(message, gathered)
            elif not is_transient(error):
                raise self._consumer.error(error, message.topic() or "")
        return gathered

    def _add(self, message: Message, gathered: _Gathered) -> None:
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if offset < self._read.get(place, offset + 1):
            return  # of a partition that was taken away, or assigned again
        self._read[place] = gathered.next[place] = offset + 1
        if message.value() is None and self._config.nulls == "skip":
            return
        try:
            gathered.events.append(records.event(message, self._config.include, self._config.max_bytes, self._now))
        except Unreadable as why:
            gathered.refused.append(Refused(id=records.place(message), reason=why.reason, detail=why.detail))
            gathered.refusals.append((message, why))

    def _reset(self, message: Message, gathered: _Gathered) -> None:
        """Continue at the first record: the next one was deleted, or the topic recreated where brokers give no ids."""
        place = message.topic() or "", message.partition() or 0
        if (expected := self._read.get(place)) is None:
            return
        low, _ = self._consumer.ends(*place)
        # A seek is refused in this state.
        self._consumer.consumer.incremental_unassign([TopicPartition(*place)])
        self._consumer.consumer.incremental_assign([TopicPartition(*place, low)])
        self._acknowledged.pop(place, None)
        self._read[place] = gathered.next[place] = low
        detail = f"the records up to {low - 1} were deleted before they were read"
        if expected >= low:
            detail = f"the topic was recreated; reading it from record {low}"
        gathered.refused.append(_lost(place, expected, detail))


def _lost(place: Place, offset: int, detail: str) -> Refused:
    return Refused(id=f"{place[0]}/{place[1]}/{offset}", reason=RefusedReason.MISSING, detail=detail)
