"""Where a Kafka source starts and continues: it skips nothing."""

import contextlib

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, TopicPartition

from support.event_reading import reading
from support.kafka import (
    Kafka,
    committed,
    new_topic,
    produce,
)
from support.kafka_events import numbered, numbers, source
from support.waiting import until
from tocsin.errors import RefusedReason


async def test_ledger_position_wins_over_a_smaller_group_offset(broker: Kafka) -> None:
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


async def test_larger_group_offset_of_another_process_wins(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(10)))
    at = source(broker.brokers, topic)
    async with reading(at, topic) as reader:
        await until(lambda: len(reader.events) == 10)
    produce(broker, topic, numbered([10]))
    async with reading(at, topic, position={f"{topic}/0": 4}) as reader:
        await until(lambda: reader.events)
    assert numbers(reader.events) == [10]


async def test_unacknowledged_records_come_again_with_same_ids(broker: Kafka) -> None:
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


async def test_start_at_end_is_stored_without_loss(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    at = source(broker.brokers, topic, start="latest")
    async with reading(at, topic) as reader:
        await until(lambda: reader.offsets == {f"{topic}/0": 1}, "the position of the start")
    produce(broker, topic, numbered([2]))
    async with reading(at, topic, position=reader.position) as reader:
        await until(lambda: reader.events)
    assert numbers(reader.events) == [2]


async def test_added_partition_is_read_from_the_beginning(broker: Kafka) -> None:
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


async def test_records_deleted_before_reading_are_reported(broker: Kafka) -> None:
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


async def test_unlabelled_group_offset_of_recreated_topic_is_ignored(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(5)))
    with contextlib.closing(Consumer({"bootstrap.servers": broker.brokers, "group.id": topic})) as group:
        group.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    at = source(broker.brokers, topic)
    async with reading(at, topic, position={f"{topic}/0@of-another": 7}) as reader:
        reader.acknowledging = False
        await until(lambda: len(reader.events) == 5)
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert (gone.id, gone.reason) == (f"{topic}/0/7", RefusedReason.MISSING)
    async with reading(at, topic, position=dict(reader.held[0].position)) as reader:
        await until(lambda: reader.offsets == {f"{topic}/0": 5})


async def test_position_beyond_the_end_restarts_the_topic(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    async with reading(source(broker.brokers, topic), topic, position={f"{topic}/0": 7}) as reader:
        await until(lambda: reader.events)
    [gone] = [one for batch in reader.batches for one in batch.refused]
    assert "recreated" in gone.detail
    assert (numbers(reader.events), reader.offsets) == ([1], {f"{topic}/0": 1})
    assert committed(broker, topic, topic) == [1]
