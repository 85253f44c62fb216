"""Records of Kafka through the event pipeline into a ledger: notifications of a topic that is recreated."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.cimpl import TopicPartition

from support.kafka import Kafka, drop_topic, make_topic, new_topic, produce, shared_kafka
from support.tocsin import write
from support.waiting import until
from tocsin.app import build
from tocsin.config import load
from tocsin.exposition import Metrics
from tocsin.ledger.base import EventCommit
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline, EventRoute


class Scenario:
    """A topic and an alert on it. `sent`: the numbers of its records that were new to the ledger, in order."""

    def __init__(self, directory: Path, broker: Kafka, topic: str) -> None:
        self.topic = topic
        self.sent: list[int] = []
        self.metrics = Metrics("test")
        self._broker = broker
        self._ledger = directory / "tocsin.db"
        source = {
            "type": "kafka",
            "bootstrap_servers": [broker.brokers],
            "group": topic,
            "start": "earliest",
            "backoff_initial": "100ms",
            "backoff_max": "200ms",
        }
        alert = {"source": "broker", "topic": topic, "notify": ["out"]}
        whole = {"sources": {"broker": source}, "channels": {"out": {"type": "console"}}, "alerts": {"orders": alert}}
        self._config = load(write(directory / "tocsin.yaml", whole), {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventPipeline]:
        """Run the pipeline on the same ledger."""
        alert, source = self._config.event_alerts["orders"], self._config.sources["broker"]
        metrics = self.metrics.alert("orders")
        route = EventRoute(alert=alert, router=build.router(self._config, alert, metrics), metrics=metrics)
        ledger = open_ledger(self._ledger)
        outputs = EventOutputs(
            ledger=ledger, metrics=self.metrics.source("broker"), offer=self._offer, publish=lambda _: None
        )
        pipeline = EventPipeline("broker", build.make_source(source), [route], build.backoff(source.settings), outputs)
        task = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await ledger.close()

    def write(self, *numbers: int) -> None:
        produce(self._broker, self.topic, [("k", json.dumps({"number": number})) for number in numbers])

    def recreate(self) -> None:
        drop_topic(self._broker, self.topic)
        make_topic(self._broker, self.topic)

    async def reset_positions(self) -> None:
        """Set every position back to the beginning, in the ledger and in the group; known events stay known."""
        ledger = open_ledger(self._ledger)
        try:
            kept = await ledger.position("broker")
            await ledger.commit_events(EventCommit(source="broker", position=dict.fromkeys(kept, 0)))
        finally:
            await ledger.close()
        settings = {"bootstrap.servers": self._broker.brokers, "group.id": self.topic, "log_level": 2}
        with contextlib.closing(Consumer(settings)) as group:
            group.commit(offsets=[TopicPartition(self.topic, 0, 0)], asynchronous=False)

    def _offer(self, notifications: Sequence[Notification]) -> None:
        self.sent += [int(one.transition.row[0] or "") for one in notifications]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    broker = shared_kafka()
    return Scenario(tmp_path, broker, new_topic(broker))


async def test_record_read_again_is_not_sent_again(scenario: Scenario) -> None:
    scenario.write(0, 1, 2)
    async with scenario.running():
        await until(lambda: len(scenario.sent) == 3)
    await scenario.reset_positions()
    scenario.write(3)
    async with scenario.running() as pipeline:
        await until(lambda: 3 in scenario.sent)
        assert pipeline.received["orders"] == 4, "all were read"
    assert scenario.sent == [0, 1, 2, 3]


@pytest.mark.parametrize("new", [1, 3, 8], ids=["shorter", "as long", "longer"])
async def test_recreated_topic_is_read_from_its_beginning_once(scenario: Scenario, new: int) -> None:
    scenario.write(0, 1, 2)
    async with scenario.running():
        await until(lambda: len(scenario.sent) == 3)
    scenario.recreate()
    again = [*range(100, 100 + new)]
    scenario.write(*again)
    async with scenario.running():
        await until(lambda: scenario.sent == [0, 1, 2, *again])
    scenario.write(200)
    async with scenario.running() as pipeline:
        await until(lambda: scenario.sent == [0, 1, 2, *again, 200])
        assert pipeline.received["orders"] == 1, "it goes on in the new one"


@pytest.mark.parametrize("new", [1, 3, 8], ids=["shorter", "as long", "longer"])
async def test_topic_recreated_while_reading_is_sent_once(
    scenario: Scenario, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.sources.kafka.events._CHECK_TOPICS_EVERY", 0.5)
    again = [*range(100, 100 + new)]
    async with scenario.running():
        scenario.write(0, 1, 2)
        await until(lambda: len(scenario.sent) == 3)
        scenario.recreate()
        scenario.write(*again)
        await until(lambda: {*again} <= {*scenario.sent})
        scenario.write(200)
        await until(lambda: 200 in scenario.sent)
    assert sorted(scenario.sent) == [0, 1, 2, *again, 200]
