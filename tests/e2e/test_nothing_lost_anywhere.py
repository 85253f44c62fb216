"""Promise 1 for several sources at once: one process follows a view, a quorum queue of RabbitMQ 4 and a Kafka topic,
and is killed again and again."""

import asyncio
import json
import random
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import yaml

from support.kafka import new_topic, produce, shared_kafka
from support.killing import Driver, kills, ledger_knows, moody, seeded, some_instant, started
from support.materialize import MaterializeDouble
from support.rabbitmq import PASSWORD, USER, Peer, RabbitMQ, new_queue, peer, shared_rabbitmq
from support.rabbitmq_packages import VERSION
from support.receiver import Answer, Received, Receiver
from support.waiting import until_some

KILLS = kills(20)
COLUMNS = [("id", "int4"), ("owner", "text"), ("amount", "numeric")]
QUICK = {"backoff_initial": "20ms", "backoff_max": "100ms"}


class Told:
    """What the receiver took: number -> ids of its notifications, by alert; and the ids of the view's notifications."""

    def __init__(self) -> None:
        self.events: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.rows: set[str] = set()

    def take(self, request: Received) -> None:
        envelope = request.json
        if envelope["alert"] == "orders":
            self.rows.add(envelope["id"])
        else:
            self.events[envelope["alert"]][envelope["row"]["n"]].add(envelope["id"])


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
    """An application that sends numbered events at a changing pace until it is stopped."""

    def __init__(self, send: Callable[[range], Awaitable[None]], chance: random.Random) -> None:
        self.sent = 0
        self._send = send
        self._chance = chance
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        while not self._stopping.is_set():
            numbers = range(self.sent, self.sent + self._chance.randint(1, 8))
            await self._send(numbers)
            self.sent = numbers.stop
            await asyncio.sleep(self._chance.uniform(0.01, 0.1))  # how busy the sender is; the test waits for no time

    def stop(self) -> None:
        """Send what has been begun, and no more."""
        self._stopping.set()


@pytest.mark.e2e
@pytest.mark.timeout(1800)
async def test_no_source_loses_anything_however_often_killed(tmp_path: Path) -> None:
    """Fails, for example, when an event is acknowledged before the ledger has it, or has a new id in each delivery."""
    chance = seeded()
    told = Told()

    def receive(request: Received) -> Answer:
        answer = moody(chance)
        if answer.status == 200 and not answer.cut:
            told.take(request)
        return answer

    rabbit, kafka = shared_rabbitmq(VERSION), shared_kafka()
    queue, topic = new_queue(), new_topic(kafka, "records", partitions=3)

    async with (
        MaterializeDouble(progress_interval=0.05) as double,
        Receiver(receive) as receiver,
        peer(rabbit) as application,
    ):
        orders = double.create("public.orders", COLUMNS, retain=3_600_000)
        config = tmp_path / "tocsin.yaml"
        config.write_text(
            yaml.safe_dump(configured(tmp_path, double.dsn, rabbit, queue, kafka.brokers, topic, receiver.url))
        )

        async def letters(numbers: range) -> None:
            for n in numbers:
                await application.send(queue, {"alert": "letter", "n": n}, message_id=f"letter-{n}")

        async def records(numbers: range) -> None:
            await asyncio.to_thread(produce, kafka, topic, [(str(n), json.dumps({"n": n})) for n in numbers])

        driver = Driver(orders, chance)
        senders = {"letter": Sender(letters, chance), "record": Sender(records, chance)}
        async with started(config) as process:
            # What changes after the first complete snapshot has happened since the first start.
            await double.subscribed(orders)
            await double.caught_up(orders)
            await until_some(lambda: ledger_knows("orders", tmp_path / "ledger.db"), "the alert in the ledger")
            await until_some(lambda: _consumed(application, queue), "a consumer of the queue")
            starting = process.worked
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(driver.run())
                for sender in senders.values():
                    tasks.create_task(sender.run())
                for _ in range(KILLS):
                    await some_instant(process, receiver, starting, chance)
                    await process.kill_and_start()
                driving.cancel()
                for sender in senders.values():
                    sender.stop()

            expected = driver.model.ids("hook")

            def missing() -> dict[str, int]:
                found = {name: sender.sent - len(told.events[name]) for name, sender in senders.items()}
                return {name: count for name, count in {"orders": len(expected - told.rows), **found}.items() if count}

            async def arrived() -> bool:
                assert not missing(), f"never arrived: {missing()}"
                return True

            await until_some(arrived, within=120)
            assert await process.end(signal.SIGTERM) == 0
        left, _ = await application.look(queue)

    assert left == 0
    assert told.rows == expected
    for name, sender in senders.items():
        events = told.events[name]
        assert events.keys() == set(range(sender.sent))
        assert all(len(ids) == 1 for ids in events.values()), f"{name}: an event arrived under several ids"
        assert sender.sent > KILLS


async def _consumed(application: Peer, queue: str) -> bool:
    try:
        _, consumers = await application.look(queue)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    return consumers == 1
