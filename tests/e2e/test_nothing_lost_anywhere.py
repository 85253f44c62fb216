"""Promise 1 for several sources at once: one process follows a view, a quorum queue of RabbitMQ 4 and a Kafka topic,
and is killed again and again."""

import asyncio
import json
import random
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import yaml

from support.kafka import new_topic, produce, shared_kafka
from support.killing import BACKLOG, Driver, begun, kills, moody, repeated, seeded, some_instant, started
from support.materialize import MaterializeDouble
from support.rabbitmq import PASSWORD, USER, Peer, RabbitMQ, new_queue, peer, shared_rabbitmq
from support.rabbitmq_packages import VERSION
from support.receiver import Answer, Received, Receiver
from support.waiting import until, until_some

KILLS = kills(20)
COLUMNS = [("id", "int4"), ("owner", "text"), ("amount", "numeric")]
QUICK = {"backoff_initial": "20ms", "backoff_max": "100ms"}


class Arrivals:
    """A receiver with moods. `events`: number -> ids of its notifications, by alert; `rows`: the ids of those of the
    view."""

    def __init__(self, chance: random.Random) -> None:
        self.events: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.rows: set[str] = set()
        self._chance = chance

    def receive(self, request: Received) -> Answer:
        answer = moody(self._chance)
        if answer.status == 200 and not answer.cut:
            envelope = request.json
            if envelope["alert"] == "orders":
                self.rows.add(envelope["id"])
            else:
                self.events[envelope["alert"]][envelope["row"]["n"]].add(envelope["id"])
        return answer

    async def complete(self, rows: AbstractSet[str], sent: Mapping[str, int]) -> bool:
        """Whether everything arrived. `rows`: ids in the view; `sent`: the number of events by alert."""
        missing = {alert: count - len(self.events[alert]) for alert, count in sent.items()}
        missing["orders"] = len(rows - self.rows)
        assert not any(missing.values()), f"never arrived: {missing}"
        return True

    def assert_no_other(self, rows: AbstractSet[str], sent: Mapping[str, int]) -> None:
        """Only sent events arrived, each under one id."""
        assert self.rows == rows
        for alert, count in sent.items():
            assert self.events[alert].keys() == set(range(count))
            assert all(len(ids) == 1 for ids in self.events[alert].values()), f"{alert}: several ids for one event"


def configured(directory: Path, dsn: str, broker: RabbitMQ, queue: str, kafka: str, topic: str, url: str) -> Any:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {
            "mz": {"type": "materialize", "dsn": dsn, **QUICK},
            "letters": {
                "type": "rabbitmq",
                "host": "127.0.0.1",
                "port": broker.port,
                "user": USER,
                "password": PASSWORD,
                "queue": queue,
                "queue_type": "quorum",
                **QUICK,
            },
            "stream": {
                "type": "kafka",
                "bootstrap_servers": [kafka],
                "group": topic,
                "start": "earliest",
                # A killed member's partitions do not wait for its session to end.
                "librdkafka": {"group.instance.id": "one"},
                **QUICK,
            },
        },
        "channels": {
            "hook": {
                "type": "webhook",
                "url": f"{url}/hook",
                "concurrency": 3,
                "timeout": "500ms",
                "max_attempts": 1000,
                "backoff_initial": "10ms",
                "backoff_max": "50ms",
            }
        },
        "alerts": {
            "orders": {
                "source": "mz",
                "relation": "public.orders",
                "key": ["id"],
                "labels": ["id"],
                "notify": ["hook"],
            },
            "letter": {"source": "letters", "event": "letter", "notify": ["hook"]},
            "record": {"source": "stream", "topic": topic, "notify": ["hook"]},
        },
    }


class Sender:
    """An application that sends numbered events at a changing pace, and waits while too many have not arrived."""

    def __init__(self, send: Callable[[range], Awaitable[None]], arrived: Callable[[], int]) -> None:
        self.sent = 0
        self._send = send
        self._arrived = arrived

    async def step(self, chance: random.Random) -> None:
        if self.sent - self._arrived() < BACKLOG:
            numbers = range(self.sent, self.sent + chance.randint(1, 8))
            await self._send(numbers)
            self.sent = numbers.stop


@pytest.mark.e2e
@pytest.mark.timeout(1800)
async def test_no_source_loses_anything_however_often_killed(tmp_path: Path) -> None:
    """Fails, for example, when an event is acknowledged before the ledger has it, or has a new id in each delivery."""
    chance = seeded()
    arrivals = Arrivals(chance)
    rabbit, kafka = shared_rabbitmq(VERSION), shared_kafka()
    queue, topic = new_queue(), new_topic(kafka, "records", partitions=3)
    async with (
        MaterializeDouble(progress_interval=0.05) as double,
        Receiver(arrivals.receive) as receiver,
        peer(rabbit) as application,
    ):
        orders = double.create("public.orders", COLUMNS, retain=3_600_000)
        config = tmp_path / "tocsin.yaml"
        given = configured(tmp_path, double.dsn, rabbit, queue, kafka.brokers, topic, receiver.url)
        config.write_text(yaml.safe_dump(given))

        async def letters(numbers: range) -> None:
            for n in numbers:
                await application.send(queue, {"alert": "letter", "n": n}, message_id=f"letter-{n}")

        async def records(numbers: range) -> None:
            await asyncio.to_thread(produce, kafka, topic, [(str(n), json.dumps({"n": n})) for n in numbers])

        driver = Driver(orders, chance, lambda: len(arrivals.rows))
        senders = {
            "letter": Sender(letters, lambda: len(arrivals.events["letter"])),
            "record": Sender(records, lambda: len(arrivals.events["record"])),
        }

        async def change() -> None:
            driver.step()

        async with started(config) as process:
            starting = await begun(process, double, orders, {"path": str(tmp_path / "ledger.db")})
            await until_some(lambda: _consumed(application, queue), "a consumer of the queue")
            async with repeated(chance, 0.05, change, *(partial(sender.step, chance) for sender in senders.values())):
                for _ in range(KILLS):
                    await some_instant(process, receiver, starting, chance)
                    await process.kill_and_start()
                await until(lambda: min(one.sent for one in senders.values()) > KILLS, "enough of each kind", within=60)
            rows, sent = driver.model.ids("hook"), {alert: sender.sent for alert, sender in senders.items()}
            await until_some(lambda: arrivals.complete(rows, sent), within=120)
            assert await process.end(signal.SIGTERM) == 0
        left, _ = await application.counts(queue)

    assert left == 0
    arrivals.assert_no_other(rows, sent)


async def _consumed(application: Peer, queue: str) -> bool:
    try:
        _, consumers = await application.counts(queue)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    return consumers == 1
