"""Processes that share a ledger share the events of a topic and of a queue, as their servers hand them out."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.kafka import new_topic, produce, shared_kafka
from support.postgres import shared_postgres
from support.rabbitmq import PASSWORD, USER, new_queue, peer, shared_rabbitmq
from support.receiver import Receiver
from support.tocsin import TocsinProcess, quick_channel, running
from support.waiting import until

pytestmark = pytest.mark.e2e
EVENTS = 100
"""At a time."""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest.fixture
async def config(receiver: Receiver) -> AsyncIterator[dict[str, Any]]:
    async with shared_postgres().database() as database:
        yield {
            "ledger": {"url": database.dsn, "lease": "500ms"},
            "web": {"listen": "127.0.0.1:0"},
            "channels": {"hook": quick_channel(f"{receiver.url}/hook")},
        }


async def taken(*processes: TocsinProcess) -> list[float]:
    """How many events each process has taken."""
    return [await one.metric("tocsin_source_events_total", source="orders") or 0.0 for one in processes]


def ids(receiver: Receiver) -> dict[int, set[str]]:
    """The number of an order -> the ids of the notifications about it."""
    found: dict[int, set[str]] = {}
    for request in receiver.requests:
        found.setdefault(request.json["row"]["order"], set()).add(request.json["id"])
    return found


async def until_each_is_notified_once(receiver: Receiver, count: int) -> None:
    """A repeat after a kill has the same id."""
    await until(lambda: len(ids(receiver)) == count, f"{count} orders are notified", within=60)
    assert Counter(len(some) for some in ids(receiver).values()) == {1: count}


async def test_partitions_of_a_topic_are_shared(tmp_path: Path, config: dict[str, Any], receiver: Receiver) -> None:
    broker = shared_kafka()
    topic = new_topic(broker, "orders", partitions=4)
    config["sources"] = {
        "orders": {
            "type": "kafka",
            "bootstrap_servers": [broker.brokers],
            "group": topic,
            "start": "earliest",
            "librdkafka": {"session.timeout.ms": "2000", "heartbeat.interval.ms": "300"},
            "backoff_initial": "100ms",
        }
    }
    config["alerts"] = {"orders": {"source": "orders", "topic": topic, "notify": ["hook"]}}

    written = 0

    async def some_more() -> None:
        nonlocal written
        produce(broker, topic, [(str(n), json.dumps({"order": n})) for n in range(written, written + EVENTS)])
        written += EVENTS
        await until_each_is_notified_once(receiver, written)

    async with running(tmp_path, config) as first, running(tmp_path, config) as second:
        while not min(await taken(first, second)):  # the group may still be dividing its partitions
            await some_more()
        await first.kill()
        await some_more()


async def test_messages_of_a_queue_are_shared(tmp_path: Path, config: dict[str, Any], receiver: Receiver) -> None:
    broker, queue = shared_rabbitmq(), new_queue()
    config["sources"] = {
        "orders": {
            "type": "rabbitmq",
            "host": "127.0.0.1",
            "port": broker.port,
            "user": USER,
            "password": PASSWORD,
            "queue": queue,
            "backoff_initial": "100ms",
        }
    }
    config["alerts"] = {"orders": {"source": "orders", "notify": ["hook"]}}
    async with (
        running(tmp_path, config) as first,
        running(tmp_path, config) as second,
        peer(broker) as other,
    ):
        await first.until_ready()
        await second.until_ready()
        for number in range(EVENTS):
            await other.send(queue, message(number))
        await until_each_is_notified_once(receiver, EVENTS)
        assert min(await taken(first, second)) > 0
        await first.kill()
        for number in range(EVENTS, 2 * EVENTS):
            await other.send(queue, message(number))
        await until_each_is_notified_once(receiver, 2 * EVENTS)


def message(number: int) -> dict[str, Any]:
    return {"message": {"alertTypes": ["orders"], "message": {"order": number}}}
