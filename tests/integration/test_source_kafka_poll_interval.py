"""A consumer that may be without a poll for six seconds at most (`max.poll.interval.ms`), while the ledger cannot be
written for longer: it stays in its group or rejoins, and nothing is lost. Against a real Kafka."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from support.kafka import Kafka, committed, new_topic, produce
from support.kafka_events import Reader, numbered, numbers, reading, source
from support.tocsin import write
from support.waiting import until, until_some
from tocsin.app import build as units
from tocsin.config import load
from tocsin.exposition import Metrics, State
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline

LIMIT_S = 6.0
SHORT = {"max.poll.interval.ms": "6000", "session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}


async def members(broker: Kafka, group: str) -> list[str]:
    """The ids of the group's members; each joining makes a new one."""
    admin = AdminClient({"bootstrap.servers": broker.brokers, "log_level": 2})
    [described] = admin.describe_consumer_groups([group]).values()
    return [member.member_id for member in (await asyncio.wrap_future(described)).members]


class Scenario:
    """A topic, an alert on it and a ledger. `sent`: the numbers of the records that were committed, in order."""

    def __init__(self, directory: Path, broker: Kafka) -> None:
        self.topic = new_topic(broker)
        self.sent: list[int] = []
        self.ledger = directory / "tocsin.db"
        settings = {"bootstrap_servers": [broker.brokers], "group": self.topic, "librdkafka": SHORT}
        waits = {"start": "earliest", "backoff_initial": "100ms", "backoff_max": "1s"}
        whole = {
            "sources": {"broker": {"type": "kafka", **settings, **waits}},
            "channels": {"out": {"type": "console"}},
            "alerts": {"orders": {"source": "broker", "topic": self.topic, "notify": ["out"]}},
        }
        self._config = load(write(directory / "tocsin.yaml", whole), {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventPipeline]:
        metrics, ledger = Metrics("test"), open_ledger(self.ledger)
        alert, at = self._config.event_alerts["orders"], self._config.sources["broker"]
        outlets = EventOutputs(
            ledger=ledger, metrics=metrics.source("broker"), offer=self._offer, publish=lambda _: None
        )
        taker = units.event_route(self._config, alert, metrics.alert("orders"))
        intake = EventPipeline("broker", units.make_source(at), [taker], units.backoff(at.settings), outlets)
        task = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await ledger.close()

    def _offer(self, notifications: Sequence[Notification]) -> None:
        self.sent += [int(one.transition.row[0] or "") for one in notifications]


async def test_consumer_stays_in_group_while_ledger_is_locked(broker: Kafka, tmp_path: Path) -> None:
    """Locked for three times the limit: the same member is still there, and goes on."""
    scenario, loop = Scenario(tmp_path, broker), asyncio.get_running_loop()
    async with scenario.running() as intake:
        produce(broker, scenario.topic, numbered(range(3)))
        await until(lambda: scenario.sent == [0, 1, 2])
        before = await members(broker, scenario.topic)
        other = sqlite3.connect(scenario.ledger, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        produce(broker, scenario.topic, numbered(range(3, 6)))
        began = loop.time()
        await until(lambda: intake.state is State.ERROR, "it says that the ledger is locked")
        await until(lambda: loop.time() - began > 3 * LIMIT_S, "for long", within=4 * LIMIT_S)
        assert scenario.sent == [0, 1, 2]
        assert await members(broker, scenario.topic) == before
        other.execute("ROLLBACK")
        other.close()
        produce(broker, scenario.topic, numbered(range(6, 9)))
        await until(lambda: len(scenario.sent) >= 9)
        assert await members(broker, scenario.topic) == before
        assert scenario.sent == [*range(9)]
        await until(lambda: committed(broker, scenario.topic, scenario.topic) == [9])
        assert intake.state is State.UP


async def test_consumer_rejoins_after_its_process_was_stopped(
    broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing polls for longer than the limit, as in a process that is stopped: the group goes on without it, and
    afterwards it joins again and sends what it has not sent."""

    async def nothing(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("tocsin.sources.kafka.events._Stream.stay_in_group", nothing, raising=False)
    topic = new_topic(broker)
    at = source(broker.brokers, topic, librdkafka=SHORT)
    async with at.open([topic], position={}) as stream:
        reader, go = _Slow(stream), asyncio.Event()
        task = asyncio.create_task(reader.run())
        produce(broker, topic, numbered(range(3)))
        await until(lambda: len(reader.events) == 3)
        [before] = await members(broker, topic)
        reader.go = go
        produce(broker, topic, numbered(range(3, 6)))
        await until(lambda: len(reader.events) > 3)
        produce(broker, topic, numbered(range(6, 9)))

        async def gone() -> bool:
            return await members(broker, topic) == []

        await until_some(gone, "the group has lost it", within=30)
        go.set()
        await until(lambda: {*numbers(reader.events)} == {*range(9)}, within=30)
        await until(lambda: committed(broker, topic, topic) == [9])
        [after] = await members(broker, topic)
        assert after != before
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Slow(Reader):
    """A reader whose ledger waits for `go`."""

    go: asyncio.Event | None = None

    async def acknowledge(self, batch: Any) -> None:
        if self.go is not None:
            await self.go.wait()
        await super().acknowledge(batch)


async def test_consumer_stays_in_group_during_slow_batch(broker: Kafka) -> None:
    """A batch that is written for longer than the limit, in one call: the same member is still there afterwards."""
    topic, loop = new_topic(broker), asyncio.get_running_loop()
    async with source(broker.brokers, topic, librdkafka=SHORT).open([topic], position={}) as stream:
        reader, go = _Slow(stream), asyncio.Event()
        task = asyncio.create_task(reader.run())
        produce(broker, topic, numbered(range(3)))
        await until(lambda: len(reader.events) == 3)
        before = await members(broker, topic)
        reader.go, began = go, loop.time()
        produce(broker, topic, numbered(range(3, 6)))
        await until(lambda: loop.time() - began > 2 * LIMIT_S, "for long", within=3 * LIMIT_S)
        assert await members(broker, topic) == before
        go.set()
        produce(broker, topic, numbered(range(6, 9)))
        await until(lambda: committed(broker, topic, topic) == [9])
        assert await members(broker, topic) == before
        assert numbers(reader.events) == [*range(9)]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_partitions_move_while_one_ledger_is_locked(broker: Kafka) -> None:
    """A second process of the group joins while the first one cannot acknowledge: between them they send everything,
    and the first one's batch is safe in its own ledger."""
    topic = new_topic(broker, partitions=2)
    at = source(broker.brokers, topic, librdkafka=SHORT)

    def to_both(some: range) -> None:
        produce(broker, topic, [("k", json.dumps({"number": n}), n % 2) for n in some])

    async with at.open([topic], position={}) as stream:
        first, go = _Slow(stream), asyncio.Event()
        task = asyncio.create_task(first.run())
        to_both(range(10))
        await until(lambda: sum(first.offsets.values()) == 10)
        first.go = go
        to_both(range(10, 20))
        await until(lambda: len(first.events) > 10)
        async with reading(at, topic) as second:
            to_both(range(20, 30))
            await until(lambda: len(second.events) >= 10, within=30)
            go.set()
            await until(lambda: {*numbers(first.events), *numbers(second.events)} == {*range(30)}, within=30)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
