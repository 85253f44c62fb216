"""Records as events, and what happens to invalid records."""

import json
import time

import pytest
from confluent_kafka import Producer

from support.event_reading import reading
from support.kafka import (
    Kafka,
    committed,
    new_topic,
    produce,
    stored,
)
from support.kafka_events import Cluster, numbered, numbers, source
from support.waiting import until
from tocsin.errors import SourceError, SourceReason
from tocsin.values import typed


async def test_fields_of_a_record_become_columns(broker: Kafka) -> None:
    topic = new_topic(broker)
    document = {"id": 7, "name": "Ann", "total": 12.5, "paid": False, "tags": ["a"], "note": None}
    produce(broker, topic, [("k", json.dumps(document))])
    [record] = stored(broker, topic)
    async with reading(source(broker.brokers, topic), topic) as reader:
        await until(lambda: reader.events)
    [event] = reader.events
    moment = record.timestamp()[1]
    assert (event.name, event.id, event.at) == (topic, f"{topic}/0/0@{moment}", moment)
    found = {column.name: typed(column, text) for column, text in zip(event.columns, event.row, strict=True)}
    assert found == document


async def test_include_adds_metadata_columns(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(
        broker,
        topic,
        [("k\N{EURO SIGN}", '{"a": 1}'), (b"\xff", '{"a": 2}')],
        headers={"trace": b"t-1", "raw": b"\xfe"},
    )
    include = ["key", "topic", "partition", "offset", "timestamp", "headers"]
    async with reading(source(broker.brokers, topic, include=include), topic) as reader:
        await until(lambda: len(reader.events) == 2)
    first, second = (
        {column.name: typed(column, text) for column, text in zip(event.columns, event.row, strict=True)}
        for event in reader.events
    )
    stamp = first.pop("_timestamp")
    assert round(stamp.timestamp() * 1000) == reader.events[0].at  # type: ignore[attr-defined]
    assert first == {
        "a": 1,
        "_key": "k\N{EURO SIGN}",
        "_topic": topic,
        "_partition": 0,
        "_offset": 0,
        "_headers": {"trace": "t-1", "raw": "\\xfe"},
    }
    assert second["_key"] == b"\xff"


async def test_impossible_timestamp_is_replaced(broker: Kafka) -> None:
    topic = new_topic(broker)
    producer = Producer({"bootstrap.servers": broker.brokers, "log_level": 2})
    producer.produce(topic, value='{"n": 1}', timestamp=2**62)
    assert producer.flush(20) == 0
    began = time.time()
    async with reading(source(broker.brokers, topic, include=["timestamp"]), topic) as reader:
        await until(lambda: reader.events)
    assert began - 1 < reader.events[0].at / 1000 < time.time() + 1
    assert reader.events[0].row == ("1", None)


async def test_record_from_the_future_keeps_its_time(cluster: Cluster) -> None:
    """Kafka 4 refuses a record whose time is more than an hour ahead."""
    topic, later = new_topic(cluster.broker), int(time.time() * 1000) + 3_500_000
    producer = Producer({"bootstrap.servers": cluster.broker.brokers, "log_level": 2})
    producer.produce(topic, value='{"n": 1}', timestamp=later)
    assert producer.flush(20) == 0
    async with reading(cluster.source(topic), topic) as reader:
        await until(lambda: reader.events)
    assert reader.events[0].at == later


async def test_records_of_an_open_transaction_come_with_its_end(cluster: Cluster) -> None:
    """Nor do those that were written after its begin, until then."""
    topic = new_topic(cluster.broker)
    settings = {"bootstrap.servers": cluster.broker.brokers, "log_level": 2}
    producer = Producer({**settings, "transactional.id": topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, value='{"number": 0}')
    producer.flush(20)
    produce(cluster.broker, topic, numbered([1]))
    async with reading(cluster.source(topic), topic) as reader:
        await until(lambda: reader.position)
        assert not reader.events
        producer.commit_transaction(20)
        await until(lambda: numbers(reader.events) == [0, 1])


async def test_invalid_records_are_refused_copied_and_passed(broker: Kafka) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead")
    poison: list[tuple[str, bytes | None]] = [
        ("text", b"nothing of the kind"),
        ("deep within", b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("long", json.dumps({"a": "x" * 200_000}).encode()),
        ("none", None),
    ]
    produce(broker, topic, numbered([1]))
    produce(broker, topic, poison, headers={"trace": b"t"})
    produce(broker, topic, numbered([2]))
    async with reading(source(broker.brokers, topic, max_bytes=150_000, dead_letters=dead), topic) as reader:
        await until(lambda: len(reader.events) == 2)
    refused = [one for batch in reader.batches for one in batch.refused]
    assert [one.id for one in refused] == [f"{topic}/0/{offset}" for offset in (1, 2, 3, 4)]
    assert [one.reason.value for one in refused] == ["malformed", "malformed", "too_large", "missing"]
    assert not any("nothing of the kind" in one.detail for one in refused)
    assert committed(broker, topic, topic) == [6]
    copies = stored(broker, dead)
    assert [(copy.key(), copy.value()) for copy in copies] == [(key.encode(), value) for key, value in poison]
    assert copies[0].headers() == [
        ("trace", b"t"),
        ("tocsin-source", b"k"),
        ("tocsin-at", f"{topic}/0/1".encode()),
        ("tocsin-reason", b"malformed"),
        ("tocsin-detail", b"it is not JSON: Expecting value at character 0"),
    ]


async def test_prefix_of_a_schema_registry_is_taken_off(broker: Kafka) -> None:
    """Before JSON. What else has it is Avro or Protobuf."""
    topic = new_topic(broker)
    prefix = b"\x00\x00\x00\x00\x07"
    produce(broker, topic, [(prefix + b'{"k": 1}', prefix + b'{"n": 1}'), ("k", prefix + b"\x02\x06Ann")])
    async with reading(source(broker.brokers, topic, include=["key"]), topic) as reader:
        await until(lambda: reader.events and any(batch.refused for batch in reader.batches))
    assert [event.row for event in reader.events] == [("1", '{"k": 1}')]
    [refused] = [one for batch in reader.batches for one in batch.refused]
    assert refused.detail.startswith("it has the prefix of a schema registry and is not JSON but Avro or Protobuf")
    assert "org.apache.kafka.connect.json.JsonConverter" in refused.detail


async def test_too_large_dead_letter_is_written_without_value(broker: Kafka) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead", max_message_bytes="2000")
    produce(broker, topic, [("k", "x" * 5000), ("k", "no"), *numbered([1])])
    async with reading(source(broker.brokers, topic, dead_letters=dead), topic) as reader:
        await until(lambda: reader.events)
    headers = [dict(copy.headers() or []) for copy in stored(broker, dead)]
    assert {f"{topic}/0/0".encode(), f"{topic}/0/1".encode()} == {each["tocsin-at"] for each in headers}
    assert b"left out: too large" in {each.get("tocsin-value") for each in headers}


async def test_missing_dead_letter_topic_stops_the_source(broker: Kafka) -> None:
    topic = new_topic(broker)
    with pytest.raises(SourceError, match="no topic nowhere") as caught:
        async with reading(source(broker.brokers, topic, dead_letters="nowhere"), topic):
            pass
    assert caught.value.reason is SourceReason.MISSING
    with pytest.raises(SourceError, match="use two topics"):
        async with reading(source(broker.brokers, topic, dead_letters=topic), topic):
            pass


async def test_records_without_value_can_be_skipped(broker: Kafka) -> None:
    topic = new_topic(broker)
    produce(broker, topic, [("k", None), *numbered([1])])
    async with reading(source(broker.brokers, topic, nulls="skip"), topic) as reader:
        await until(lambda: reader.events)
    assert [one for batch in reader.batches for one in batch.refused] == []
