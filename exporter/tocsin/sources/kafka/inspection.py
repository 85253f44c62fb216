"""Requests of `check --online` and `doctor`: the rights of the user, how long topics keep records, and the latest
records of a topic. They change nothing and join no group."""

import asyncio
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs do not export them
    AclOperation,
    ConfigResource,
)

from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import END_OF_PARTITION, GROUP_FORBIDDEN, cause
from tocsin.sources.kafka.consuming import ConsumerThread, is_transient

RECORDS = 100
"""Records read from one topic, over all its partitions."""
_PARTITIONS = 20
"""Partitions that are read; each costs a request."""


async def problems(consumer: ConsumerThread, topics: Mapping[str, str]) -> list[SourceError]:
    """Return errors about topics that do not exist, and about missing rights: the one named for each topic, and READ on
    the group. Skips what the brokers do not answer."""
    found = []
    for topic, one in (await consumer.describe(list(topics), rights=True)).items():
        if isinstance(one, SourceError):
            found.append(one)
        elif one.allowed is not None and AclOperation[topics[topic]] not in one.allowed:
            found.append(_lacks(consumer, f"{topics[topic]} on the topic {topic}"))
    if await _group_is_refused(consumer):
        found.append(_lacks(consumer, f"READ on the group {consumer.config.group}"))
    return found


def _lacks(consumer: ConsumerThread, right: str) -> SourceError:
    return SourceError(f"give the user the right to {right}", SourceReason.PERMISSION, server=consumer.config.display)


async def _group_is_refused(consumer: ConsumerThread) -> bool:
    config = consumer.config
    [answer] = (
        consumer.admin()
        .describe_consumer_groups(
            [config.group], include_authorized_operations=True, request_timeout=config.connect_timeout
        )
        .values()
    )
    try:
        async with asyncio.timeout(config.connect_timeout + 1):
            allowed = (await asyncio.wrap_future(answer)).authorized_operations
    except (KafkaException, TimeoutError) as error:
        fault = cause(error)
        return fault is not None and fault.code() == GROUP_FORBIDDEN
    return allowed is not None and AclOperation.READ not in allowed


async def kept(consumer: ConsumerThread, topics: Iterable[str]) -> dict[str, tuple[str, int] | str]:
    """Return `cleanup.policy` and `retention.ms` of topics, or why they cannot be known."""
    asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    answers = consumer.admin().describe_configs(asked, request_timeout=consumer.config.connect_timeout)
    found: dict[str, tuple[str, int] | str] = {}
    for resource, answer in answers.items():
        try:
            values = await asyncio.wrap_future(answer)
            found[resource.name] = values["cleanup.policy"].value, int(values["retention.ms"].value)
        except KafkaException as error:  # the user may lack the right to ask
            fault = cause(error)
            why = error if fault is None else consumer.error(fault, resource.name, "DESCRIBE_CONFIGS")
            found[resource.name] = str(why)
    return found


async def latest(consumer: ConsumerThread, topic: str) -> list[Message]:
    """Return the latest records of a topic, the newest last, as far as they arrive within `connect_timeout`. Raises
    SourceError."""
    partitions = (await consumer.existing([topic]))[topic].partitions
    left = await consumer.call(_start, consumer, topic, partitions[:_PARTITIONS])
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


def _start(consumer: ConsumerThread, topic: str, partitions: list[int]) -> set[int | None]:
    """Start near the ends of the partitions; returns those that hold a record."""
    each = max(1, RECORDS // max(1, len(partitions)))
    places = []
    for number in partitions:
        low, high = consumer.ends(topic, number)
        if high > low:
            places.append(TopicPartition(topic, number, max(low, high - each)))
    consumer.consumer.assign(places)
    return {place.partition for place in places}
