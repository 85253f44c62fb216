"""The producer with a real Kafka: its events are in the topics, even if the broker comes and goes."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from support.kafka import Kafka, kafka
from support.waiting import seen
from tocsin_producer.events import CUSTOMER_EVENTS, TOPICS, Schedule
from tocsin_producer.plan import Plan

SOON = 30.0
PLAN = Plan(rate=1500.0, bid_rate=500.0, spike_interval=1.0, malformed=0.02, duplicate=0.02, limit=8000)
"""Four seconds of it, so that a broker can go and come back in between."""

Message = tuple[bytes | None, bytes | None]
"""Key and value."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Kafka]:
    """A broker that does not run yet."""
    with kafka(tmp_path) as made:
        yield made


class Producer:
    """A `tocsin-producer` process. `log`: its lines so far."""

    def __init__(self, brokers: str, plan: Plan) -> None:
        self.log: list[str] = []
        options = {
            "--sink": "kafka",
            "--brokers": brokers,
            "--rate": plan.rate,
            "--bid-rate": plan.bid_rate,
            "--spike-interval": plan.spike_interval,
            "--malformed": plan.malformed,
            "--duplicate": plan.duplicate,
            "--limit": plan.limit,
            "--close-timeout": SOON,
        }
        command = [sys.executable, "-m", "tocsin_producer", *(str(part) for pair in options.items() for part in pair)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until_logged(self, text: str) -> None:
        def logged() -> bool:
            assert self.process.poll() is None, self.log
            return any(text in line for line in self.log)

        seen(logged, f"{text!r} in the log", SOON)

    def ended(self) -> str:
        """Wait for its end without an error; returns its last line."""
        assert self.process.wait(timeout=SOON) == 0, self.log
        self._reader.join()
        return self.log[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.log.extend(line.rstrip("\n") for line in lines)


@contextmanager
def producing(brokers: str, plan: Plan) -> Iterator[Producer]:
    producer = Producer(brokers, plan)
    try:
        yield producer
    finally:
        producer.kill()


def stored(brokers: str) -> dict[str, list[Message]]:
    """The content of the topics, in order."""
    found: dict[str, list[Message]] = {topic: [] for topic in TOPICS}
    settings = {"bootstrap.servers": brokers, "group.id": "test", "enable.partition.eof": True, "log_level": 2}
    with closing(Consumer({**settings, "enable.auto.commit": False})) as consumer:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in TOPICS])
        left, deadline = set(TOPICS), time.monotonic() + SOON
        while left:
            assert time.monotonic() < deadline, f"no end of {left}"
            message = consumer.poll(0.5)
            if message is None:
                continue
            error, topic = message.error(), message.topic()
            assert topic is not None
            if error is None:
                found[topic].append((message.key(), message.value()))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(topic)
    return found


def until_stored(brokers: str, topic: str, count: int) -> None:
    """Wait until a topic has so many messages."""
    settings = {"bootstrap.servers": brokers, "group.id": "test", "log_level": 2}
    with closing(Consumer(settings)) as consumer:

        def grown() -> bool:
            with suppress(KafkaException):  # the topic is still to be made
                return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=SOON)[1] >= count
            return False

        seen(grown, f"{count} messages in {topic}", SOON)


def planned(plan: Plan) -> dict[str, list[Message]]:
    """What the topics must have, except times."""
    found: dict[str, list[Message]] = {topic: [] for topic in TOPICS}
    for event in Schedule(plan).events(start=time.time()):
        found[event.topic].append((event.key, event.value))
    return {topic: timeless(messages) for topic, messages in found.items()}


def timeless(messages: list[Message]) -> list[Message]:
    """The messages without the times in them, also where JSON is cut off within one."""
    stamp = re.compile(rb'("(?:event_ts|bid_ts)":)\d+')
    return [(key, None if value is None else stamp.sub(rb"\g<1>0", value)) for key, value in messages]


def test_killed_broker_gets_every_event_once(broker: Kafka) -> None:
    with producing(broker.brokers, PLAN) as producer:
        producer.until_logged("cannot be reached")
        broker.start()
        until_stored(broker.brokers, CUSTOMER_EVENTS, 1000)
        broker.kill()
        assert producer.process.poll() is None, "it was to be in the middle"
        broker.start()
        summary = producer.ended()
    assert f"{PLAN.limit} events sent" in summary
    assert f"{PLAN.limit} confirmed, 0 errors" in summary
    found = stored(broker.brokers)
    for topic, expected in planned(PLAN).items():
        assert len(found[topic]) == len(expected), topic
        assert timeless(found[topic]) == expected, topic
    assert sum("is back after" in line for line in producer.log) >= 1
