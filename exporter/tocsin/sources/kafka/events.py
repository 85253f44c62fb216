"""Records as events: one consumer in one group for all the alerts of a source.

Where to go on from is the ledger's to say; the group's offsets follow it, after each batch is acknowledged, for those
who watch the lag and for other processes of the group, each of which has a ledger of its own. With each offset goes the
id of the topic, as its metadata: an offset alone does not tell of which topic of that name it is.
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

from tocsin.errors import DeadLetterError, RefusedReason, SourceError, SourceReason
from tocsin.kafka import ENDED, FINAL, OFFSET_RESET, TOO_LARGE, Fault
from tocsin.kafka.producing import Headers, Record, Writer
from tocsin.model import Columns, Event, Row
from tocsin.repeats import Repeats
from tocsin.sources.base import EventBatch, EventStream, Refused, Subject
from tocsin.sources.kafka import records
from tocsin.sources.kafka.asking import RECORDS, latest, rights_missing
from tocsin.sources.kafka.consuming import Consuming, consuming, passing
from tocsin.sources.kafka.positions import Place, positions, written
from tocsin.sources.kafka.records import Cell, Unreadable, columns_of, row
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

_WRITABLE = 100_000_000
"""Bytes that the copy of a refused record may have here; the brokers have their own limit."""

_MAX_POLL = 300_000.0
"""The library's own `max.poll.interval.ms`."""
_WAIT = 0.3
"""Seconds; more than a consumer waits for records, so that one which is asked all the time is left alone."""

_SAME_EVERY = 10.0
"""Seconds between looks at whether the topics are still the same ones. What was read of a topic as if it were the one
before it is read again and known by its ids, so this is no matter of loss."""


class KafkaEvents:
    """See `tocsin.sources.EventSource`. The names of events are topics."""

    described_by = f"the latest records (up to {RECORDS}) of the topic"
    """What `describe` knows columns from."""

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
        async with consuming(self.name, self._config, settings) as consumer:
            await consumer.call(consumer.partitions, topics)
            identities = await consumer.identities(names)
            stream = _Subscription(self.name, consumer, identities, position, self._now)
            watching = [asyncio.create_task(stream.watch()), asyncio.create_task(stream.stay())]
            try:
                await consumer.call(stream.subscribe, list(names))
                yield stream
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.wait(watching)
                await stream.close()

    async def verify(self, names: Sequence[str]) -> list[str]:
        """See `tocsin.sources.EventSource`."""
        try:
            topics = self._topics(names)
            async with consuming(self.name, self._config, {}) as consumer:
                problems = await consumer.call(consumer.lacking, topics)
                if not any(error.reason is not SourceReason.MISSING for error in problems):
                    rights = dict.fromkeys(names, "READ")
                    if self._config.dead_letters:
                        rights[self._config.dead_letters] = "WRITE"
                    problems += await rights_missing(consumer, rights)
                return [str(error) for error in problems]
        except SourceError as error:
            return [str(error)]

    async def describe(self, subject: Subject) -> Columns | None:
        """The columns of the latest records of a topic; None while there is none. Raises SourceError."""
        return columns_of(await self._latest(subject)) or None

    async def sample(self, subject: Subject) -> Row | None:
        """The latest record, with NULL for what only others of the latest ones have. Raises SourceError."""
        found = await self._latest(subject)
        return row(columns_of(found), found[-1]) if found else None

    async def _latest(self, subject: Subject) -> list[dict[str, Cell]]:
        """The latest records of a topic as cells, the newest last, without those that are no events."""
        assert subject.topic is not None
        config, found = self._config, []
        async with consuming(
            self.name, config, {"enable.auto.commit": False, "enable.partition.eof": True}
        ) as consumer:
            for message in await latest(consumer, subject.topic):
                with contextlib.suppress(Unreadable):
                    event = records.event(message, config.include, config.max_bytes, self._now)
                    cells = zip(event.columns, event.row, strict=True)
                    found.append({column.name: (column.oid, text) for column, text in cells})
        return found

    def _topics(self, names: Sequence[str]) -> list[str]:
        """The topics that have to be there."""
        config = self._config
        if config.dead_letters in names:
            raise SourceError(
                f"{config.display}: {config.dead_letters} is read by an alert and takes the dead letters of it; "
                "a refused record would come back for ever, so use two topics",
                SourceReason.OTHER,
            )
        return [*names, *([config.dead_letters] if config.dead_letters else ())]


@dataclass(slots=True)
class _Gathered:
    """What becomes of the records of one turn."""

    events: list[Event] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    spoiled: list[tuple[Message, Unreadable]] = field(default_factory=list)
    next: dict[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Receipt:
    """Where a batch ends: the offset that comes next, by partition, with the life of the partition; and the records
    whose copies are not written yet."""

    next: Mapping[Place, tuple[int, int]]
    spoiled: list[tuple[Message, Unreadable]]


class _Subscription:
    """The partitions that are this consumer's now, and how far each has been read and acknowledged.

    `subscribe`, `_gather` and what they call run in the consumer's thread, the rest on the event loop.
    """

    def __init__(
        self,
        source: str,
        consumer: Consuming,
        identities: Mapping[str, str],
        position: Mapping[str, int],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._consumer = consumer
        self._config = consumer.config
        self._now = now
        known = positions(position, identities)
        self._identities, self._topics, self._anew = known.identities, known.topics, known.anew
        self._safe, self._former = known.safe, known.former
        self._read: dict[Place, int] = {}  # of the partitions that are ours: the offset that comes next
        self._holding = False  # the partitions are paused
        self._asked_at = time.monotonic()  # when records were asked for
        self._paused: list[Message] = []  # what came while nothing more was asked for
        self._begun = _Gathered()  # what the next turn has to tell of partitions that became ours
        self._lives: dict[Place, int] = {}  # how often a partition began anew, so that its offsets mean other records
        self._copies: Writer | None = None
        self._unwritten = Repeats(log, "a dead letter is not written")
        self._ended: SourceError | None = None

    async def watch(self) -> None:
        """Look from time to time whether a topic was made anew, and let `batches` end then, or when that cannot be
        known any more."""
        try:
            await self._watch()
        except SourceError as error:
            self._ended = error
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            text = self._consumer.words(f"{type(error).__name__}: {error}")
            self._ended = SourceError(
                f"{self._config.display}: whether its topics are still the same cannot be known: {text}",
                SourceReason.OTHER,
            )

    async def stay(self) -> None:
        """Stay in the group while no batch is asked for: a member that does not poll for `max.poll.interval.ms` loses
        its partitions, and has to join again."""
        part = float(self._config.client_settings().get("max.poll.interval.ms", _MAX_POLL)) / 1000 / 5
        try:
            while True:
                await asyncio.sleep(max(0.0, self._asked_at + part - time.monotonic()) + _WAIT)
                if time.monotonic() - self._asked_at >= part:
                    await self._consumer.call(self._pause)
        except SourceError as error:
            self._ended = error

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SAME_EVERY)
            for topic in await self._consumer.anew(self._identities):
                raise SourceError(
                    f"{self._config.display}: the topic {topic} was made anew; reading it from its beginning",
                    SourceReason.REPLACED,
                )

    def subscribe(self, topics: list[str]) -> None:
        """Join the group."""
        self._consumer.consumer.subscribe(
            topics,
            on_assign=partial(self._consumer.translated, self._assigned),
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            if self._ended is not None:
                raise self._ended
            gathered = await self._consumer.call(self._gather)
            if gathered is None:
                continue
            yield EventBatch(
                events=gathered.events,
                refused=gathered.refused,
                position={written(place, self._identities): offset for place, offset in gathered.next.items()},
                receipt=_Receipt(
                    next={place: (self._lives.get(place, 0), offset) for place, offset in gathered.next.items()},
                    spoiled=gathered.spoiled,
                ),
            )

    async def prepare(self, batch: EventBatch) -> None:
        assert isinstance(batch.receipt, _Receipt)
        if batch.receipt.spoiled and self._config.dead_letters is not None:
            await self._copy(batch.receipt.spoiled, self._config.dead_letters)

    async def hold(self) -> bool:
        if self._ended is not None:
            raise self._ended
        await self._consumer.call(self._pause)
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002 - only topics of alerts are read
        assert isinstance(batch.receipt, _Receipt)
        for place, (life, offset) in batch.receipt.next.items():
            if life != self._lives.get(place, 0):
                continue
            safe = self._safe[place] = max(offset, self._safe.get(place, 0))
            self._anew.discard(place[0])
            if place not in self._read:
                continue  # it was taken from us: whoever has it now commits for it
            try:
                self._consumer.consumer.store_offsets(offsets=[self._labelled(place, safe)])
            except (KafkaException, RuntimeError) as error:
                # Taken from us this moment, or closed.
                log.debug("an offset is not committed", source=self._source, partition=place, error=str(error))

    async def close(self) -> None:
        """Let go of the producer of copies."""
        if self._copies is not None:
            await self._consumer.call(self._copies.close)

    # Which partitions are ours. The library calls these while it is asked for records.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = self._topics | {topic for topic, _ in self._safe}
        by_group: dict[Place, int] = {}
        stale: set[Place] = set()
        for one in self._consumer.asked(partial(self._committed, consumer, partitions)):
            place = one.topic, one.partition
            if one.offset < 0:
                continue
            identity = self._identities.get(one.topic, "")
            ours = identity != "" and one.metadata == identity
            if identity and one.metadata and not ours:
                known.add(one.topic)  # the one before it: whoever committed for that has yet to learn of the new one
                continue
            if not ours and one.topic in self._anew and place not in self._safe:
                stale.add(place)  # it may be of the topic before
                continue
            by_group[place] = one.offset
            known.add(one.topic)
        for one in partitions:
            place = one.topic, one.partition
            # The group is ahead where another process, with another ledger, had the partition meanwhile.
            told = [offset for offset in (self._safe.get(place), by_group.get(place)) if offset is not None]
            if told:
                one.offset = max(told)
            else:
                low, high = self._consumer.ends(*place)
                # A partition that was added to a topic is read whole: what is in it came after the start.
                one.offset = low if self._config.start == "earliest" or one.topic in known else high
            self._read[place] = one.offset
            if self._safe.get(place) != one.offset:
                self._begun.next[place] = one.offset
            if (before := self._former.pop(place, None)) is not None:
                self._begun.refused.append(_gone(place, before, _ANEW.format(one.offset)))
        if stale:
            # Before the ledger knows the new topic: from then on, what the group has counts again.
            back = [self._labelled(place, self._read[place]) for place in stale]
            self._consumer.asked(partial(consumer.commit, offsets=back, asynchronous=False))
        consumer.incremental_assign(partitions)
        log.debug("partitions assigned", source=self._source, partitions=[str(one) for one in self._read])

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """The offsets of the group. Raises KafkaException: a partition with an error has an offset that is not known,
        which is not the same as none."""
        found = consumer.committed(partitions, timeout=self._config.connect_timeout)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return found

    def _labelled(self, place: Place, offset: int) -> TopicPartition:
        return TopicPartition(*place, offset, self._identities.get(place[0], ""))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._read.pop((one.topic, one.partition), None)
            self._begun.next.pop((one.topic, one.partition), None)
        log.debug("partitions revoked", source=self._source, left=[str(one) for one in self._read])

    # Records.

    def _pause(self) -> None:
        """Stay in the group without taking more records: a member that does not poll loses its partitions."""
        self._holding, self._asked_at = True, time.monotonic()
        self._consumer.consumer.pause(self._consumer.consumer.assignment())
        # A partition that comes to us in this call is not paused yet.
        self._paused += self._consumer.records(0)

    def _gather(self) -> _Gathered | None:
        """What has come since the last time; None for nothing."""
        self._asked_at = time.monotonic()
        if self._holding:
            self._holding = False
            self._consumer.consumer.resume(self._consumer.consumer.assignment())
        found, self._paused = [*self._paused, *self._consumer.records()], []
        gathered, self._begun = self._begun, _Gathered()
        for message in found:
            if (error := message.error()) is None:
                self._take(message, gathered)
            elif error.code() == OFFSET_RESET:
                self._begin_anew(message, gathered)
            elif not passing(error):
                raise self._consumer.failed(error, message.topic() or "")
        return gathered if gathered.next else None

    def _take(self, message: Message, gathered: _Gathered) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        place = topic, partition
        if offset < self._read.get(place, offset + 1):
            return  # of a partition that is no longer ours, or was given back to us
        self._read[place] = gathered.next[place] = offset + 1
        if message.value() is None and self._config.nulls == "skip":
            return
        try:
            gathered.events.append(records.event(message, self._config.include, self._config.max_bytes, self._now))
        except Unreadable as why:
            gathered.refused.append(records.refused(message, why))
            gathered.spoiled.append((message, why))

    def _begin_anew(self, message: Message, gathered: _Gathered) -> None:
        """The next record is not there: it was deleted before it was read, or the topic was made anew."""
        place = message.topic() or "", message.partition() or 0
        if (expected := self._read.get(place)) is None:
            return
        low, _ = self._consumer.ends(*place)
        # A seek is refused in this state.
        self._consumer.consumer.incremental_unassign([TopicPartition(*place)])
        self._consumer.consumer.incremental_assign([TopicPartition(*place, low)])
        self._lives[place] = self._lives.get(place, 0) + 1
        self._safe.pop(place, None)
        self._read[place] = gathered.next[place] = low
        detail = f"the records up to {low - 1} were deleted before they were read"
        if expected >= low:
            detail = _ANEW.format(low)
        gathered.refused.append(_gone(place, expected, detail))

    # Copies of what was refused.

    async def _copy(self, spoiled: list[tuple[Message, Unreadable]], topic: str) -> None:
        """Write copies of records, and take those that are written out of the list. Raises DeadLetterError."""
        if self._copies is None:
            limit = {"message.max.bytes": _WRITABLE, "message.timeout.ms": round(self._config.connect_timeout * 1000)}
            settings = {**self._config.client_settings(), **limit}
            self._copies = Writer(settings, self._consumer.words, source=self._source)
        copies = [_copied(message, why, topic, self._source) for message, why in spoiled]
        faults = await self._copies.write(copies)
        # Where a whole is too large the beginning of it is lost, but not the news of it.
        large = [number for number, fault in enumerate(faults) if fault is not None and fault.code() in TOO_LARGE]
        cut = [Record(topic=topic, key=None, value=None, headers=_ours(copies[number].headers)) for number in large]
        for number, fault in zip(large, await self._copies.write(cut), strict=True):
            faults[number] = fault
        failed = None
        left = []
        for one, fault in zip(spoiled, faults, strict=True):
            if fault is None:
                continue
            if fault.code() not in FINAL and fault.code() not in TOO_LARGE:
                left.append(one)
                failed = failed or fault
                continue
            said = self._consumer.words(fault.str())
            self._unwritten.add(topic, source=self._source, topic=topic, error=said)
        # The next try writes only those.
        spoiled[:] = left
        if failed is not None:
            raise await self._uncopied(failed, topic)

    async def _uncopied(self, fault: Fault, topic: str) -> DeadLetterError:
        copies = self._copies
        fatal = copies.trouble.fatal if copies is not None else None
        if copies is not None and fatal is not None:
            # The library sends nothing with this producer any more.
            self._copies = None
            await self._consumer.call(copies.close)
        error = self._consumer.failed(
            fatal if fatal is not None and fault.code() in ENDED else fault, topic, right="WRITE"
        )
        return DeadLetterError(f"dead letters cannot be written: {error}", error.reason)


_ANEW = "the topic was made anew after the record before this one was read; reading it from record {}"


def _gone(place: Place, offset: int, detail: str) -> Refused:
    return Refused(id=f"{place[0]}/{place[1]}/{offset}", reason=RefusedReason.MISSING, detail=detail)


def _copied(message: Message, why: Unreadable, topic: str, source: str) -> Record:
    told: Headers = [
        ("tocsin-source", source),
        ("tocsin-at", records.place(message)),
        ("tocsin-reason", why.reason.value),
        ("tocsin-detail", why.detail),
    ]
    headers = message.headers() or []
    theirs = headers.items() if isinstance(headers, dict) else headers
    return Record(topic=topic, key=message.key(), value=message.value(), headers=[*theirs, *told])


def _ours(headers: Headers) -> Headers:
    return [*headers[-4:], ("tocsin-value", "left out: too large")]
