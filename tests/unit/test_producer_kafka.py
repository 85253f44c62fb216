"""The Kafka sink against the cluster that librdkafka itself can play on 127.0.0.1, and against nobody."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tocsin_producer.errors import EventRefusedError, SinkError
from tocsin_producer.events import Kind, Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.plan import Plan
from tocsin_producer.run import run
from tocsin_producer.sinks.kafka import KafkaSink


@pytest.fixture
def brokers() -> Iterator[str]:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 2})
    yield ",".join(f"{broker.host}:{broker.port}" for broker in cluster.list_topics(timeout=10).brokers.values())
    del cluster


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, and where nobody else can begin to while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def consumed(brokers: str, topic: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 2}
    )
    consumer.subscribe([topic])
    messages: list[Message] = []
    deadline = time.monotonic() + 30
    while len(messages) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            messages.append(message)
    consumer.close()
    return messages


def test_what_was_sent_is_in_the_topic_and_the_deliveries_are_counted(brokers: str) -> None:
    metrics = Metrics()
    sink = KafkaSink(brokers, metrics=metrics, monotonic=time.monotonic)
    plan = Plan(rate=0, bid_rate=0, spike_interval=0.01, limit=30)
    events = list(Schedule(plan).events(start=0.0))
    assert run(events, sink, metrics=metrics, monotonic=time.monotonic, wait=threading.Event().wait)
    sink.close()
    assert metrics.delivered == {"customer_events": 30}
    assert metrics.errors == {}
    messages = consumed(brokers, "customer_events", 30)
    assert sorted((message.key(), message.value()) for message in messages) == sorted(
        (event.key, event.value) for event in events
    )
    assert Kind.SPIKE in {event.kind for event in events}


def test_a_null_value_stays_null(brokers: str) -> None:
    sink = KafkaSink(brokers, metrics=Metrics(), monotonic=time.monotonic)
    sink.send("customer_events", b"1", None)
    sink.close()
    (message,) = consumed(brokers, "customer_events", 1)
    assert message.value() is None


def test_an_event_beyond_the_brokers_limit_is_refused_and_the_next_one_passes(brokers: str) -> None:
    metrics = Metrics()
    sink = KafkaSink(brokers, metrics=metrics, monotonic=time.monotonic)
    with pytest.raises(EventRefusedError, match="too large"):
        sink.send("customer_events", b"1", b"x" * 2_000_000)
    sink.send("customer_events", b"1", b"{}")
    sink.close()
    assert metrics.delivered == {"customer_events": 1}


def test_a_topic_that_cannot_be_created_is_warned_about_and_no_more(
    brokers: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The cluster of librdkafka does not create topics on request, only on first use.
    metrics = Metrics()
    sink = KafkaSink(brokers, metrics=metrics, monotonic=time.monotonic)
    sink.prepare(["customer_events"], timeout=0.5)
    assert "cannot create the topic customer_events" in caplog.text
    sink.send("customer_events", b"1", b"{}")
    sink.close()
    assert metrics.delivered == {"customer_events": 1}


def test_a_topic_that_a_broker_refuses_while_it_starts_is_asked_for_again(
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


def test_a_broker_that_is_away_is_told_once_with_the_reason_and_awaited_until_the_stop(
    nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    sink = KafkaSink(nobody, metrics=Metrics(), monotonic=time.monotonic, stopped=stop.is_set)
    waiting = threading.Thread(target=sink.prepare, args=(["customer_events"],))
    waiting.start()
    deadline = time.monotonic() + 20
    while "cannot be reached" not in caplog.text and time.monotonic() < deadline:
        assert waiting.is_alive()
        time.sleep(0.05)
    stop.set()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Kafka at {nobody} cannot be reached (")
    assert "Connection refused" in warnings[0]
    sink.close()


def test_events_that_no_broker_took_are_told_at_the_end(nobody: str) -> None:
    metrics = Metrics()
    sink = KafkaSink(nobody, metrics=metrics, monotonic=time.monotonic, close_timeout=0.3)
    for _ in range(7):
        sink.send("customer_events", b"1", b"{}")
    with pytest.raises(
        SinkError, match=f"7 events were not delivered: Kafka at {nobody} did not take them within 0.3 s"
    ):
        sink.close()
    assert metrics.errors == {"customer_events": 7}


def test_events_wait_for_a_broker_that_comes_late(brokers: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with socket.socket() as listener, caplog.at_level(logging.INFO):
        listener.bind(("127.0.0.1", 0))  # nobody is served before it listens
        late = f"127.0.0.1:{listener.getsockname()[1]}"
        config = {"reconnect.backoff.max.ms": "200"}
        sink = KafkaSink(late, metrics=metrics, monotonic=time.monotonic, config=config)
        sink.send("customer_events", b"1", b"{}")
        _flush_until(sink, lambda: "cannot be reached" in caplog.text)
        assert metrics.delivered == {}
        listener.listen()
        with _forwarding(listener, brokers):
            _flush_until(sink, metrics.delivered.total)
        sink.close()
    assert metrics.delivered == {"customer_events": 1}
    assert f"Kafka at {late} is back after" in caplog.text


def _flush_until(sink: KafkaSink, met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        sink.flush()
        time.sleep(0.02)


@contextmanager
def _forwarding(listener: socket.socket, target: str) -> Iterator[None]:
    """Passes connections on to `target`, whose answers then tell the client the way there."""
    host, _, port = target.partition(":")
    ends: list[socket.socket] = []
    pumps: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                pair = (listener.accept()[0], socket.create_connection((host, int(port))))
                ends.extend(pair)
                for source, sink in (pair, pair[::-1]):
                    pumps.append(threading.Thread(target=pump, args=(source, sink)))
                    pumps[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in pumps:
            thread.join()
        for end in ends:
            end.close()


def test_the_producer_is_idempotent(brokers: str) -> None:
    # Only an idempotent producer insists on acknowledgements from all replicas.
    with pytest.raises(SinkError, match=r"must be set to `all` when `enable\.idempotence` is true"):
        KafkaSink(brokers, metrics=Metrics(), monotonic=time.monotonic, config={"acks": "1"})


def test_settings_that_kafka_does_not_know_are_told(brokers: str) -> None:
    with pytest.raises(SinkError, match='No such configuration property: "colour"'):
        KafkaSink(brokers, metrics=Metrics(), monotonic=time.monotonic, config={"colour": "red"})
