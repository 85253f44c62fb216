"""Where a source of Kafka's records begins and goes on, against a real Kafka: nothing is passed over."""

import contextlib

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, TopicPartition

from support.kafka import (
    Kafka,
    committed,
    new_topic,
    produce,
    shared_kafka,
)
from support.kafka_events import numbered, numbers, reading, source
from support.waiting import until
from tocsin.errors import RefusedReason


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


async def test_it_goes_on_from_the_position_in_the_ledger_whatever_the_group_has_committed(broker: Kafka) -> None:
    topic = new_topic(broker, partitions=2)
    produce(broker, topic, [("k", f'{{"n": {n}}}', n % 2) for n in range(10)])
    at = source(broker.brokers, topic)
    with contextlib.closing(Consumer({"bootstrap.servers": broker.brokers, "group.id": topic})) as group:
        group.commit(offsets=[TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 0)], asynchronous=False)
    async with reading(at, topic, position={f"{topic}/0": 3, f"{topic}/1": 1}) as reader:
        await until(lambda: len(reader.events) == 6)
    assert sorted(reader.ids) == sorted([f"{topic}/0/{n}" for n in (3, 4)] + [f"{topic}/1/{n}" for n in (1, 2, 3, 4)])
    assert reader.offsets == {f"{topic}/0": 5, f"{topic}/1": 5}
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
        await until(lambda: reader.offsets == {f"{topic}/0": 1}, "the start is told, to be kept")
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
    assert reader.offsets == {f"{topic}/0": 10}


async def test_what_a_group_has_of_a_topic_that_was_made_anew_is_set_back_and_then_counts_again(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(5)))
    with contextlib.closing(Consumer({"bootstrap.servers": broker.brokers, "group.id": topic})) as group:
        group.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    at = source(broker.brokers, topic)
    async with reading(at, topic, position={f"{topic}/0@of-another": 7}) as reader:
        reader.acknowledging = False
        await until(lambda: len(reader.events) == 5)
    assert committed(broker, topic, topic) == [0]
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert (gone.id, gone.reason) == (f"{topic}/0/7", RefusedReason.MISSING)
    async with reading(at, topic, position=dict(reader.held[0].position)) as reader:
        await until(lambda: reader.offsets == {f"{topic}/0": 5})


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning_and_told(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    async with reading(source(broker.brokers, topic), topic, position={f"{topic}/0": 7}) as reader:
        await until(lambda: reader.events)
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert "made anew" in gone.detail
    assert (numbers(reader.events), reader.offsets) == ([1], {f"{topic}/0": 1})
    assert committed(broker, topic, topic) == [1]
