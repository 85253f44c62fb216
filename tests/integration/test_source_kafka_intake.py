"""Records of Kafka through the event pipeline into a ledger: topics that are recreated, and a ledger that cannot be
written for longer than a consumer may be without a poll (`max.poll.interval.ms`)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TopicPartition

from support.event_reading import Reader
from support.intakes import Locked, Offered, intake_of_orders
from support.kafka import Kafka, committed, drop_topic, make_topic, new_topic, produce
from support.kafka_events import Cluster, numbered, numbers, source
from support.pipelines import at_work
from support.waiting import until, until_some
from tocsin.exposition import State
from tocsin.ledger.base import EventCommit
from tocsin.ledger.sqlite import open_ledger
from tocsin.pipeline import events as pipeline

LIMIT_S = 3.0
SHORT = {"max.poll.interval.ms": "3000", "session.timeout.ms": "3000", "heartbeat.interval.ms": "300"}


class Scenario(Offered):
    """A topic, an alert on it and a ledger."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        super().__init__()
        self._cluster, self._broker = cluster, cluster.broker
        self.topic = new_topic(self._broker)
        self.ledger = directory / "tocsin.db"
        self._directory = directory

    @property
    def sent(self) -> list[int]:
        """The numbers of the records that were new to the ledger, in order."""
        return [int(value or "") for value in self.values("number")]

    @asynccontextmanager
    async def running(self, **librdkafka: str) -> AsyncIterator[pipeline.EventPipeline]:
        """Run the pipeline on the same ledger."""
        ledger = open_ledger(self.ledger)
        self.locked = Locked(ledger, 0)
        at = self._cluster.source(self.topic, librdkafka=librdkafka)
        intake = intake_of_orders(self._directory, at, self.locked, self, event=self.topic)
        async with at_work(intake):
            yield intake
        await ledger.close()

    def write(self, *some: int) -> None:
        produce(self._broker, self.topic, numbered(some))

    def recreate(self) -> None:
        drop_topic(self._broker, self.topic)
        make_topic(self._broker, self.topic)


@pytest.fixture
def scenario(tmp_path: Path, broker: Kafka) -> Scenario:
    return Scenario(tmp_path, Cluster(broker, {}))


@pytest.fixture
def anywhere(tmp_path: Path, cluster: Cluster) -> Scenario:
    """In each version and with each protocol."""
    return Scenario(tmp_path, cluster)


async def test_record_read_again_is_not_sent_again(scenario: Scenario, broker: Kafka) -> None:
    """The positions are set back, in the ledger and in the group."""
    scenario.write(0, 1, 2)
    async with scenario.running():
        await until(lambda: len(scenario.sent) == 3)
    ledger = open_ledger(scenario.ledger)
    position = dict.fromkeys(await ledger.position("q"), 0)
    await ledger.commit_events(EventCommit(source="q", position=position))
    await ledger.close()
    settings = {"bootstrap.servers": broker.brokers, "group.id": scenario.topic, "log_level": 2}
    with contextlib.closing(Consumer(settings)) as group:
        group.commit(offsets=[TopicPartition(scenario.topic, 0, 0)], asynchronous=False)
    scenario.write(3)
    async with scenario.running() as intake:
        await until(lambda: 3 in scenario.sent)
        assert intake.received["order"] == 4, "all were read"
    assert scenario.sent == [0, 1, 2, 3]


@pytest.mark.parametrize("new", [1, 8], ids=["shorter", "longer"])
async def test_recreated_topic_is_read_from_its_beginning_once(anywhere: Scenario, new: int) -> None:
    anywhere.write(0, 1, 2)
    async with anywhere.running():
        await until(lambda: len(anywhere.sent) == 3)
    anywhere.recreate()
    again = [*range(100, 100 + new)]
    anywhere.write(*again)
    async with anywhere.running():
        await until(lambda: anywhere.sent == [0, 1, 2, *again])
    anywhere.write(200)
    async with anywhere.running() as intake:
        await until(lambda: anywhere.sent == [0, 1, 2, *again, 200])
        assert intake.received["order"] == 1, "it goes on in the new one"


@pytest.mark.parametrize("new", [1, 3, 8], ids=["shorter", "as long", "longer"])
async def test_topic_recreated_while_reading_is_sent_once(
    anywhere: Scenario, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.sources.kafka.stream._CHECK_TOPICS_EVERY", 0.5)
    again = [*range(100, 100 + new)]
    async with anywhere.running():
        anywhere.write(0, 1, 2)
        await until(lambda: len(anywhere.sent) == 3)
        anywhere.recreate()
        anywhere.write(*again)
        await until(lambda: {*again} <= {*anywhere.sent})
        anywhere.write(200)
        await until(lambda: 200 in anywhere.sent)
    assert sorted(anywhere.sent) == [0, 1, 2, *again, 200]


# A consumer that does not poll.


async def members(broker: Kafka, group: str) -> list[str]:
    """The ids of the group's members; each joining makes a new one."""
    admin = AdminClient({"bootstrap.servers": broker.brokers, "log_level": 2})
    [described] = admin.describe_consumer_groups([group]).values()
    return [member.member_id for member in (await asyncio.wrap_future(described)).members]


async def test_consumer_stays_in_group_while_ledger_is_locked(
    broker: Kafka, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked for twice the limit: the same member is still there, and goes on."""
    monkeypatch.setattr(pipeline, "HOLD_EVERY", 0.3)
    loop = asyncio.get_running_loop()
    async with scenario.running(**SHORT) as intake:
        scenario.write(0, 1, 2)
        await until(lambda: scenario.sent == [0, 1, 2])
        before = await members(broker, scenario.topic)
        scenario.locked.times = 1_000_000
        scenario.write(3, 4, 5)
        began = loop.time()
        await until(lambda: intake.state is State.ERROR, "it says that the ledger is locked")
        await until(lambda: loop.time() - began > 2 * LIMIT_S, "for long")
        assert scenario.sent == [0, 1, 2]
        assert await members(broker, scenario.topic) == before
        scenario.locked.times = 0
        scenario.write(6, 7, 8)
        await until(lambda: scenario.sent == [*range(9)])
        assert await members(broker, scenario.topic) == before
        await until(lambda: committed(broker, scenario.topic, scenario.topic) == [9])


class Slow(Reader):
    """A reader whose ledger waits for `go`."""

    go: asyncio.Event | None = None

    async def acknowledge(self, batch: Any) -> None:
        if self.go is not None:
            await self.go.wait()
        await super().acknowledge(batch)


async def test_consumer_rejoins_after_its_process_was_stopped(broker: Kafka) -> None:
    """Nothing polls for longer than the limit, as in a process that is stopped: the group goes on without it, and
    afterwards it joins again and sends what it has not sent."""
    topic = new_topic(broker)
    async with source(broker.brokers, topic, librdkafka=SHORT).open([topic], position={}) as stream:
        reader, go = Slow(stream), asyncio.Event()
        async with at_work(reader) as task:
            produce(broker, topic, numbered(range(3)))
            await until(lambda: len(reader.events) == 3)
            [before] = await members(broker, topic)
            reader.go = go
            produce(broker, topic, numbered(range(3, 6)))
            await until(lambda: len(reader.events) > 3)
            produce(broker, topic, numbered(range(6, 9)))

            async def gone() -> bool:
                return await members(broker, topic) == []

            await until_some(gone, "the group has lost it")
            go.set()
            await until(lambda: {*numbers(reader.events)} == {*range(9)})
            await until(lambda: committed(broker, topic, topic) == [9])
            [after] = await members(broker, topic)
            assert after != before
            assert not task.done()
