"""The Kafka channel against a real Kafka: records, failures, settings."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.kafka import (
    USERS,
    Kafka,
    allow,
    breaks_kafka,
    login,
    make_topic,
    new_topic,
    shared_kafka,
    stored,
)
from support.kafka_channel import NOWHERE, SECRET, channel, configured, delivered, values
from support.messages import message
from support.sending import sent
from support.waiting import until_some
from tocsin.channels import kafka as kind
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Retry
from tocsin.envelope import merged
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind, fingerprint

# Records.


async def test_record_has_fingerprint_envelope_and_headers() -> None:
    broker = shared_kafka()
    topic = new_topic(broker)
    what = message(Kind.UPDATED)
    async with channel(broker.brokers, topic=topic) as to:
        assert await sent(to, what) == Delivered()
    [record] = stored(broker, topic)
    assert record.key() == what.envelope["fingerprint"].encode()
    assert json.loads(record.value() or b"") == what.envelope
    assert record.headers() == [
        ("tocsin-id", what.id.encode()),
        ("tocsin-alert", b"late"),
        ("tocsin-status", b"updated"),
    ]


async def test_records_of_one_key_keep_their_order() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, partitions=3)
    async with channel(broker.brokers, topic=topic) as to:
        for at in range(5):
            results = await to.send([message(key=key, at=at) for key in "abcdef"])
            assert set(results) == {Delivered()}
    by_key: dict[str, list[str]] = {}
    for value in values(broker, topic):
        by_key.setdefault(value["fingerprint"], []).append(value["at"])
    assert len(by_key) == 6
    assert all(times == sorted(times) and len(times) == 5 for times in by_key.values())


async def test_topic_key_and_body_are_templates() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, "team.Ann")
    template = topic.replace("Ann", "{{ labels.customer }}")
    async with channel(
        broker.brokers, topic=template, key=["customer", "order_id"], body={"late": "{{ value }}"}
    ) as to:
        assert await sent(to) == Delivered()
    [record] = stored(broker, topic)
    assert record.key() == b'{"customer":"Ann","order_id":17}'
    assert record.value() == b'{"late":3}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"topic": "{{ labels.missing }}"}, "missing"),
        ({"topic": "to {{ labels.customer }}"}, "not a valid topic name"),
        ({"topic": "t", "key": ["nothing"]}, "no column nothing"),
        ({"topic": "t", "body": ["{{ row.nothing }}"]}, "nothing"),
    ],
)
async def test_template_error_is_a_dead_letter(options: dict[str, Any], expected: str) -> None:
    async with channel(NOWHERE, **options) as to:
        result = await sent(to)
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert expected in result.detail


async def test_state_topic_has_tombstones_for_resolved_rows() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, cleanup_policy="compact")
    kinds = (Kind.FIRED, Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED, Kind.EVENT)
    async with channel(broker.brokers, topic=topic, state=True) as to:
        results = [await sent(to, message(each)) for each in kinds]
    assert [type(result) for result in results] == [Delivered] * 5
    records = stored(broker, topic)
    assert {record.key() for record in records} == {fingerprint("late", ["17"]).encode()}
    found = [None if (value := record.value()) is None else json.loads(value)["status"] for record in records]
    assert found == ["fired", "updated", "repeated", None]


async def test_state_topic_has_latest_of_each_merged_row() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, cleanup_policy="compact")
    many = [
        message(Kind.FIRED, key="a"),
        message(Kind.FIRED, key="b"),
        message(Kind.RESOLVED, key="a"),
        message(Kind.UPDATED, key="b"),
    ]
    together = merged([each.envelope for each in many])
    what = Message(id=together["id"], alert="late", kind=Kind.UPDATED, envelope=together)
    async with channel(broker.brokers, topic=topic, state=True, key=["order_id"]) as to:
        assert await sent(to, what) == Delivered()
    found = {record.key(): record.value() for record in stored(broker, topic)}
    assert found.keys() == {b'{"order_id":"a"}', b'{"order_id":"b"}'}
    assert found[b'{"order_id":"a"}'] is None
    assert json.loads(found[b'{"order_id":"b"}'] or b"") == many[3].envelope


# Failures.


async def test_only_too_large_record_of_batch_is_rejected() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, max_message_bytes="5000")
    many = [message(key=str(number), extra={"note": ("text", "x" * 800)}) for number in range(20)]
    many[7] = message(key="7", extra={"note": ("text", "x" * 6000)})
    async with channel(broker.brokers, topic=topic) as to:
        results = await to.send(many)
    assert [type(result) for result in results] == [Rejected if number == 7 else Delivered for number in range(20)]
    assert isinstance(results[7], Rejected)
    assert results[7].reason is Reason.TOO_LARGE
    assert sorted(value["id"] for value in values(broker, topic)) == sorted(
        one.id for number, one in enumerate(many) if number != 7
    )


async def test_record_beyond_max_bytes_is_rejected() -> None:
    broker = shared_kafka()
    async with channel(broker.brokers, topic=new_topic(broker), max_bytes=1000) as to:
        result = await sent(to, message(extra={"note": ("text", "x" * 2000)}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TOO_LARGE
    assert "max_bytes" in result.detail


async def test_missing_topic_is_retried_with_a_fix() -> None:
    broker = shared_kafka()
    name = new_topic(broker) + "-later"
    async with channel(broker.brokers, topic=name, timeout="2s") as to:
        result = await sent(to)
        assert isinstance(result, Retry)
        assert result.reason is Reason.NOT_FOUND
        assert name in result.detail
        assert "create: true" in result.detail
        make_topic(broker, name)
        assert await until_some(lambda: delivered(to))


async def test_unreachable_cluster_is_retried_with_the_reason() -> None:
    async with channel(NOWHERE, topic="t", timeout="500ms") as to:
        result = await sent(to)
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert "refused" in result.detail


@breaks_kafka
async def test_broker_that_comes_back_has_every_notification(own: Kafka) -> None:
    """After a kill, and after a silence; a repeat has the same id."""
    make_topic(own, "t")
    async with channel(own.brokers, topic="t", timeout="1s") as to:
        assert await until_some(lambda: delivered(to, "before"))  # a broker that has just started takes a while
        own.kill()
        assert isinstance(await sent(to, message(key="while")), Retry)
        own.start()
        assert await until_some(lambda: delivered(to, "while", "after"))
        own.freeze()
        result = await sent(to, message(key="silent"))
        assert isinstance(result, Retry)
        assert result.reason in (Reason.TIMEOUT, Reason.CONNECTION)
        own.thaw()
        assert await until_some(lambda: delivered(to, "silent"))
    expected = {message(key=key).id.encode() for key in ("before", "while", "after", "silent")}
    assert {dict(record.headers() or [])["tocsin-id"] for record in stored(own, "t")} == expected


@breaks_kafka
async def test_connection_error_is_reported_only_while_it_lasts(own: Kafka) -> None:
    make_topic(own, "small", max_message_bytes="100")  # so that nothing is delivered, and yet the broker answers
    unreachable = [f"127.0.0.1:{port}" for port in range(1, 4)]

    async def failed_for(reason: Reason) -> bool:
        result = await sent(to)
        assert isinstance(result, Retry | Rejected)
        assert result.reason is reason, result
        assert ("refused" in result.detail) == (reason is Reason.CONNECTION), result
        return True

    at: dict[str, Any] = {
        "bootstrap_servers": [*unreachable, own.brokers],
        "librdkafka": {"reconnect.backoff.max.ms": "500"},
    }
    async with channel(own.brokers, topic="small", timeout="1s", **at) as to:
        assert await until_some(lambda: failed_for(Reason.TOO_LARGE))
        own.kill()
        assert await until_some(lambda: failed_for(Reason.CONNECTION))
        assert await failed_for(Reason.CONNECTION), "again, though the library reports it once"
        own.start()
        assert await until_some(lambda: failed_for(Reason.TOO_LARGE))
        own.freeze()
        assert await failed_for(Reason.TIMEOUT)
        own.thaw()


async def test_close_does_not_wait_for_a_silent_broker() -> None:
    async with channel(NOWHERE, topic="t", timeout="1h") as to:
        waiting = asyncio.create_task(sent(to))
        await asyncio.sleep(0)
        await to.close()
        assert isinstance(await waiting, Retry)


async def test_only_a_trusted_broker_gets_records(broker: Kafka) -> None:
    topic = new_topic(broker)
    admin = login(broker, "admin")
    async with channel(broker.guarded, topic=topic, timeout="1500ms", **admin | {"tls_ca": None}) as to:
        result = await sent(to)
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert "certificate" in result.detail
    async with channel(broker.guarded, topic=topic, **admin) as to:
        assert await to.verify() == []
        assert await sent(to) == Delivered()
    assert len(stored(broker, topic)) == 1


@pytest.mark.parametrize(
    ("user", "password"),
    [("admin", SECRET + "-wrong"), ("stranger", USERS["stranger"])],
    ids=["wrong password", "no right"],
)
async def test_refused_user_pauses_the_channel(broker: Kafka, user: str, password: str) -> None:
    topic, as_user = new_topic(broker), login(broker, user, password)
    with capture_logs() as lines:
        async with channel(broker.guarded, topic=topic, timeout="1500ms", **as_user) as to:
            result = await sent(to)
            shown = [result, to, configured("h:1", **as_user), lines, await to.verify()]
    assert isinstance(result, Paused)
    assert result.reason is Reason.UNAUTHORIZED
    assert password not in repr(shown)


async def test_user_without_rights_pauses_and_names_the_right(broker: Kafka) -> None:
    """The cluster refuses an idempotent producer, and every record fails with it."""
    topic = new_topic(broker)
    allow(broker, "stranger", "DESCRIBE", topic)
    async with channel(broker.guarded, topic=topic, **login(broker, "stranger")) as to:
        results = [await sent(to) for _ in range(2)]
    for result in results:
        assert isinstance(result, Paused)
        assert result.reason is Reason.UNAUTHORIZED
        assert "Cluster authorization failed" in result.detail
        assert "WRITE on the topic" in result.detail


# Settings.


@pytest.mark.parametrize(
    "settings",
    [{"librdkafka": {"no.such.setting": SECRET}}, {"librdkafka": {"socket.timeout.ms": "soon"}}],
    ids=["unknown", "not a number"],
)
def test_setting_unknown_to_the_library_is_refused(settings: dict[str, Any]) -> None:
    config = configured("h:1", topic="t", **settings)
    with pytest.raises(ConfigError, match=r"channels\.k: librdkafka refuses") as caught:
        kind.build("k", config, {"late": config})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bootstrap_servers": ["kafka:port"]}, "not host:port"),
        ({"bootstrap_servers": ["http://kafka:9092"]}, "not host:port"),
        ({"sasl_username": "u"}, "also set sasl_mechanism and sasl_password"),
        ({"tls_ca": "ca.pem"}, "only with tls: true"),
        ({"tls": True, "tls_cert": "c.pem"}, "together"),
        ({"topic": "a b"}, "not a valid topic name"),
        ({"librdkafka": {"acks": "0"}}, "acks is set by Tocsin"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind.Config.model_validate({"type": "kafka", "bootstrap_servers": ["h:1"], **settings})
