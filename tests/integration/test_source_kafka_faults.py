"""What a source of Kafka's records tells when it cannot read: no broker, no topic, no right; against a real Kafka."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

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
)
from support.kafka_events import Reader, numbered, numbers, reading, source
from support.waiting import until, until_some
from tocsin.errors import SourceError, SourceReason

USERS = {"admin": "S3CR3T-and-quite-long", "guest": "S3CR3T-of-the-guest"}


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka to be ill-treated."""
    with kafka(tmp_path, USERS) as made:
        made.start()
        yield made


async def test_a_broker_that_dies_ends_the_stream_and_another_goes_on_where_it_stood(own: Kafka) -> None:
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


async def test_a_topic_that_is_missing_or_deleted_is_told(broker: Kafka) -> None:
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


async def _asked(broker: Kafka, topic: str) -> bool:
    return committed(broker, topic, topic) == [0]


async def test_a_refused_login_and_a_missing_right_are_told_without_the_password(own: Kafka) -> None:
    make_topic(own, "t")

    async def refusal(user: str, password: str) -> SourceReason:
        login = {"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": password}
        with pytest.raises(SourceError) as caught:
            async with reading(source(own.guarded, "g", connect_timeout="1s", **login), "t") as reader:
                await until(lambda: reader.events)
        assert password not in str(caught.value)
        return caught.value.reason

    assert await refusal("admin", "a-wrong-password") is SourceReason.AUTH
    assert await refusal("guest", USERS["guest"]) is SourceReason.MISSING
    allow(own, "guest", "DESCRIBE")
    assert await refusal("guest", USERS["guest"]) is SourceReason.PERMISSION


async def test_a_broker_that_falls_silent_ends_the_stream(own: Kafka) -> None:
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


async def test_no_call_to_the_library_holds_the_event_loop_while_the_cluster_is_away() -> None:
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
