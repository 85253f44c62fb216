"""Errors of a Kafka source: no broker, no topic, no right."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError
from confluent_kafka.admin import AdminClient

from support.kafka import (
    Kafka,
    allow,
    committed,
    drop_topic,
    kafka,
    make_topic,
    new_topic,
    produce,
    shared_kafka,
    stored,
)
from support.kafka_events import Reader, numbered, numbers, reading, source
from support.waiting import until, until_some
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.consuming import consumer_thread
from tocsin.sources.kafka.events import KafkaEvents

USERS = {"admin": "S3CR3T-and-quite-long", "guest": "S3CR3T-of-the-guest"}


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka that a test may break."""
    with kafka(tmp_path, USERS) as made:
        made.start()
        yield made


async def test_reading_continues_after_a_broker_died(own: Kafka) -> None:
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


async def test_missing_or_deleted_topic_is_reported(broker: Kafka) -> None:
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


async def test_failing_topic_check_ends_the_stream(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = new_topic(broker)
    monkeypatch.setattr("tocsin.sources.kafka.events._CHECK_TOPICS_EVERY", 0.1)
    for error in (ValueError("odd words"), LookupError("odd words")):

        def odd(*_: object, _error: Exception = error, **__: object) -> None:
            raise _error

        async with source(broker.brokers, topic).open([topic], position={}) as stream:
            task = asyncio.create_task(Reader(stream).run())
            await until_some(lambda: _asked(broker, topic))
            with monkeypatch.context() as broken:
                broken.setattr(AdminClient, "describe_topics", odd)
                with pytest.raises(SourceError, match="odd words") as caught:
                    await asyncio.wait_for(task, 20)
        assert caught.value.reason is SourceReason.OTHER


async def _asked(broker: Kafka, topic: str) -> bool:
    return committed(broker, topic, topic) == [0]


def as_guest(own: Kafka, password: str = USERS["guest"], **settings: Any) -> KafkaEvents:
    login = {"sasl_mechanism": "PLAIN", "sasl_username": "guest", "sasl_password": password}
    return source(own.guarded, "g", connect_timeout="2s", **login, **settings)


async def refusal(of: KafkaEvents) -> SourceError:
    """Return the error that ends the reading of the topic `t`."""
    with pytest.raises(SourceError) as caught:
        async with of.open(["t"], position={}) as stream:
            await asyncio.wait_for(Reader(stream).run(), 20)
    assert USERS["guest"] not in str(caught.value)
    return caught.value


async def test_missing_group_offsets_end_the_stream(broker: Kafka) -> None:
    topic = new_topic(broker)
    async with source(broker.brokers, topic).open([topic], position={}) as stream:
        stream._config = stream._config.model_copy(update={"connect_timeout": 0.0})  # type: ignore[attr-defined]
        with pytest.raises(SourceError, match=r"(?i)timed out"):
            await asyncio.wait_for(Reader(stream).run(), 20)


async def test_missing_rights_are_named(own: Kafka) -> None:
    make_topic(own, "t")
    produce(own, "t", [("k", "no JSON")])

    login = await refusal(as_guest(own, "a-wrong-password"))
    assert login.reason is SourceReason.AUTH
    assert "a-wrong-password" not in str(login)

    assert (await refusal(as_guest(own))).reason is SourceReason.MISSING

    allow(own, "guest", "DESCRIBE")
    group = await refusal(as_guest(own))
    assert group.reason is SourceReason.PERMISSION
    assert str(group).endswith("Group authorization failed; give the user the right to READ on the group g")

    allow(own, "guest", "READ", "g", of="GROUP")
    topic = await refusal(as_guest(own))
    assert topic.reason is SourceReason.PERMISSION
    assert "Topic authorization failed; give the user the right to READ and DESCRIBE on the topic t" in str(topic)

    allow(own, "guest", "READ")
    make_topic(own, "dead")
    letters = await refusal(as_guest(own, dead_letters="dead"))
    assert letters.reason is SourceReason.PERMISSION
    assert "dead letters cannot be written" in str(letters)
    assert str(letters).endswith("give the user the right to WRITE on the topic dead")

    allow(own, "guest", "WRITE", "dead")
    async with reading(as_guest(own, dead_letters="dead"), "t") as reader:
        await until(lambda: reader.batches and reader.offsets == {"t/0": 1})
    assert len(stored(own, "dead")) == 1


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (29, SourceReason.PERMISSION, "give the user the right to READ and DESCRIBE on its topics"),
        (30, SourceReason.PERMISSION, "give the user the right to READ on the group g"),
        (58, SourceReason.AUTH, ""),
    ],
    ids=["topic", "group", "login"],
)
async def test_refusal_reported_beside_records_is_classified(
    broker: Kafka, code: int, reason: SourceReason, text: str
) -> None:
    topic = new_topic(broker)
    async with consumer_thread("k", kind.Config(bootstrap_servers=[broker.brokers], group="g"), {}) as consumer:
        await consumer.call(consumer.partitions, [topic])
        consumer.trouble.report(KafkaError(code, "so the broker says"))
        with pytest.raises(SourceError, match="so the broker says") as caught:
            await consumer.call(consumer.records)
    assert caught.value.reason is reason
    assert str(caught.value).endswith(text)


async def test_verify_lists_topics_in_one_request(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Counting(Consumer):
        def list_topics(self, *rest: Any, **named: Any) -> Any:
            asked.append(rest)
            return super().list_topics(*rest, **named)

    monkeypatch.setattr("tocsin.sources.kafka.consuming.Consumer", Counting)
    topics = [new_topic(broker) for _ in range(3)]
    text = await source(broker.brokers, "g", dead_letters="nowhere").verify([*topics, f"{topics[0]}-not"])
    at = f"Kafka at {broker.brokers}"
    assert text == [
        f"{at}: there is no topic {name}, or the user may not see it" for name in (f"{topics[0]}-not", "nowhere")
    ]
    assert len(asked) == 1


async def test_silent_broker_ends_the_stream(own: Kafka) -> None:
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
