"""The topics of the Kafka channel against a real Kafka: created, recreated, refused, and verified."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from structlog.testing import capture_logs

from support.clock import Clock
from support.kafka import Kafka, allow, drop_topic, kafka, new_topic, shared_kafka, stored
from support.kafka_channel import USERS, channel, delivered, login, sent
from support.messages import message
from support.waiting import until, until_some
from tocsin.channels.base import Delivered, Retry
from tocsin.errors import Reason


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A running Kafka with users; the guest may write to every topic, but create none."""
    with kafka(tmp_path_factory.mktemp("guarded"), USERS) as broker:
        broker.start()
        allow(broker, "guest", "WRITE")
        allow(broker, "guest", "DESCRIBE")
        yield broker


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


async def test_missing_topic_is_created_and_compacted() -> None:
    broker = shared_kafka()
    name = new_topic(broker) + "-made"
    async with channel(broker.brokers, topic=name, create=True, state=True) as to:
        assert await sent(to, message()) == Delivered()
        assert await to.verify() == []
    assert len(stored(broker, name)) == 1


async def test_topic_deleted_while_running_is_recreated() -> None:
    broker = shared_kafka()
    name = new_topic(broker) + "-made"
    async with channel(broker.brokers, topic=name, create=True, timeout="2s") as to:
        assert await sent(to, message(key="before")) == Delivered()
        drop_topic(broker, name)
        assert await until_some(lambda: delivered(to, "after"))
        assert await sent(to, message(key="later")) == Delivered()
    found = [json.loads(record.value() or b"")["row"]["order_id"] for record in stored(broker, name)]
    assert found == ["after", "later"]


async def test_refused_topic_is_requested_once_a_minute(guarded: Kafka, asked: list[list[str]]) -> None:
    clock = Clock()
    guest = login(guarded, "guest", USERS["guest"])
    with capture_logs() as lines:
        async with channel(guarded.guarded, clock=clock, topic="mine", create=True, timeout="2s", **guest) as to:
            results = [await sent(to, message()) for _ in range(3)]
            assert asked == [["mine"]]
            clock.advance(61)
            assert await sent(to, message()) == results[0]
            assert asked == [["mine"]] * 2
            allow(guarded, "guest", "CREATE", "mine")
            clock.advance(61)
            assert await until_some(lambda: delivered(to))
    expected = (
        "there is no topic mine, and it cannot be created: Authorization failed; create it, or give the user the right "
        "to (CREATE on the topic or the cluster)"
    )
    assert results == [Retry(Reason.NOT_FOUND, expected)] * 3
    assert [line["event"] for line in lines if "topic" in line["event"]] == [expected]


async def test_existing_topic_needs_no_right_to_create(guarded: Kafka, asked: list[list[str]]) -> None:
    topic = new_topic(guarded)
    asked.clear()
    guest = login(guarded, "guest", USERS["guest"])
    with capture_logs() as lines:
        async with channel(guarded.guarded, topic=topic, create=True, **guest) as to:
            assert [await sent(to, message(key=key)) for key in "abc"] == [Delivered()] * 3
    assert asked == [[topic]]
    assert [line for line in lines if line["log_level"] != "debug"] == []


async def test_topic_is_requested_again_while_cluster_is_unreachable(
    asked: list[list[str]],
) -> None:
    async with channel("127.0.0.1:1", topic="t", create=True, timeout="500ms") as to:
        results = [await sent(to, message()) for _ in range(2)]
    assert asked == [["t"]] * 2
    assert all(isinstance(result, Retry) and result.reason is Reason.CONNECTION for result in results)


async def test_topic_without_enough_brokers_is_requested_rarely(tmp_path: Path, asked: list[list[str]]) -> None:
    clock = Clock()
    with kafka(tmp_path, default_replication_factor="3") as broker:
        broker.start()
        async with channel(broker.brokers, clock=clock, topic="t", create=True, timeout="2s") as to:
            results = [await sent(to, message()) for _ in range(2)]
            assert asked == [["t"]]
            clock.advance(61)
            await sent(to, message())
            assert asked == [["t"]] * 2
    assert all(isinstance(result, Retry) and "cannot be created: " in result.detail for result in results)


async def test_one_admin_client_is_closed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    gone: list[str] = []

    class Seen(AdminClient):
        def __init__(self, settings: dict[str, Any]) -> None:
            made.append(threading.current_thread().name)
            super().__init__(settings)

        def __exit__(self, *error: object) -> None:
            gone.append(threading.current_thread().name)
            super().__exit__(*error)

    monkeypatch.setattr("tocsin.channels.kafka.topics.AdminClient", Seen)
    async with channel("127.0.0.1:1", topic="t", create=True, timeout="500ms") as to:
        for _ in range(2):
            await sent(to, message())
        assert (len(made), gone) == (1, [])
    assert len(gone) == 1, "no answer: it is kept until the channel closes"
    broker = shared_kafka()
    async with channel(broker.brokers, topic=new_topic(broker), create=True) as to:
        assert await sent(to, message()) == Delivered()
        await until(lambda: len(gone) == 2, "all topics exist: it is no longer needed")
    assert threading.current_thread().name not in gone


async def test_verify_reports_missing_or_uncompacted_topics() -> None:
    broker = shared_kafka()
    topic = new_topic(broker)
    async with channel(broker.brokers, topic=topic) as to:
        assert await to.verify() == []
    async with channel(broker.brokers, topic=topic, state=True) as to:
        [problem] = await to.verify()
        assert f"{topic} is not compacted" in problem
    async with channel(broker.brokers, topic=topic + "-not") as to:
        [problem] = await to.verify()
        assert f"no topic {topic}-not" in problem
    async with channel("127.0.0.1:1", topic=topic, timeout="300ms") as to:
        [problem] = await to.verify()
        assert "does not answer" in problem
