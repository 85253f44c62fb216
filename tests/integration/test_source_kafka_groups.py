"""Several consumers of one group, against a real Kafka: nothing is passed over, whoever comes or goes."""

import asyncio

import pytest

from support.kafka import (
    Kafka,
    committed,
    new_topic,
    produce,
    shared_kafka,
)
from support.kafka_events import numbered, numbers, reading, source
from support.waiting import until


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


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
