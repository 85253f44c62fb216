"""The Kafka channel creates its topics, and says what prevents that."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from structlog.testing import capture_logs

from support.clock import Clock
from support.kafka import (
    Kafka,
    allow,
    drop_topic,
    login,
    new_topic,
    shared_kafka,
)
from support.kafka_channel import NOWHERE, channel, delivered, values
from support.messages import message
from support.sending import sent
from support.waiting import until_some
from tocsin.channels.base import Delivered, Retry
from tocsin.errors import Reason

# Topics.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The topics of each request to create some."""
    requests: list[list[str]] = []
    create = AdminClient.create_topics

    def counted(self: AdminClient, new: list[NewTopic], **rest: Any) -> dict[str, Future[None]]:
        requests.append([one.topic for one in new])
        return create(self, new, **rest)

    monkeypatch.setattr(AdminClient, "create_topics", counted)
    return requests


async def test_missing_topic_is_created_and_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is deleted meanwhile. The client for that is closed in a thread, which may take a while."""
    closed_in: list[threading.Thread] = []
    close = AdminClient.__exit__

    def closing(self: AdminClient, *error: Any) -> Any:
        closed_in.append(threading.current_thread())
        return close(self, *error)

    monkeypatch.setattr(AdminClient, "__exit__", closing)
    broker = shared_kafka()
    name = new_topic(broker) + "-made"
    async with channel(broker.brokers, topic=name, create=True, state=True, timeout="2s") as to:
        assert await until_some(lambda: delivered(to, "before"))
        assert await to.verify() == []
        drop_topic(broker, name)
        assert await until_some(lambda: delivered(to, "after"))
        assert await sent(to, message(key="later")) == Delivered()
    assert [value["row"]["order_id"] for value in values(broker, name)] == ["after", "later"]
    assert closed_in
    assert threading.main_thread() not in closed_in


async def test_refused_topic_is_requested_once_a_minute(broker: Kafka, asked: list[list[str]]) -> None:
    clock = Clock()
    for operation in ("WRITE", "DESCRIBE"):
        allow(broker, "guest", operation, "mine")
    with capture_logs() as lines:
        async with channel(broker.guarded, clock=clock, topic="mine", create=True, timeout="2s", **login(broker)) as to:
            results = [await sent(to) for _ in range(3)]
            assert asked == [["mine"]]
            clock.advance(61)
            assert await sent(to) == results[0]
            assert asked == [["mine"]] * 2
            allow(broker, "guest", "CREATE", "mine")
            clock.advance(61)
            assert await until_some(lambda: delivered(to))
    expected = (
        "there is no topic mine, and it cannot be created: Authorization failed; create it, or give the user the right "
        "to (CREATE on the topic or the cluster)"
    )
    assert results == [Retry(Reason.NOT_FOUND, expected)] * 3
    assert [line["event"] for line in lines if "topic" in line["event"]] == [expected]


async def test_existing_topic_needs_no_right_to_create(broker: Kafka, asked: list[list[str]]) -> None:
    topic = new_topic(broker)
    for operation in ("WRITE", "DESCRIBE"):
        allow(broker, "guest", operation, topic)
    asked.clear()
    with capture_logs() as lines:
        async with channel(broker.guarded, topic=topic, create=True, **login(broker)) as to:
            assert [await sent(to, message(key=key)) for key in "abc"] == [Delivered()] * 3
    assert asked == [[topic]]
    assert [line for line in lines if line["log_level"] != "debug"] == []


async def test_topic_is_requested_again_while_cluster_is_unreachable(asked: list[list[str]]) -> None:
    async with channel(NOWHERE, topic="t", create=True, timeout="500ms") as to:
        results = [await sent(to) for _ in range(2)]
    assert asked == [["t"]] * 2
    assert all(isinstance(result, Retry) and result.reason is Reason.CONNECTION for result in results)


async def test_topic_without_enough_brokers_is_requested_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refused(self: AdminClient, new: list[NewTopic], **_: Any) -> dict[str, Future[None]]:
        answers: dict[str, Future[None]] = {one.topic: Future() for one in new}
        for answer in answers.values():
            answer.set_exception(KafkaException(KafkaError(KafkaError.INVALID_REPLICATION_FACTOR)))
        asked.extend(answers)
        return answers

    broker, clock = shared_kafka(), Clock()
    name = new_topic(broker) + "-not"
    monkeypatch.setattr(AdminClient, "create_topics", refused)
    async with channel(broker.brokers, clock=clock, topic=name, create=True, timeout="2s") as to:
        results = [await sent(to) for _ in range(2)]
        assert asked == [name]
        clock.advance(61)
        await sent(to)
        assert asked == [name] * 2
    assert all(isinstance(result, Retry) and "cannot be created: " in result.detail for result in results)


async def test_verify_reports_missing_or_uncompacted_topics() -> None:
    broker = shared_kafka()
    topic = new_topic(broker)
    for at, settings, expected in (
        (broker.brokers, {"topic": topic}, []),
        (broker.brokers, {"topic": topic, "state": True}, [f"{topic} is not compacted"]),
        (broker.brokers, {"topic": topic + "-not"}, [f"no topic {topic}-not"]),
        (NOWHERE, {"topic": topic, "timeout": "300ms"}, ["does not answer"]),
    ):
        async with channel(at, **settings) as to:
            problems = await to.verify()
        assert len(problems) == len(expected)
        assert all(part in problem for part, problem in zip(expected, problems, strict=True))
