"""Retriable errors of the brokers: a Kafka source repeats the request, and the stream goes on. A real Kafka, whose
answers a test replaces."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from support.kafka import Kafka, new_topic, produce
from support.kafka_events import numbered, numbers, reading, source
from support.waiting import until
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import kafka as kind
from tocsin.sources.base import Subject
from tocsin.sources.kafka.state import KafkaState

RETRIABLE = [5, 6, 7, 14, 15, 16]
"""No leader yet, another leader, too slow; the coordinator loads, is not there yet, is another one."""


def failing(monkeypatch: pytest.MonkeyPatch, method: str, answer: Callable[[int], Any], times: int = 3) -> list[int]:
    """Let a method of the consumer give another answer so many times. Returns the list of its calls."""
    calls: list[int] = []

    def replaced(self: Consumer, *rest: Any, **named: Any) -> Any:
        calls.append(len(calls))
        return answer(len(calls)) if len(calls) <= times else getattr(Consumer, method)(self, *rest, **named)

    altered = type("Altered", (Consumer,), {method: replaced})
    monkeypatch.setattr("tocsin.sources.kafka.consuming.Consumer", altered)
    return calls


def raising(code: int) -> Callable[[int], Any]:
    def answer(_: int) -> Any:
        raise KafkaException(KafkaError(code))

    return answer


@pytest.mark.parametrize("code", RETRIABLE)
@pytest.mark.parametrize("method", ["get_watermark_offsets", "committed", "list_topics"])
async def test_lookup_is_repeated_after_retriable_error(
    broker: Kafka, monkeypatch: pytest.MonkeyPatch, method: str, code: int
) -> None:
    """Every request that follows an assignment of partitions."""
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(3)))
    calls = failing(monkeypatch, method, raising(code))
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 3)
    assert len(calls) > 3


async def test_topic_without_leader_is_asked_for_again(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic itself has the error, as right after its creation."""
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(3)))
    new = SimpleNamespace(topics={topic: SimpleNamespace(partitions={}, error=KafkaError(5))})
    failing(monkeypatch, "list_topics", lambda _: new)
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 3)


async def test_description_of_topic_is_asked_for_again(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to another request, which has the topic's id."""
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(3)))
    real, calls = AdminClient.describe_topics, [0]

    def described(self: AdminClient, *rest: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > 2:
            return real(self, *rest, **named)
        answer: Future[Any] = Future()
        answer.set_exception(KafkaException(KafkaError(5)))
        return {topic: answer}

    monkeypatch.setattr(AdminClient, "describe_topics", described)
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 3)
    assert calls[0] == 3


async def test_unknown_group_offset_is_looked_up_again(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that has read 5 of 10 records; its coordinator still loads when it is asked. With `start: latest` the
    other five would be passed over."""
    topic = new_topic(broker)
    produce(broker, topic, numbered(range(5)))
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 5)
    produce(broker, topic, numbered(range(5, 10)))
    loading = SimpleNamespace(topic=topic, partition=0, offset=-1001, metadata=None, error=KafkaError(14))
    failing(monkeypatch, "committed", lambda _: [loading])
    async with reading(source(broker.brokers, topic, start="latest"), topic) as again:
        await until(lambda: len(again.events) == 5)
    assert numbers(again.events) == [*range(5, 10)]


async def test_lookup_that_fails_for_long_ends_the_stream(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `connect_timeout` the source reports the error, and the pipeline starts it again."""
    topic = new_topic(broker)
    failing(monkeypatch, "get_watermark_offsets", raising(6), times=1000)
    at = source(broker.brokers, topic, connect_timeout="500ms")
    async with at.open([topic], position={}) as stream:
        with pytest.raises(SourceError, match="Not leader for partition") as caught:
            async for _ in stream.batches():
                pass
    assert caught.value.reason is SourceReason.DISCONNECTED


class Instead:
    """A message that has an error."""

    def __init__(self, topic: str, code: int) -> None:
        self._topic = topic
        self._error = KafkaError(code)

    def error(self) -> KafkaError:
        return self._error

    def topic(self) -> str:
        return self._topic


@pytest.mark.parametrize("code", RETRIABLE)
async def test_retriable_error_among_records_is_passed_over(
    broker: Kafka, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The library goes on by itself: of events, and of rows."""
    topic = new_topic(broker)
    produce(broker, topic, [("k", json.dumps({"number": 1}))])
    failing(monkeypatch, "poll", lambda _: Instead(topic, code))
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: len(reader.events) == 1)
    failing(monkeypatch, "poll", lambda _: Instead(topic, code))
    values = {"bootstrap_servers": [broker.brokers], "state": True}
    rows = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(rows, KafkaState)
    assert await rows.sample(Subject(topic=topic)) == ("1",)


async def test_refused_right_among_records_ends_the_stream(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that does not pass by itself is reported."""
    topic = new_topic(broker)
    failing(monkeypatch, "poll", lambda _: Instead(topic, 29))
    async with source(broker.brokers, topic).open([topic], position={}) as stream:
        with pytest.raises(SourceError) as caught:
            async for _ in stream.batches():
                pass
    assert caught.value.reason is SourceReason.PERMISSION


async def test_new_topics_are_read_at_once(broker: Kafka) -> None:
    """Topics of many partitions, each read as soon as its creation is answered."""
    for _ in range(3):
        topic = new_topic(broker, partitions=12)
        async with reading(source(broker.brokers, topic, start="latest"), topic) as reader:
            await until(lambda: len(reader.position) == 12)
            assert {*reader.offsets.values()} == {0}
