"""Several consumers of one group share a topic and skip nothing when one joins or leaves."""

import asyncio
import contextlib

from confluent_kafka import Consumer, TopicPartition

from support.event_reading import reading
from support.kafka import (
    Kafka,
    committed,
    new_topic,
    places,
    produce,
)
from support.kafka_events import Cluster, numbered, numbers, source
from support.waiting import until


async def test_two_consumers_share_partitions_and_skip_nothing(cluster: Cluster) -> None:
    broker = cluster.broker
    topic = new_topic(broker, partitions=4)
    at = cluster.source(topic)
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
    # Records that both read were in flight during the rebalance: they have the same ids.
    both = len(first.ids) + len(second.ids) - len({*first.ids, *second.ids})
    assert both < expected
    for reader in (first, second):
        assert len(reader.ids) == len({*reader.ids})
    assert sum(committed(broker, topic, topic, 4)) == expected


async def test_late_acknowledgement_commits_nothing_for_the_new_owner(broker: Kafka) -> None:
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


def commit(broker: Kafka, group: str, topic: str, offset: int, label: str = "") -> None:
    """Commit an offset of the first partition for a group without members."""
    with contextlib.closing(Consumer({"bootstrap.servers": broker.brokers, "group.id": group})) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset, label)], asynchronous=False)


async def test_group_offset_of_recreated_topic_counts(broker: Kafka) -> None:
    topic = new_topic(broker)
    at = source(broker.brokers, topic)
    produce(broker, topic, numbered(range(5)))
    async with reading(at, topic) as first:
        await until(lambda: len(first.events) == 5)
    [label] = [place.metadata for place in places(broker, topic, topic)]
    assert [place.partition("@")[2] for place in first.position] == [label]
    produce(broker, topic, numbered([5]))
    async with reading(at, topic, position={f"{topic}/0@of-another": 7}) as second:
        await until(lambda: second.offsets == {f"{topic}/0": 6})
    assert numbers(second.events) == [5]


async def test_group_offset_of_former_topic_does_not_count(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(5)))
    commit(broker, topic, topic, 3, "of-another")
    # This process starts without a position; then it reads the new topic, and the other one commits for the old one.
    async with reading(source(broker.brokers, topic, start="latest"), topic) as reader:
        await until(lambda: len(reader.events) == 5)
    commit(broker, topic, topic, 9, "of-another")
    produce(broker, topic, numbered([5]))
    async with reading(source(broker.brokers, topic), topic, position=reader.position) as again:
        await until(lambda: again.events)
    assert (numbers(reader.events), numbers(again.events)) == ([0, 1, 2, 3, 4], [5])
