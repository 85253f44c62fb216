"""A compacted Kafka topic as rows that come and go, against a real Kafka."""

import asyncio
import json
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from support.kafka import Kafka, breaks_kafka, drop_topic, make_topic, new_topic, produce, shared_kafka
from support.messages import message
from tocsin.channels import kafka as channel_kind
from tocsin.channels.base import Delivered
from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Kind, Row
from tocsin.sources import kafka as kind
from tocsin.sources.base import Stream, Subject
from tocsin.sources.kafka.state import KafkaState
from tocsin.values import typed


def source(at: str, **settings: Any) -> KafkaState:
    values = {"bootstrap_servers": [at], "state": True, **settings}
    made = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(made, KafkaState)
    return made


def record(key: object, value: object) -> tuple[str, str | None]:
    return json.dumps(key), None if value is None else json.dumps(value)


class View:
    """The rows of a stream by multiplicity. Every update is checked."""

    def __init__(self, stream: Stream) -> None:
        self.columns = stream.columns
        self.batches: list[Batch] = []
        self.rows: Counter[Row] = Counter()
        self.times: list[int] = []
        self._batches = stream.batches()

    async def next(self) -> Batch:
        batch = await asyncio.wait_for(anext(self._batches), 20)
        if batch.snapshot is not None:
            self.rows.clear()
        frontier = self.batches[-1].frontier if self.batches else 0
        for at, diff, row in batch.updates:
            assert at >= (frontier or 0)
            assert at < (batch.frontier or 0)
            self.times.append(at)
            self.rows[row] += diff
            assert self.rows[row] >= 0
        assert self.times == sorted(self.times)
        assert (batch.frontier or 0) >= (frontier or 0)
        self.batches.append(batch)
        return batch

    async def until(self, *expected: dict[str, object]) -> None:
        async with asyncio.timeout(20):
            while self.found != sorted(expected, key=repr):
                await self.next()

    @property
    def found(self) -> list[dict[str, object]]:
        return sorted((self._typed(row) for row in self.rows.elements()), key=repr)

    def _typed(self, row: Row) -> dict[str, object]:
        return {column.name: typed(column, text) for column, text in zip(self.columns, row, strict=True)}


def names(columns: Columns) -> list[str]:
    return [column.name for column in columns]


async def test_topic_is_read_as_snapshot_then_changes(broker: Kafka) -> None:
    topic = new_topic(broker, cleanup_policy="compact", partitions=2)
    ann, bob = record({"id": 1}, {"id": 1, "name": "Ann"}), record({"id": 2}, {"id": 2, "name": "Bob"})
    produce(broker, topic, [record({"id": 1}, {"id": 1, "name": "An"}), ann, bob, record({"id": 2}, None)])
    async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        first = await view.next()
        assert names(stream.columns) == ["id", "name"]
        assert first.polled
        assert (first.snapshot, first.frontier) == (first.updates[0][0], first.updates[0][0] + 1)
        assert view.found == [{"id": 1, "name": "Ann"}]
        produce(broker, topic, [bob])
        await view.until({"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"})
        produce(broker, topic, [record({"id": 1}, {"id": 1, "name": "Anna"}), record({"id": 2}, None)])
        await view.until({"id": 1, "name": "Anna"})
        produce(broker, topic, [bob])  # the same row again
        await view.until({"id": 1, "name": "Anna"}, {"id": 2, "name": "Bob"})
        assert all(batch.snapshot is None for batch in view.batches[1:])


async def test_frontier_advances_each_second_without_records(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        frontiers = [(await view.next()).frontier or 0 for _ in range(3)]
    assert all(500 < later - earlier < 20_000 for earlier, later in pairwise(frontiers))


async def test_row_inserted_and_deleted_in_one_batch_appears(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        produce(broker, topic, [record({"id": 2}, {"id": 2}), record({"id": 2}, None), record({"id": 3}, {"id": 3})])
        await view.until({"id": 1}, {"id": 3})
        changes = [(at, diff) for batch in view.batches[1:] for at, diff, row in batch.updates if row == ("2",)]
    assert [diff for _, diff in changes] == [1, -1]
    assert changes[0][0] < changes[1][0]


async def test_snapshot_is_later_than_resume_frontier(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    ahead = 4_000_000_000_000
    async with source(broker.brokers).open(Subject(topic=topic), as_of=ahead) as stream:
        batch = await View(stream).next()
    assert batch.snapshot is not None
    assert batch.snapshot > ahead


@given(
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))), max_size=12),
)
@settings(max_examples=4, deadline=None)
def test_stream_and_snapshot_have_latest_of_each_key(
    before: list[tuple[int, int | None]], after: list[tuple[int, int | None]]
) -> None:
    broker = shared_kafka()
    topic = new_topic(broker, partitions=2)

    def write(changes: list[tuple[int, int | None]]) -> None:
        produce(broker, topic, [record({"k": k}, None if v is None else {"v": v}) for k, v in changes])

    def latest(changes: list[tuple[int, int | None]]) -> list[dict[str, object]]:
        return [{"k": k, "v": v} for k, v in dict(changes).items() if v is not None]

    async def run() -> None:
        at = source(broker.brokers, columns={"k": "integer", "v": "integer"})
        write(before)
        async with at.open(Subject(topic=topic), as_of=None) as stream:
            view = View(stream)
            await view.next()
            assert view.found == sorted(latest(before), key=repr)
            write(after)
            await view.until(*latest([*before, *after]))
        async with at.open(Subject(topic=topic), as_of=None) as stream:
            view = View(stream)
            await view.next()
            assert view.found == sorted(latest([*before, *after]), key=repr)

    asyncio.run(run())


# Columns.


async def test_columns_and_types_are_inferred_from_records(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(
        broker,
        topic,
        [
            record({"id": 1}, {"n": 1, "x": 1, "mixed": 1, "tags": ["a"], "ok": True}),
            record({"id": 2}, {"n": 2.5, "x": None, "mixed": "two", "late": "yes"}),
            record({"id": 3}, {"n": 10**30}),
        ],
    )
    at = source(broker.brokers)
    found = {column.name: column.oid for column in await at.describe(Subject(topic=topic))}
    assert found == {"id": 20, "n": 1700, "x": 20, "mixed": 25, "tags": 3802, "ok": 16, "late": 25}
    sample = await at.sample(Subject(topic=topic))
    assert sample == ("1", "1", "1", "1", '["a"]', "t", None)


async def test_configured_columns_hold_for_an_empty_topic(
    broker: Kafka,
) -> None:
    topic = new_topic(broker)
    at = source(broker.brokers, columns={"id": "integer", "doc": "jsonb", "n": "numeric"})
    assert await at.sample(Subject(topic=topic)) is None
    with capture_logs() as lines:
        async with at.open(Subject(topic=topic), as_of=None) as stream:
            view = View(stream)
            assert (await view.next()).updates == []
            for number in range(3):
                produce(broker, topic, [record({"id": number}, {"n": 1.5, "doc": "a text", "odd": number})])
            await view.until(*({"id": number, "doc": "a text", "n": Decimal("1.5")} for number in range(3)))
    assert [line["fields"] for line in lines if "left out" in line["event"]] == [["odd"]]


async def test_empty_topic_without_columns_is_refused(broker: Kafka) -> None:
    topic = new_topic(broker)
    with pytest.raises(SourceError, match="set `columns` in the source") as caught:
        async with source(broker.brokers).open(Subject(topic=topic), as_of=None):
            pass
    assert caught.value.reason is SourceReason.SHAPE


async def test_invalid_record_keeps_the_row_of_its_key(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"v": 1})])
    with capture_logs() as lines:
        async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
            view = View(stream)
            await view.next()
            produce(broker, topic, [('{"id": 1}', "no"), (None, '{"v": 5}'), record({"id": 2}, {"v": 2})])
            await view.until({"id": 1, "v": 1}, {"id": 2, "v": 2})
    [line] = [line for line in lines if "invalid record" in line["event"]]
    assert (line["at"], line["reason"]) == (f"{topic}/0/1", "malformed")


# Writers of such topics.


async def test_debezium_changes_are_read_as_rows(broker: Kafka) -> None:
    topic = new_topic(broker)

    def change(before: object, after: object) -> tuple[str, str | None]:
        return record({"id": 1}, {"before": before, "after": after, "op": "u"})

    produce(broker, topic, [change(None, {"id": 1, "v": 1})])
    async with source(broker.brokers, envelope="debezium").open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        assert view.found == [{"id": 1, "v": 1}]
        produce(broker, topic, [change({"id": 1, "v": 1}, {"id": 1, "v": 2})])
        await view.until({"id": 1, "v": 2})
        produce(broker, topic, [change({"id": 1, "v": 2}, None)])
        await view.until()


async def test_debezium_changes_with_a_schema_id_are_rows(broker: Kafka) -> None:
    topic, prefix = new_topic(broker), b"\x00\x00\x00\x00\x07"
    change = {"before": None, "after": {"id": 1, "v": "AfQ="}, "op": "c"}
    produce(broker, topic, [(prefix + b'{"id": 1, "k": 2}', prefix + json.dumps(change).encode())])
    async with source(broker.brokers, envelope="debezium").open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        assert view.found == [{"id": 1, "k": 2, "v": "AfQ="}]


async def test_aborted_transactions_are_not_read(broker: Kafka) -> None:
    """A Materialize sink writes in transactions."""
    topic = new_topic(broker)
    producer = Producer({"bootstrap.servers": broker.brokers, "transactional.id": topic, "log_level": 2})
    producer.init_transactions(20)
    for key, commit in (("a", True), ("b", False)):
        producer.begin_transaction()
        producer.produce(topic, key=f'{{"k": "{key}"}}', value='{"v": 1}')
        producer.flush(20)
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)
    async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        assert view.found == [{"k": "a", "v": 1}]


async def test_state_written_by_channel_can_be_watched(broker: Kafka) -> None:
    topic = new_topic(broker, cleanup_policy="compact")
    config = channel_kind.Config.model_validate(
        {
            "type": "kafka",
            "bootstrap_servers": [broker.brokers],
            "topic": topic,
            "state": True,
            "key": ["order_id"],
            "body": {"customer": "{{ labels.customer }}"},
        }
    )
    channel = channel_kind.build("k", config, {"late": config})
    try:
        assert await channel.send([message(key="a"), message(key="b")]) == [Delivered(), Delivered()]
        async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
            view = View(stream)
            await view.next()
            assert view.found == [{"order_id": key, "customer": "Ann"} for key in "ab"]
            await channel.send([message(Kind.RESOLVED, key="a")])
            await view.until({"order_id": "b", "customer": "Ann"})
    finally:
        await channel.close()


# Faults.


@breaks_kafka
async def test_killed_broker_ends_the_stream(own: Kafka) -> None:
    topic = new_topic(own)
    produce(own, topic, [record({"id": 1}, {"id": 1})])
    at = source(own.brokers, snapshot_timeout="20s")
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        own.kill()
        with pytest.raises(SourceError) as caught:
            await view.until({"id": "never"})
    assert caught.value.reason is SourceReason.DISCONNECTED
    own.start()
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        assert view.found == [{"id": 1}]


@breaks_kafka
async def test_silent_broker_is_a_stall(own: Kafka) -> None:
    topic = new_topic(own)
    produce(own, topic, [record({"id": 1}, {"id": 1})])
    at = source(own.brokers, progress_timeout="2s")
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        own.freeze()
        try:
            with pytest.raises(SourceError) as caught:
                await view.until({"id": "never"})
        finally:
            own.thaw()
    assert caught.value.reason in (SourceReason.STALLED, SourceReason.DISCONNECTED)


async def test_missing_or_deleted_topic_is_reported(broker: Kafka) -> None:
    at = source(broker.brokers)
    with pytest.raises(SourceError, match="no topic nowhere") as caught:
        await at.describe(Subject(topic="nowhere"))
    assert caught.value.reason is SourceReason.MISSING
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        drop_topic(broker, topic)
        with pytest.raises(SourceError, match=topic) as caught:
            await view.until({"id": "never"})
    assert caught.value.reason is SourceReason.MISSING


async def test_added_partitions_end_the_stream_as_replaced(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.sources.kafka.state._LAYOUT_EVERY", 1)
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    async with source(broker.brokers).open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        admin = AdminClient({"bootstrap.servers": broker.brokers})
        [done] = admin.create_partitions([NewPartitions(topic, 2)]).values()
        done.result(timeout=20)
        with pytest.raises(SourceError, match="other partitions") as caught:
            await view.until({"id": "never"})
    assert caught.value.reason is SourceReason.REPLACED


async def test_recreated_topic_is_read_from_scratch(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.sources.kafka.state._LAYOUT_EVERY", 1)
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    at = source(broker.brokers)
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        drop_topic(broker, topic)
        make_topic(broker, topic)
        produce(broker, topic, [record({"id": 2}, {"id": 2}), record({"id": 3}, {"id": 3})])
        with pytest.raises(SourceError, match=topic):
            await view.until({"id": "never"})
    async with at.open(Subject(topic=topic), as_of=None) as stream:
        view = View(stream)
        await view.next()
        assert view.found == [{"id": 2}, {"id": 3}]


async def test_snapshot_timeout_is_reported_as_stall(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [record({"id": 1}, {"id": 1})])
    with pytest.raises(SourceError, match="not read to its end") as caught:
        async with source(broker.brokers, snapshot_timeout="1ms").open(Subject(topic=topic), as_of=None):
            pass
    assert caught.value.reason is SourceReason.STALLED
