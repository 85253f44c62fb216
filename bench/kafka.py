"""Records of a real Kafka as events, into the ledger with a notification each; and notifications out to a topic. Each
beside a plain loop over the same library."""

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.harness import Figure, ingesting
from support.kafka import Kafka, kafka, make_topic, produce
from support.messages import message
from tocsin.channels import kafka as channel_kind
from tocsin.channels.base import Delivered
from tocsin.sources.kafka import Config
from tocsin.sources.kafka.events import KafkaEvents

EVENTS = 100_000
SENT = 10_000
_AT_ONCE = 4


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            with kafka(directory) as broker:
                broker.start()
                return await _figures(broker)
        except pytest.skip.Exception as reason:
            return [Figure("records of Kafka", f"not measured: {reason}")]


async def _figures(broker: Kafka) -> list[Figure]:
    make_topic(broker, "orders")
    make_topic(broker, "out")
    produce(broker, "orders", ((str(n), json.dumps(_order(n))) for n in range(EVENTS)))
    peer = await asyncio.to_thread(_peer_reads, broker)
    settings = {"bootstrap_servers": [broker.brokers], "start": "earliest"}
    read = await _read(KafkaEvents("broker", Config.model_validate({**settings, "group": "read"})))
    durable = await _durable({"type": "kafka", **settings, "group": "durable"})
    writes, sent = await asyncio.to_thread(_peer_writes, broker), await _sent(broker)
    return [
        Figure("a loop that reads, parses and commits each 500", f"{EVENTS / peer:,.0f} records/s"),
        Figure(
            "records of Kafka read and acknowledged",
            f"{EVENTS / read:,.0f} events/s ({read / peer:.1f} x the loop's time)",
        ),
        Figure(
            "records of Kafka, ledger and outbox",
            f"{EVENTS / durable:,.0f} events/s ({durable / peer:.1f} x the loop's time)",
            ">= 20,000 events/s",
            EVENTS / durable >= 20_000,
        ),
        Figure("a loop that writes records, acks=all", f"{SENT / writes:,.0f} records/s"),
        Figure(
            "notifications to a Kafka topic, acknowledged",
            f"{SENT / sent:,.0f} a second ({sent / writes:.1f} x the loop's time)",
        ),
    ]


def _order(number: int) -> dict[str, object]:
    customer = f"c{number % 100}"
    return {"order": number, "customer": customer, "total": 12.5, "paid": False, "due": "2026-11-21T18:30:00Z"}


def _peer_reads(broker: Kafka) -> float:
    """Seconds from the first record on."""
    settings = {
        "bootstrap.servers": broker.brokers,
        "group.id": "peer",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "log_level": 2,
    }
    with closing(Consumer(settings)) as consumer:
        consumer.subscribe(["orders"])
        began, count = 0.0, 0
        while count < EVENTS:
            records = consumer.consume(500, 1.0)
            began = began or (time.perf_counter() if records else 0.0)
            for record in records:
                json.loads(record.value() or b"")
            count += len(records)
            if records:
                consumer.commit(offsets=[TopicPartition("orders", 0, count)], asynchronous=False)
        return time.perf_counter() - began


async def _read(source: KafkaEvents) -> float:
    """Seconds from the first record on."""
    began, count = 0.0, 0
    async with source.open(["orders"], position={}) as stream:
        async for batch in stream.batches():
            began = began or (time.perf_counter() if batch.events else 0.0)
            count += len(batch.events)
            await stream.acknowledge(batch, [])
            if count == EVENTS:
                return time.perf_counter() - began
    raise AssertionError("the stream ended early")


async def _durable(source: Mapping[str, Any]) -> float:
    """Seconds from the first events in the ledger to the last."""
    async with ingesting(source, "orders", labels=["customer"]) as offered, asyncio.timeout(120):
        first = await offered.take()
        began = time.perf_counter()
        await offered.take(EVENTS - first)
        return time.perf_counter() - began


def _peer_writes(broker: Kafka) -> float:
    what = message()
    value = json.dumps(what.envelope)
    producer = Producer(
        {"bootstrap.servers": broker.brokers, "enable.idempotence": True, "linger.ms": 1, "log_level": 2}
    )
    producer.produce("out", value=b"{}")
    producer.flush(30)
    began = time.perf_counter()
    for number in range(SENT):
        producer.produce("out", value=value, key=str(number))
        producer.poll(0)
    assert producer.flush(30) == 0
    return time.perf_counter() - began


async def _sent(broker: Kafka) -> float:
    config = channel_kind.Config.model_validate(
        {"type": "kafka", "bootstrap_servers": [broker.brokers], "topic": "out", "timeout": "30s"}
    )
    channel = channel_kind.build("out", config, {"late": config})
    messages = [message(key=str(number)) for number in range(SENT)]
    size = channel.batch_size(SENT)
    batches = iter([messages[start : start + size] for start in range(0, SENT, size)])

    async def send() -> None:
        for batch in batches:
            assert set(await channel.send(batch)) == {Delivered()}

    await channel.send(messages[:1])
    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(_AT_ONCE)))
    seconds = time.perf_counter() - began
    await channel.close()
    return seconds
