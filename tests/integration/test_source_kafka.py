"""Kafka as a source of events, against a real Kafka: nothing is passed over, whoever dies or comes."""

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewPartitions, TopicPartition

from support.kafka import (
    Kafka,
    committed,
    drop_topic,
    kafka,
    make_topic,
    new_topic,
    produce,
    shared_kafka,
    stored,
)
from support.waiting import until, until_some
from tocsin.channels import kafka as channel_kind
from tocsin.errors import ConfigError, RefusedReason, SourceError, SourceReason
from tocsin.model import Event
from tocsin.sources import EventBatch, EventStream
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.events import KafkaEvents
from tocsin.values import typed

USERS = {"admin": "S3CR3T-and-quite-long", "guest": "S3CR3T-of-the-guest"}


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka to be ill-treated."""
    with kafka(tmp_path, USERS) as made:
        made.start()
        yield made


def source(at: str, group: str, **settings: Any) -> KafkaEvents:
    quick = {"heartbeat.interval.ms": "200"} | settings.pop("librdkafka", {})  # so rebalances are told at once
    values = {"bootstrap_servers": [at], "group": group, "start": "earliest", "librdkafka": quick, **settings}
    made = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(made, KafkaEvents)
    return made


class Reader:
    """Takes in what a stream gives, as the intake does: keeps it, then acknowledges it. `position` is its ledger."""

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

    async def run(self) -> None:
        async for batch in self.stream.batches():
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


async def test_a_record_is_an_event_whose_columns_are_the_fields_of_its_value(broker: Kafka) -> None:
    topic = new_topic(broker)
    document = {"id": 7, "name": "Ann", "total": 12.5, "paid": False, "tags": ["a"], "note": None}
    produce(broker, topic, [("k", json.dumps(document))])
    [record] = stored(broker, topic)
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: reader.events)
    [event] = reader.events
    moment = record.timestamp()[1]
    assert (event.name, event.id, event.at) == (topic, f"{topic}/0/0@{moment}", moment)
    found = {column.name: typed(column, text) for column, text in zip(event.columns, event.row, strict=True)}
    assert found == document


async def test_what_else_a_record_has_becomes_columns_where_that_is_asked_for(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(
        broker,
        topic,
        [("k\N{EURO SIGN}", '{"a": 1}'), (b"\xff", '{"a": 2}')],
        headers={"trace": b"t-1", "raw": b"\xfe"},
    )
    include = ["key", "topic", "partition", "offset", "timestamp", "headers"]
    async with reading(source(broker.brokers, topic, include=include), topic) as reader:
        await until(lambda: len(reader.events) == 2)
    first, second = (
        {column.name: typed(column, text) for column, text in zip(event.columns, event.row, strict=True)}
        for event in reader.events
    )
    stamp = first.pop("_timestamp")
    assert round(stamp.timestamp() * 1000) == reader.events[0].at  # type: ignore[attr-defined]
    assert first == {
        "a": 1,
        "_key": "k\N{EURO SIGN}",
        "_topic": topic,
        "_partition": 0,
        "_offset": 0,
        "_headers": {"trace": "t-1", "raw": "\\xfe"},
    }
    assert second["_key"] == b"\xff"


async def test_it_goes_on_from_the_position_in_the_ledger_whatever_the_group_has_committed(broker: Kafka) -> None:
    topic = new_topic(broker, partitions=2)
    produce(broker, topic, [("k", f'{{"n": {n}}}', n % 2) for n in range(10)])
    at = source(broker.brokers, topic)
    with contextlib.closing(Consumer({"bootstrap.servers": broker.brokers, "group.id": topic})) as group:
        group.commit(offsets=[TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 0)], asynchronous=False)
    async with reading(at, topic, position={f"{topic}/0": 3, f"{topic}/1": 1}) as reader:
        await until(lambda: len(reader.events) == 6)
    assert sorted(reader.ids) == sorted([f"{topic}/0/{n}" for n in (3, 4)] + [f"{topic}/1/{n}" for n in (1, 2, 3, 4)])
    assert reader.position == {f"{topic}/0": 5, f"{topic}/1": 5}
    assert committed(broker, topic, topic, 2) == [5, 5]


async def test_it_goes_on_from_where_the_group_is_if_another_process_took_it_further(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(10)))
    at = source(broker.brokers, topic)
    async with reading(at, topic) as reader:
        await until(lambda: len(reader.events) == 10)
    produce(broker, topic, numbered([10]))
    async with reading(at, topic, position={f"{topic}/0": 4}) as reader:
        await until(lambda: reader.events)
    assert numbers(reader.events) == [10]


async def test_what_was_not_acknowledged_is_delivered_again_with_the_same_ids(broker: Kafka) -> None:
    topic = new_topic(broker)
    at = source(broker.brokers, topic)
    produce(broker, topic, numbered(range(5)))
    async with reading(at, topic) as reader:
        await until(lambda: len(reader.events) == 5)
        reader.acknowledging = False
        produce(broker, topic, numbered(range(5, 10)))
        await until(lambda: len(reader.events) == 10)
    ledger, before = reader.position, reader.ids
    assert committed(broker, topic, topic) == [5]
    async with reading(at, topic, position=ledger) as reader:
        await until(lambda: len(reader.events) == 5)
    assert reader.ids == before[5:]


async def test_a_topic_begun_at_its_end_loses_nothing_that_comes_after_the_start(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    at = source(broker.brokers, topic, start="latest")
    async with reading(at, topic) as reader:
        await until(lambda: reader.position == {f"{topic}/0": 1}, "the start is told, to be kept")
    produce(broker, topic, numbered([2]))
    async with reading(at, topic, position=reader.position) as reader:
        await until(lambda: reader.events)
    assert numbers(reader.events) == [2]


async def test_a_partition_that_is_added_is_read_from_its_beginning(broker: Kafka) -> None:
    topic = new_topic(broker)
    at = source(broker.brokers, topic, start="latest", librdkafka={"topic.metadata.refresh.interval.ms": "200"})
    async with reading(at, topic) as reader:
        await until(lambda: reader.position)
        admin = AdminClient({"bootstrap.servers": broker.brokers})
        [done] = admin.create_partitions([NewPartitions(topic, 2)]).values()
        done.result(timeout=20)
        produce(broker, topic, [("k", '{"n": 1}', 1)])
        await until(lambda: reader.events)
    assert reader.ids == [f"{topic}/1/0"]


@pytest.mark.parametrize("copied", [False, True], ids=["told", "told and copied"])
async def test_a_poison_record_is_refused_with_its_place_and_the_rest_goes_on(broker: Kafka, copied: bool) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead")
    poison: list[tuple[str, bytes | None]] = [
        ("text", b"nothing of the kind"),
        ("list", b"[1]"),
        ("bytes", b"\xff\xfe"),
        ("nan", b'{"a": NaN}'),
        ("surrogate", b'{"a": "\\ud800"}'),
        ("surrogate in a name", b'{"\\udfff": 1}'),
        ("raw surrogate", b'{"a": "\xed\xa0\x80"}'),
        ("digits", b'{"a": ' + b"1" * 5000 + b"}"),
        ("deep within", b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("deep", b"[" * 100_000),
        ("long", json.dumps({"a": "x" * 200_000}).encode()),
        ("none", None),
    ]
    produce(broker, topic, numbered([1]))
    produce(broker, topic, poison, headers={"trace": b"t"})
    produce(broker, topic, numbered([2]))
    settings: dict[str, Any] = {"max_bytes": 150_000} | ({"dead_letters": dead} if copied else {})
    at = source(broker.brokers, topic, **settings)
    async with reading(at, topic) as reader:
        await until(lambda: len(reader.events) == 2)
    refused = [one for batch in reader.batches for one in batch.refused]
    assert [one.id for one in refused] == [f"{topic}/0/{offset}" for offset in range(1, len(poison) + 1)]
    reasons = [one.reason for one in refused]
    assert reasons[:-2] == [RefusedReason.MALFORMED] * (len(poison) - 2)
    assert reasons[-2:] == [RefusedReason.TOO_LARGE, RefusedReason.MISSING]
    assert not any("nothing of the kind" in one.detail for one in refused)
    assert committed(broker, topic, topic) == [len(poison) + 2]
    copies = stored(broker, dead)
    assert [(copy.key(), copy.value()) for copy in copies] == [(k.encode(), v) for k, v in poison if copied]
    if copied:
        assert copies[0].headers() == [
            ("trace", b"t"),
            ("tocsin-source", b"k"),
            ("tocsin-at", f"{topic}/0/1".encode()),
            ("tocsin-reason", b"malformed"),
            ("tocsin-detail", b"it is not JSON: Expecting value at character 0"),
        ]


async def test_a_dead_letter_too_large_for_its_topic_leaves_its_headers_there_and_holds_nothing_up(
    broker: Kafka,
) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead", max_message_bytes="2000")
    produce(broker, topic, [("k", "x" * 5000), ("k", "no"), *numbered([1])])
    async with reading(source(broker.brokers, topic, dead_letters=dead), topic) as reader:
        await until(lambda: reader.events)
    headers = [dict(copy.headers() or []) for copy in stored(broker, dead)]
    assert {f"{topic}/0/0".encode(), f"{topic}/0/1".encode()} == {each["tocsin-at"] for each in headers}
    assert b"left out: too large" in {each.get("tocsin-value") for each in headers}


async def test_dead_letters_that_cannot_be_written_stop_the_source_rather_than_lose_them(broker: Kafka) -> None:
    topic = new_topic(broker)
    with pytest.raises(SourceError, match="no topic nowhere") as caught:
        async with reading(source(broker.brokers, topic, dead_letters="nowhere"), topic):
            pass
    assert caught.value.reason is SourceReason.MISSING
    with pytest.raises(SourceError, match="use two topics"):
        async with reading(source(broker.brokers, topic, dead_letters=topic), topic):
            pass


async def test_records_without_a_value_are_passed_over_where_that_is_wanted(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [("k", None), *numbered([1])])
    async with reading(source(broker.brokers, topic, nulls="skip"), topic) as reader:
        await until(lambda: reader.events)
    assert [one for batch in reader.batches for one in batch.refused] == []


async def test_records_that_were_deleted_before_they_were_read_are_told(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(10)))
    admin = AdminClient({"bootstrap.servers": broker.brokers})
    [done] = admin.delete_records([TopicPartition(topic, 0, 6)]).values()
    done.result(timeout=20)
    async with reading(source(broker.brokers, topic), topic, position={f"{topic}/0": 2}) as reader:
        await until(lambda: len(reader.events) == 4)
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert (gone.id, gone.reason) == (f"{topic}/0/2", RefusedReason.MISSING)
    assert "up to 5 were deleted" in gone.detail
    assert numbers(reader.events) == [6, 7, 8, 9]
    assert reader.position == {f"{topic}/0": 10}


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning_and_told(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    async with reading(source(broker.brokers, topic), topic, position={f"{topic}/0": 7}) as reader:
        await until(lambda: reader.events)
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert "made anew" in gone.detail
    assert (numbers(reader.events), reader.position) == ([1], {f"{topic}/0": 1})
    assert committed(broker, topic, topic) == [1]


async def test_a_time_that_cannot_be_meant_is_not_taken_over(broker: Kafka) -> None:
    topic = new_topic(broker)
    producer = Producer({"bootstrap.servers": broker.brokers, "log_level": 2})
    producer.produce(topic, value='{"n": 1}', timestamp=2**62)
    assert producer.flush(20) == 0
    began = time.time()
    async with reading(source(broker.brokers, topic, include=["timestamp"]), topic) as reader:
        await until(lambda: reader.events)
    assert began - 1 < reader.events[0].at / 1000 < time.time() + 1
    assert reader.events[0].row == ("1", None)


# Groups.


async def test_two_consumers_share_the_partitions_and_nothing_is_passed_over_when_one_comes_and_goes(
    broker: Kafka,
) -> None:
    topic = new_topic(broker, partitions=4)
    at = source(broker.brokers, topic)
    expected, writing = 0, True

    async def write() -> None:
        nonlocal expected
        while writing:
            await asyncio.to_thread(produce, broker, topic, numbered(range(expected, expected + 50)))
            expected += 50

    async with reading(at, topic) as first:
        await until(lambda: len(first.position) == 4)
        writer = asyncio.create_task(write())
        async with reading(at, topic) as second:
            await until(lambda: second.events, "the second has got a share")
            await until(lambda: len(second.events) > 100)
        writing = False
        await writer
        await until(lambda: {*numbers(first.events), *numbers(second.events)} == {*range(expected)})
    # What both have was on its way while the partition changed hands: the same ids, never passed over.
    both = len(first.ids) + len(second.ids) - len({*first.ids, *second.ids})
    assert both < expected
    for reader in (first, second):
        assert len(reader.ids) == len({*reader.ids})
    assert sum(committed(broker, topic, topic, 4)) == expected


async def test_a_batch_acknowledged_after_its_partition_was_taken_away_commits_nothing_for_the_new_owner(
    broker: Kafka,
) -> None:
    topic = new_topic(broker, partitions=2)
    at = source(broker.brokers, topic)
    async with reading(at, topic) as first:
        await until(lambda: len(first.position) == 2)
        first.acknowledging = False
        produce(broker, topic, [("k", f'{{"n": {n}}}', n % 2) for n in range(20)])
        await until(lambda: len(first.events) == 20)
        async with reading(at, topic) as second:
            second.acknowledging = False
            await until(lambda: len(second.events) == 10, "half of it is another's now, from its acknowledged position")
            taken = {event.id.rpartition("/")[0] for event in second.events}
            assert len(taken) == 1
            for batch in first.held:
                await first.acknowledge(batch)
            other = int(next(iter(taken))[-1])
            await until(lambda: committed(broker, topic, topic, 2)[1 - other] == 10)
            assert committed(broker, topic, topic, 2)[other] == 0
        # It comes back: what this ledger has acknowledged is not read again.
        produce(broker, topic, [("k", '{"n": 99}', other)])
        await until(lambda: 99 in numbers(first.events))
    assert len(first.events) == 21


# Faults.


async def test_a_broker_that_dies_ends_the_stream_and_another_goes_on_where_it_stood(own: Kafka) -> None:
    make_topic(own, "t")
    at = source(own.brokers, "g")
    async with at.open(["t"], position={}) as stream:
        reader = Reader(stream)
        task = asyncio.create_task(reader.run())
        produce(own, "t", numbered(range(100)))
        await until(lambda: len(reader.events) == 100)
        own.kill()
        with pytest.raises(SourceError) as caught:
            await asyncio.wait_for(task, 20)
        assert caught.value.reason is SourceReason.DISCONNECTED
    with pytest.raises(SourceError) as caught:
        async with source(own.brokers, "g", connect_timeout="500ms").open(["t"], position={}):
            pass
    assert caught.value.reason is SourceReason.CONNECT
    own.start()
    produce(own, "t", numbered(range(100, 200)))
    async with reading(at, "t", position=reader.position) as again:
        await until(lambda: len(again.events) == 100)
    assert numbers(again.events) == [*range(100, 200)]


async def test_a_topic_that_is_missing_or_deleted_is_told(broker: Kafka) -> None:
    topic = new_topic(broker)
    with pytest.raises(SourceError, match=f"no topic {topic}-not") as caught:
        async with source(broker.brokers, topic).open([topic, f"{topic}-not"], position={}):
            pass
    assert caught.value.reason is SourceReason.MISSING
    at = source(broker.brokers, topic, librdkafka={"topic.metadata.refresh.interval.ms": "200"})
    async with at.open([topic], position={}) as stream:
        task = asyncio.create_task(Reader(stream).run())
        await until_some(lambda: _asked(broker, topic))
        drop_topic(broker, topic)
        with pytest.raises(SourceError, match=topic) as caught:
            await asyncio.wait_for(task, 20)
        assert caught.value.reason is SourceReason.MISSING


async def _asked(broker: Kafka, topic: str) -> bool:
    return committed(broker, topic, topic) == [0]


async def test_a_refused_login_and_a_missing_right_are_told_without_the_password(own: Kafka) -> None:
    make_topic(own, "t")

    async def refusal(user: str, password: str) -> SourceReason:
        login = {"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": password}
        with pytest.raises(SourceError) as caught:
            async with reading(source(own.guarded, "g", connect_timeout="1s", **login), "t") as reader:
                await until(lambda: reader.events)
        assert password not in str(caught.value)
        return caught.value.reason

    assert await refusal("admin", "a-wrong-password") is SourceReason.AUTH
    assert await refusal("guest", USERS["guest"]) is SourceReason.MISSING
    allow(own, "guest", AclOperation.DESCRIBE)
    assert await refusal("guest", USERS["guest"]) is SourceReason.PERMISSION


def allow(broker: Kafka, user: str, operation: AclOperation) -> None:
    """Let a user do something with every topic."""
    kind, pattern = ResourceType.TOPIC, ResourcePatternType.LITERAL
    right = AclBinding(kind, "*", pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
    admin = AdminClient({"bootstrap.servers": broker.brokers})
    [done] = admin.create_acls([right]).values()
    done.result(timeout=20)


async def test_a_broker_that_falls_silent_ends_the_stream(own: Kafka) -> None:
    make_topic(own, "t")
    produce(own, "t", numbered([1]))
    at = source(own.brokers, "g", progress_timeout="2s")
    async with at.open(["t"], position={}) as stream:
        reader = Reader(stream)
        task = asyncio.create_task(reader.run())
        await until(lambda: reader.events)
        own.freeze()
        try:
            with pytest.raises(SourceError) as caught:
                await asyncio.wait_for(task, 30)
        finally:
            own.thaw()
    assert caught.value.reason is SourceReason.DISCONNECTED


async def test_no_call_to_the_library_holds_the_event_loop_while_the_cluster_is_away() -> None:
    at = source("127.0.0.1:1", "g", connect_timeout="1s")
    loop = asyncio.get_running_loop()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    began = loop.time()
    with pytest.raises(SourceError):
        async with at.open(["t"], position={}):
            pass
    counting.cancel()
    assert turns > (loop.time() - began) * 10


# Settings.


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"state": True, "group": "g"}, "group can be said only of events"),
        ({"columns": {"a": "text"}}, "columns can be said only of `state: true`"),
        ({"dead_letters": "a b"}, "no name of a topic"),
        ({"stale_after": "1s"}, "shorter than progress_timeout"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind.Config.model_validate({"bootstrap_servers": ["h:1"], **settings})


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    for name in [
        name for name in sys.modules if re.match(r"tocsin\.(sources|channels)\.kafka\.(events|channel)$", name)
    ]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"sources\.k: .*pip install 'tocsin\[kafka\]'"):
        source("h:1", "g")
    config = channel_kind.Config.model_validate({"type": "kafka", "bootstrap_servers": ["h:1"], "topic": "t"})
    with pytest.raises(ConfigError, match=r"channels\.k: .*pip install 'tocsin\[kafka\]'"):
        channel_kind.build("k", config, {"late": config})


def test_what_it_delivers_depends_on_state() -> None:
    events = kind.Config(bootstrap_servers=["h:1"])
    rows = kind.Config(bootstrap_servers=["h:1"], state=True)
    assert (events.delivers, rows.delivers) == ("events", "rows")
    assert events.subjects == rows.subjects == ("topic",)
