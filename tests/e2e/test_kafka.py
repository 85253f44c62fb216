"""Kafka end to end: from topic to topic, through kills of Tocsin and of the broker; a compacted topic as a gauge."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from support import waiting
from support.kafka import Kafka, breakable_kafka, breaks_kafka, new_topic, produce, shared_kafka, stored
from support.tocsin import running
from support.waiting import until_some

pytestmark = pytest.mark.e2e

EVENTS = 1500

until = functools.partial(waiting.until, longest=0.2)
"""Less often, since each probe here reads a whole topic."""


def configured(directory: Path, broker: Kafka, orders: str, out: str) -> dict[str, Any]:
    return {
        "ledger": {"path": str(directory / "tocsin.db")},
        "web": {"listen": "127.0.0.1:0"},
        "sources": {
            "broker": {
                "type": "kafka",
                "bootstrap_servers": [broker.brokers],
                "group": orders,
                "start": "earliest",
                "librdkafka": {"group.instance.id": "one"},  # its partitions do not wait for the one that was killed
                "backoff_initial": "100ms",
                "backoff_max": "500ms",
            }
        },
        "channels": {
            "out": {
                "type": "kafka",
                "bootstrap_servers": [broker.brokers],
                "topic": out,
                "timeout": "2s",
                "backoff_initial": "100ms",
                "backoff_max": "500ms",
            }
        },
        "alerts": {"orders": {"source": "broker", "topic": orders, "notify": ["out"]}},
    }


def write_orders(broker: Kafka, topic: str, first: int, count: int) -> None:
    produce(broker, topic, [(str(n), json.dumps({"order": n})) for n in range(first, first + count)])


def notification_ids(broker: Kafka, out: str) -> dict[int, set[str]]:
    """Order -> the ids of the notifications about it."""
    found: dict[int, set[str]] = {}
    for record in stored(broker, out):
        envelope = json.loads(record.value() or b"")
        found.setdefault(envelope["row"]["order"], set()).add(envelope["id"])
    return found


def _has_more_than(broker: Kafka, out: str, count: float) -> bool:
    return len(notification_ids(broker, out)) > count


@breaks_kafka
async def test_broker_restart_loses_nothing_and_is_visible(tmp_path: Path) -> None:
    broker = breakable_kafka()
    if not broker.runs:
        broker.start()
    orders, out = new_topic(broker, "orders"), new_topic(broker, "out")
    write_orders(broker, orders, 0, 500)
    async with running(tmp_path, configured(tmp_path, broker, orders, out)) as tocsin:
        await until(lambda: len(notification_ids(broker, out)) == 500)
        broker.kill()
        await tocsin.until_not_ready("orders")
        await asyncio.to_thread(broker.start)
        write_orders(broker, orders, 500, 500)
        await until(lambda: notification_ids(broker, out).keys() == {*range(1000)}, within=60)
        await tocsin.until_ready()
        assert await tocsin.stop() == 0
    assert all(len(ids) == 1 for ids in notification_ids(broker, out).values())


async def test_compacted_topic_is_gauge_and_resolves_after_restart(tmp_path: Path) -> None:
    broker = shared_kafka()
    late = new_topic(broker, "late", cleanup_policy="compact")
    firing = new_topic(broker, "firing", cleanup_policy="compact")
    config = configured(tmp_path, broker, late, firing)
    config["sources"]["broker"] = {
        "type": "kafka",
        "bootstrap_servers": [broker.brokers],
        "state": True,
        "columns": {"id": "integer", "customer": "text", "minutes": "integer"},
    }
    config["channels"]["out"] |= {"state": True, "key": ["id"]}
    config["alerts"] = {
        "late": {
            "source": "broker",
            "topic": late,
            "key": ["id"],
            "labels": ["customer"],
            "value": "minutes",
            "notify": ["out"],
        }
    }

    def row(number: int, customer: str, minutes: int) -> tuple[str, str]:
        return f'{{"id":{number}}}', json.dumps({"customer": customer, "minutes": minutes})

    async def on_page(expected: dict[str, float]) -> bool:
        page = await tocsin.gauge("late")
        assert {dict(labels)["customer"]: value for labels, value in page.items()} == expected
        return True

    def latest() -> dict[bytes | None, str | None]:
        records = {record.key(): json.loads(record.value() or b"null") for record in stored(broker, firing)}
        return {key: value and value["row"]["customer"] for key, value in records.items()}

    produce(broker, late, [row(1, "Ann", 12), row(2, "Bob", 30)])
    async with running(tmp_path, config) as tocsin:
        await until_some(lambda: on_page({"Ann": 12.0, "Bob": 30.0}))
        produce(broker, late, [row(1, "Ann", 15)])
        await until_some(lambda: on_page({"Ann": 15.0, "Bob": 30.0}))
        await until(lambda: latest() == {b'{"id":1}': "Ann", b'{"id":2}': "Bob"})
        await tocsin.kill()
    produce(broker, late, [('{"id":1}', None), ('{"id":2}', None)])
    async with running(tmp_path, config) as tocsin:
        await until(lambda: latest() == {b'{"id":1}': None, b'{"id":2}': None})
        await until_some(lambda: on_page({}))
        assert await tocsin.metric("tocsin_alert_gaps_total", alert="late") == 0
        assert await tocsin.stop() == 0
