"""The Kafka sink with the mock cluster of librdkafka, and without a broker."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from support.waiting import seen
from tocsin_producer.errors import EventRefusedError, SinkError
from tocsin_producer.metrics import Metrics
from tocsin_producer.sinks.kafka import KafkaSink


@pytest.fixture
def brokers() -> Iterator[str]:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 2})
    yield ",".join(f"{broker.host}:{broker.port}" for broker in cluster.list_topics(timeout=10).brokers.values())
    del cluster


@pytest.fixture
def unused() -> Iterator[str]:
    """An address where no one listens, and no one else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_oversized_event_is_refused_and_the_next_passes(brokers: str) -> None:
    metrics = Metrics()
    sink = KafkaSink(brokers, metrics=metrics, monotonic=time.monotonic)
    with pytest.raises(EventRefusedError, match="too large"):
        sink.send("customer_events", b"1", b"x" * 2_000_000)
    sink.send("customer_events", b"1", b"{}")
    sink.close()
    assert metrics.delivered == {"customer_events": 1}


def test_topic_that_cannot_be_created_is_a_warning(brokers: str, caplog: pytest.LogCaptureFixture) -> None:
    # The cluster of librdkafka does not create topics on request, only on first use.
    metrics = Metrics()
    sink = KafkaSink(brokers, metrics=metrics, monotonic=time.monotonic)
    sink.prepare(["customer_events"], timeout=0.5)
    assert "cannot create the topic customer_events" in caplog.text
    sink.send("customer_events", b"1", b"{}")
    sink.close()
    assert metrics.delivered == {"customer_events": 1}


def test_refused_topic_is_retried_while_the_broker_starts(
    brokers: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[list[str]] = []

    def create_topics(_: AdminClient, new: list[NewTopic], **__: float) -> dict[str, Future[None]]:
        asked.append([each.topic for each in new])
        answers = {topic: Future[None]() for topic in asked[-1]}
        for topic, answer in answers.items():
            if topic == "customer_events" and len(asked) < 3:
                answer.set_exception(KafkaException(KafkaError(KafkaError.INVALID_REPLICATION_FACTOR)))
            else:
                answer.set_result(None)
        return answers

    monkeypatch.setattr(AdminClient, "create_topics", create_topics)
    sink = KafkaSink(brokers, metrics=Metrics(), monotonic=time.monotonic)
    sink.prepare(["customer_events", "winning_bids"])
    assert asked == [["customer_events", "winning_bids"], ["customer_events"], ["customer_events"]]
    assert caplog.text == ""
    sink.close()


def test_missing_broker_is_logged_once_and_awaited(unused: str, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    sink = KafkaSink(unused, metrics=Metrics(), monotonic=time.monotonic, stopped=stop.is_set)
    waiting = threading.Thread(target=sink.prepare, args=(["customer_events"],))
    waiting.start()
    seen(lambda: "cannot be reached" in caplog.text, "a line about the broker")
    stop.set()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Kafka at {unused} cannot be reached (")
    assert "Connection refused" in warnings[0]
    sink.close()


def test_undelivered_events_are_an_error_at_the_end(unused: str) -> None:
    metrics = Metrics()
    sink = KafkaSink(unused, metrics=metrics, monotonic=time.monotonic, close_timeout=0.3)
    for _ in range(7):
        sink.send("customer_events", b"1", b"{}")
    with pytest.raises(
        SinkError, match=f"7 events were not delivered: Kafka at {unused} did not accept them within 0.3 s"
    ):
        sink.close()
    assert metrics.errors == {"customer_events": 7}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        # Only an idempotent producer insists on acknowledgements from all replicas.
        ({"acks": "1"}, r"must be set to `all` when `enable\.idempotence` is true"),
        ({"colour": "red"}, 'No such configuration property: "colour"'),
    ],
)
def test_unfit_kafka_setting_is_an_error(setting: dict[str, str], why: str) -> None:
    with pytest.raises(SinkError, match=why):
        KafkaSink("127.0.0.1:1", metrics=Metrics(), monotonic=time.monotonic, config=setting)
