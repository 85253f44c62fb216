"""One subscription to topics of events.

The ledger says where to continue. The group's offsets follow it after each batch, for other processes of the group,
each of which has its own ledger, and for tools that watch the lag.

A topic that is deleted and recreated gives its offsets again, so a position belongs to one topic id: in the ledger it
is `topic/partition@id`, in the group the id is the metadata of the offset. Brokers before Kafka 2.8 give no ids; there
a position is `topic/partition`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tocsin.errors import RefusedReason
from tocsin.kafka import OFFSET_RESET
from tocsin.model import Event
from tocsin.sources.base import EventBatch, Refused
from tocsin.sources.documents import Unreadable
from tocsin.sources.kafka import records
from tocsin.sources.kafka.consuming import ConsumerThread, is_transient
from tocsin.sources.kafka.dead_letters import DeadLetters, Refusal

log = structlog.get_logger(__name__)

Place = tuple[str, int]
"""Topic and partition."""

_CHECK_TOPICS_EVERY = 10.0
"""Seconds. Records read from a recreated topic before the check are read again, and known by their ids."""


def stored(place: Place, ids: Mapping[str, str]) -> str:
    """Return the key of a place in the ledger. `ids`: topic -> id, empty where the brokers give none."""
    id_ = ids.get(place[0], "")
    return f"{place[0]}/{place[1]}" + (f"@{id_}" if id_ else "")


def positions(stored: Mapping[str, int], ids: Mapping[str, str]) -> tuple[dict[Place, int], dict[Place, int]]:
    """Return the ledger's offsets in the topics with these ids; and those reached in former topics of these names,
    where there is none in the current one."""
    current: dict[Place, int] = {}
    former: dict[Place, int] = {}
    # Positions without an id sort first, so that one with an id wins.
    for place, id_, offset in sorted((*_parsed(text), offset) for text, offset in stored.items()):
        # Where only one side has an id, the brokers were upgraded or downgraded: it is taken for the same topic.
        known = ids.get(place[0], "")
        (current if id_ == known or not id_ or not known else former)[place] = offset
    return current, {place: offset for place, offset in former.items() if place not in current}


def _parsed(text: str) -> tuple[Place, str]:
    topic, _, rest = text.partition("/")  # no topic name has a slash
    partition, _, id_ = rest.partition("@")
    return (topic, int(partition)), id_


@dataclass(slots=True)
class _Gathered:
    """The records of one batch."""

    events: list[Event] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    """Records whose copies are not written yet."""
    next: dict[Place, int] = field(default_factory=dict)
    """The next offset of each partition."""


class Stream:
    """The partitions of this consumer, and how far each has been read and acknowledged. See
    `tocsin.sources.base.EventStream`.

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
        """`ids`: the topics to read, and their ids."""
        self._source = source
        self._consumer = consumer
        self._config = consumer.config
        self._ids = ids
        self._now = now
        self._acknowledged, self._former = positions(position, ids)
        self._known = {topic for topic, _ in (*self._acknowledged, *self._former)}
        self._read: dict[Place, int] = {}  # the next offset of each partition that is ours
        self._paused: list[Message] | None = None  # records that arrived while paused; None: not paused
        self._assigned = _Gathered()  # what the next batch reports of partitions that were assigned
        topic = self._config.dead_letters
        self._dead_letters = None if topic is None else DeadLetters(source, topic, consumer)
        self._checking = asyncio.create_task(self._check_topics())

    # On the event loop.

    async def batches(self) -> AsyncIterator[EventBatch]:
        while not self._checking.done():
            gathered = await self._consumer.call(self._gather)
            if gathered.next:
                yield EventBatch(
                    events=gathered.events,
                    refused=gathered.refused,
                    position={stored(place, self._ids): offset for place, offset in gathered.next.items()},
                    receipt=gathered,
                )
        self._checking.result()

    async def prepare(self, batch: EventBatch) -> None:
        assert isinstance(batch.receipt, _Gathered)
        if batch.receipt.refusals and self._dead_letters is not None:
            await self._dead_letters.write(batch.receipt.refusals)

    async def hold(self) -> bool:
        # After `max.poll.interval.ms` without a poll the group takes the partitions away.
        await self._consumer.call(self._pause)
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002 - every topic read has an alert
        assert isinstance(batch.receipt, _Gathered)
        for place, offset in batch.receipt.next.items():
            safe = self._acknowledged[place] = max(offset, self._acknowledged.get(place, 0))
            if place not in self._read:
                continue  # it was taken away: its new consumer commits for it
            try:
                at = TopicPartition(*place, safe, self._ids.get(place[0], ""))
                self._consumer.consumer.store_offsets(offsets=[at])
            except (KafkaException, RuntimeError) as error:
                # Taken away this moment, or closed.
                log.debug("an offset is not committed", source=self._source, partition=place, error=str(error))

    async def close(self) -> None:
        """End the check of topics, and close the producer of dead letters."""
        self._checking.cancel()
        await asyncio.gather(self._checking, return_exceptions=True)
        if self._dead_letters is not None:
            await self._dead_letters.close()

    async def _check_topics(self) -> None:
        """Raise SourceError when a topic was recreated or deleted."""
        while True:
            await asyncio.sleep(_CHECK_TOPICS_EVERY)
            await self._consumer.checked(self._ids)

    # In the consumer's thread: assignment of partitions. The library calls these while it is polled.

    def subscribe(self) -> None:
        """Join the group."""
        self._consumer.consumer.subscribe(
            list(self._ids),
            on_assign=partial(self._consumer.translated, self._assign),
            on_revoke=self._revoke,
            on_lost=self._revoke,
        )

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        by_group = self._committed(consumer, partitions)
        known = self._known | {topic for topic, _ in (*self._acknowledged, *by_group)}
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
            if (former := self._former.pop(place, None)) is not None:
                detail = f"the topic was recreated; reading it from record {one.offset}"
                self._assigned.refused.append(_lost(place, former, detail))
        consumer.incremental_assign(partitions)
        log.debug("partitions assigned", source=self._source, partitions=[str(one) for one in self._read])

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> dict[Place, int | None]:
        """Return the offsets of the group; None where one belongs to a topic that no longer exists. Raises
        KafkaException."""
        found: dict[Place, int | None] = {}
        for one in consumer.committed(partitions, timeout=self._config.connect_timeout):
            if one.error is not None:  # its offset is unknown, which is not the same as none
                raise KafkaException(one.error)
            if one.offset < 0:
                continue
            id_ = self._ids.get(one.topic, "")
            # Without metadata it was not committed by Tocsin: it counts where nothing else is known of the topic.
            unlabelled = not one.metadata and one.topic not in self._known
            found[one.topic, one.partition] = one.offset if one.metadata == id_ or unlabelled or not id_ else None
        return found

    def _revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._read.pop((one.topic, one.partition), None)
            self._assigned.next.pop((one.topic, one.partition), None)
        log.debug("partitions revoked", source=self._source, left=[str(one) for one in self._read])

    # In the consumer's thread: records.

    def _pause(self) -> None:
        """Poll without fetching more records."""
        self._consumer.consumer.pause(self._consumer.consumer.assignment())
        # Partitions that are assigned in this call are not paused yet.
        self._paused = [*(self._paused or ()), *self._consumer.records(0)]

    def _gather(self) -> _Gathered:
        """Return what has arrived since the last call."""
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
