"""What `check --online` asks the brokers: the rights of the user, and the latest records of a topic. Nothing is changed
there, and no group is joined."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined] # its stubs do not export it

from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import END_OF_PARTITION, GROUP_FORBIDDEN, cause
from tocsin.sources.kafka.consuming import AGAIN, Consuming, Patience, passing

RECORDS = 100
"""Records of one topic that are looked at, of all its partitions together."""
_PARTITIONS = 20
"""Partitions that are looked at; each costs a question."""


async def rights_missing(consumer: Consuming, topics: Mapping[str, str]) -> list[SourceError]:
    """The rights that the user lacks: for each topic the one that is given (`READ`), and READ on the group. Says
    nothing of what the brokers do not answer."""
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


async def _allowed(question: Callable[[], Awaitable[Any]], limit: float) -> tuple[list[AclOperation] | None, bool]:
    """What the user may do with something, None where that is not known; and whether the group itself is refused."""
    patience = Patience(limit)
    while True:
        try:
            async with asyncio.timeout(limit + 1):
                return (await question()).authorized_operations, False
        except (KafkaException, TimeoutError) as error:
            fault = cause(error)
            if not patience.lasts(fault):
                return None, fault is not None and fault.code() == GROUP_FORBIDDEN
        await asyncio.sleep(AGAIN)


async def latest(consumer: Consuming, topic: str) -> list[Message]:
    """The latest records of a topic, the newest last; what has come within `connect_timeout`. Raises SourceError."""
    left = await consumer.call(_begin, consumer, topic)
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
            elif not passing(error):
                raise consumer.failed(error, topic)
    return sorted(found, key=lambda message: message.timestamp()[1])


def _begin(consumer: Consuming, topic: str) -> set[int | None]:
    """Take partitions near their ends; returns those that there is something to read of."""
    partitions = consumer.partitions([topic])[topic][:_PARTITIONS]
    each = max(1, RECORDS // max(1, len(partitions)))
    places = []
    for number in partitions:
        low, high = consumer.ends(topic, number)
        if high > low:
            places.append(TopicPartition(topic, number, max(low, high - each)))
    consumer.consumer.assign(places)
    return {place.partition for place in places}
