"""Requests of `check --online`: the rights of the user, and the latest records of a topic. They change nothing and join
no group."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined] # its stubs do not export it

from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import END_OF_PARTITION, GROUP_FORBIDDEN, cause
from tocsin.sources.kafka.consuming import RETRY_AFTER, ConsumerThread, Deadline, is_transient

RECORDS = 100
"""Records read from one topic, over all its partitions."""
_PARTITIONS = 20
"""Partitions that are read; each costs a request."""


async def rights_missing(consumer: ConsumerThread, topics: Mapping[str, str]) -> list[SourceError]:
    """Return errors about missing rights: the one named for each topic, and READ on the group. Skips what the brokers
    do not answer."""
    admin, limit = consumer.admin(), consumer.config.connect_timeout

    def described(topic: str) -> Awaitable[Any]:
        collection = TopicCollection([topic])
        [answer] = admin.describe_topics(collection, include_authorized_operations=True, request_timeout=limit).values()
        return asyncio.wrap_future(answer)

    def group() -> Awaitable[Any]:
        [answer] = admin.describe_consumer_groups(
            [consumer.config.group], include_authorized_operations=True, request_timeout=limit
        ).values()
        return asyncio.wrap_future(answer)

    missing = []
    for topic, right in topics.items():
        allowed, _ = await _allowed(lambda topic=topic: described(topic), limit)  # type: ignore[misc]
        if allowed is not None and AclOperation[right] not in allowed:
            text = f"{consumer.config.display}: {topic}: give the user the right to {right} on the topic {topic}"
            missing.append(SourceError(text, SourceReason.PERMISSION))
    allowed, refused = await _allowed(group, limit)
    if refused or (allowed is not None and AclOperation.READ not in allowed):
        name = consumer.config.group
        text = f"{consumer.config.display}: give the user the right to READ on the group {name}"
        missing.append(SourceError(text, SourceReason.PERMISSION))
    return missing


async def _allowed(request: Callable[[], Awaitable[Any]], limit: float) -> tuple[list[AclOperation] | None, bool]:
    """Return what the user may do with something, None where that is unknown; and whether the group is refused."""
    deadline = Deadline(limit)
    while True:
        try:
            async with asyncio.timeout(limit + 1):
                return (await request()).authorized_operations, False
        except (KafkaException, TimeoutError) as error:
            fault = cause(error)
            if not deadline.allows(fault):
                return None, fault is not None and fault.code() == GROUP_FORBIDDEN
        await asyncio.sleep(RETRY_AFTER)


async def latest(consumer: ConsumerThread, topic: str) -> list[Message]:
    """Return the latest records of a topic, the newest last, as far as they arrive within `connect_timeout`. Raises
    SourceError."""
    left = await consumer.call(_start, consumer, topic)
    found: list[Message] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + consumer.config.connect_timeout
    while left and loop.time() < end:
        for message in await consumer.call(consumer.records):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == END_OF_PARTITION:
                left.discard(message.partition())
            elif not is_transient(error):
                raise consumer.error(error, topic)
    return sorted(found, key=lambda message: message.timestamp()[1])


def _start(consumer: ConsumerThread, topic: str) -> set[int | None]:
    """Start near the ends of the partitions; returns those that hold a record."""
    partitions = consumer.partitions([topic])[topic][:_PARTITIONS]
    each = max(1, RECORDS // max(1, len(partitions)))
    places = []
    for number in partitions:
        low, high = consumer.ends(topic, number)
        if high > low:
            places.append(TopicPartition(topic, number, max(low, high - each)))
    consumer.consumer.assign(places)
    return {place.partition for place in places}
