"""Errors of a Kafka source: no broker, no topic, no right."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from support.event_reading import Reader, reading
from support.kafka import (
    USERS,
    Kafka,
    allow,
    breaks_kafka,
    committed,
    drop_topic,
    login,
    new_topic,
    produce,
    stored,
)
from support.kafka_events import Cluster, numbered, numbers, source
from support.waiting import until, until_some
from tocsin.errors import SourceError, SourceReason
from tocsin.sources.kafka.events import KafkaEvents


class Instead:
    """A message that has an error."""

    def __init__(self, code: int) -> None:
        self._error = KafkaError(code)

    def error(self) -> KafkaError:
        return self._error

    def topic(self) -> str:
        return "t"


def answered(monkeypatch: pytest.MonkeyPatch, method: str, answer: object) -> None:
    """Let a method of the consumer have another answer the first time."""
    answers = [answer]

    def replaced(self: Consumer, *rest: Any, **named: Any) -> Any:
        first = answers.pop() if answers else getattr(Consumer, method)(self, *rest, **named)
        if isinstance(first, Exception):
            raise first
        return first

    altered = type("Altered", (Consumer,), {method: replaced})
    monkeypatch.setattr("tocsin.sources.kafka.consuming.Consumer", altered)


@breaks_kafka
async def test_reading_continues_after_a_broker_died(own: Kafka) -> None:
    topic = new_topic(own)
    at = source(own.brokers, topic)
    async with at.open([topic], position={}) as stream:
        reader = Reader(stream)
        task = asyncio.create_task(reader.run())
        produce(own, topic, numbered(range(100)))
        await until(lambda: len(reader.events) == 100)
        own.kill()
        with pytest.raises(SourceError) as caught:
            await asyncio.wait_for(task, 20)
        assert caught.value.reason is SourceReason.DISCONNECTED
    with pytest.raises(SourceError) as caught:
        async with source(own.brokers, topic, connect_timeout="500ms").open([topic], position={}):
            pass
    assert caught.value.reason is SourceReason.CONNECT
    own.start()
    produce(own, topic, numbered(range(100, 200)))
    async with reading(at, topic, position=reader.position) as again:
        await until(lambda: len(again.events) == 100)
    assert numbers(again.events) == [*range(100, 200)]


async def test_missing_or_deleted_topic_is_reported(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.sources.kafka.stream._CHECK_TOPICS_EVERY", 0.2)
    broker, topic = cluster.broker, new_topic(cluster.broker)
    with pytest.raises(SourceError, match=f"no topic {topic}-not") as caught:
        async with cluster.source(topic).open([topic, f"{topic}-not"], position={}):
            pass
    assert caught.value.reason is SourceReason.MISSING
    async with cluster.source(topic).open([topic], position={}) as stream:
        task = asyncio.create_task(Reader(stream).run())
        await until_some(lambda: _asked(broker, topic))
        drop_topic(broker, topic)
        with pytest.raises(SourceError, match=topic) as caught:
            await asyncio.wait_for(task, 20)
        assert caught.value.reason is SourceReason.MISSING


async def _asked(broker: Kafka, topic: str) -> bool:
    return committed(broker, topic, topic) == [0]


def as_guest(broker: Kafka, topic: str, password: str | None = None, **settings: Any) -> KafkaEvents:
    return source(broker.guarded, topic, connect_timeout="2s", **login(broker, "guest", password), **settings)


async def refusal(of: KafkaEvents, topic: str) -> SourceError:
    """Return the error that ends the reading of a topic."""
    with pytest.raises(SourceError) as caught:
        async with of.open([topic], position={}) as stream:
            await asyncio.wait_for(Reader(stream).run(), 20)
    assert USERS["guest"] not in str(caught.value)
    return caught.value


async def test_missing_rights_are_named(broker: Kafka) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead")
    produce(broker, topic, [("k", "no JSON")])

    login = await refusal(as_guest(broker, topic, "a-wrong-password"), topic)
    assert login.reason is SourceReason.AUTH
    assert "a-wrong-password" not in str(login)

    unseen = await refusal(as_guest(broker, topic), topic)
    assert unseen.reason is SourceReason.PERMISSION
    assert str(unseen).endswith(f"give the user the right to READ and DESCRIBE on the topic {topic}")

    allow(broker, "guest", "DESCRIBE", topic)
    of_group = await refusal(as_guest(broker, topic), topic)
    assert of_group.reason is SourceReason.PERMISSION
    assert str(of_group).endswith(f"Group authorization failed; give the user the right to READ on the group {topic}")

    allow(broker, "guest", "READ", topic, of="GROUP")
    of_topic = await refusal(as_guest(broker, topic), topic)
    assert of_topic.reason is SourceReason.PERMISSION
    assert f"authorization failed; give the user the right to READ and DESCRIBE on the topic {topic}" in str(of_topic)

    allow(broker, "guest", "READ", topic)
    allow(broker, "guest", "DESCRIBE", dead)
    of_letters = await refusal(as_guest(broker, topic, dead_letters=dead), topic)
    assert of_letters.reason is SourceReason.PERMISSION
    assert "dead letters cannot be written" in str(of_letters)
    assert str(of_letters).endswith(f"give the user the right to WRITE on the topic {dead}")

    allow(broker, "guest", "WRITE", dead)
    async with reading(as_guest(broker, topic, dead_letters=dead), topic) as reader:
        await until(lambda: reader.batches and reader.offsets == {f"{topic}/0": 1})
    assert len(stored(broker, dead)) == 1


@pytest.mark.parametrize("code", [5, 14, -147], ids=["no leader", "no coordinator", "polled too late"])
async def test_fault_that_passes_among_records_is_passed_over(
    broker: Kafka, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The library goes on by itself."""
    topic = new_topic(broker)
    produce(broker, topic, numbered([1]))
    answered(monkeypatch, "poll", Instead(code))
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 1)


@pytest.mark.parametrize(
    ("method", "answer", "reason"),
    [
        ("poll", Instead(29), SourceReason.PERMISSION),
        ("poll", Instead(3), SourceReason.MISSING),
        ("committed", KafkaException(KafkaError(16)), SourceReason.DISCONNECTED),
        ("committed", [SimpleNamespace(offset=-1001, error=KafkaError(14))], SourceReason.DISCONNECTED),
        ("get_watermark_offsets", KafkaException(KafkaError(6)), SourceReason.DISCONNECTED),
    ],
)
async def test_other_fault_ends_the_stream(
    broker: Kafka, monkeypatch: pytest.MonkeyPatch, method: str, answer: object, reason: SourceReason
) -> None:
    """No record is skipped because an offset is unknown: the pipeline subscribes again."""
    topic = new_topic(broker)
    answered(monkeypatch, method, answer)
    async with source(broker.brokers, topic, start="latest").open([topic], position={}) as stream:
        with pytest.raises(SourceError) as caught:
            await asyncio.wait_for(Reader(stream).run(), 20)
    assert caught.value.reason is reason


@breaks_kafka
async def test_silent_broker_ends_the_stream(own: Kafka) -> None:
    topic = new_topic(own)
    produce(own, topic, numbered([1]))
    at = source(own.brokers, topic, progress_timeout="2s")
    async with at.open([topic], position={}) as stream:
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


async def test_unreachable_cluster_does_not_block_the_loop() -> None:
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
