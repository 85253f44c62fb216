"""Errors of a Kafka source: no broker, no topic, no right."""

import asyncio
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError
from confluent_kafka.admin import AdminClient

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
from support.kafka_events import Reader, numbered, numbers, reading, source
from support.waiting import until, until_some
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.consuming import consumer_thread
from tocsin.sources.kafka.events import KafkaEvents


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


def as_guest(broker: Kafka, topic: str, password: str | None = None, **settings: Any) -> KafkaEvents:
    return source(broker.guarded, topic, connect_timeout="2s", **login(broker, "guest", password), **settings)


async def refusal(of: KafkaEvents, topic: str) -> SourceError:
    """Return the error that ends the reading of a topic."""
    with pytest.raises(SourceError) as caught:
        async with of.open([topic], position={}) as stream:
            await asyncio.wait_for(Reader(stream).run(), 20)
    assert USERS["guest"] not in str(caught.value)
    return caught.value


async def test_missing_group_offsets_end_the_stream(broker: Kafka) -> None:
    topic = new_topic(broker)
    async with source(broker.brokers, topic).open([topic], position={}) as stream:
        stream._config = stream._config.model_copy(update={"connect_timeout": 0.0})  # type: ignore[attr-defined]
        with pytest.raises(SourceError, match=r"(?i)timed out"):
            await asyncio.wait_for(Reader(stream).run(), 20)


async def test_missing_rights_are_named(broker: Kafka) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead")
    produce(broker, topic, [("k", "no JSON")])

    login = await refusal(as_guest(broker, topic, "a-wrong-password"), topic)
    assert login.reason is SourceReason.AUTH
    assert "a-wrong-password" not in str(login)

    assert (await refusal(as_guest(broker, topic), topic)).reason is SourceReason.MISSING

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
