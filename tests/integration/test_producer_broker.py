"""The producer with a real Kafka: its events are in the topics, even if the broker comes and goes."""

import re
import subprocess
import sys
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from support.kafka import Kafka, breakable_kafka, breaks_kafka, stored
from support.waiting import seen
from tocsin_producer.events import CUSTOMER_EVENTS, TOPICS, Schedule
from tocsin_producer.plan import Plan

SOON = 60.0
PLAN = Plan(rate=1500.0, bid_rate=500.0, spike_interval=1.0, malformed=0.02, duplicate=0.02)
OPTIONS = ("rate", "bid_rate", "spike_interval", "malformed", "duplicate")


def timeless(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
    """A message without the times in it, also where JSON is cut off within one."""
    return key, value and re.sub(rb'("(?:event_ts|bid_ts)":)\d+', rb"\g<1>0", value)


def end(broker: Kafka, topic: str) -> int:
    """How many records were written. Answered at once, however many they are; 0 while the topic is not known."""
    settings = {"bootstrap.servers": broker.brokers, "group.id": "end", "log_level": 2}
    with suppress(KafkaException), closing(Consumer(settings)) as consumer:
        found = consumer.list_topics(topic, timeout=5).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, one), timeout=5)[1] for one in found)
    return 0


@breaks_kafka
def test_killed_broker_gets_every_event_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = [f"--{name.replace('_', '-')}={getattr(PLAN, name)}" for name in OPTIONS]
    command = [sys.executable, "-m", "tocsin_producer", "--sink=kafka", f"--close-timeout={SOON}", *options]
    broker = breakable_kafka()
    broker.kill()
    with log.open("wb") as lines:
        process = subprocess.Popen([*command, f"--brokers={broker.brokers}"], stderr=lines)
        try:
            seen(lambda: "cannot be reached" in log.read_text(), "a line about the broker", SOON)
            broker.start()
            seen(lambda: end(broker, CUSTOMER_EVENTS) >= 1000, "a part of the events", SOON)
            broker.kill()
            known = log.read_text().count("is back after")
            broker.start()
            seen(lambda: log.read_text().count("is back after") > known, "another line about the broker", SOON)
            process.terminate()
            assert process.wait(timeout=SOON) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        found = {topic: [timeless(one.key(), one.value()) for one in stored(broker, topic)] for topic in TOPICS}
    *_, summary = log.read_text().splitlines()
    sent = re.search(r"(\d+) events sent", summary)
    assert sent, summary
    planned: dict[str, list[object]] = {topic: [] for topic in TOPICS}
    for event in islice(Schedule(PLAN).events(start=time.time()), int(sent[1])):
        planned[event.topic].append(timeless(event.key, event.value))
    assert found == planned
    assert f"{sent[1]} confirmed, 0 errors" in summary
