"""The Kafka channel against a real Kafka: what arrives, and what is told when it does not."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.kafka import Kafka, allow, kafka, make_topic, new_topic, shared_kafka, stored
from support.kafka_channel import SECRET, USERS, channel, configured, delivered, login, sent
from support.messages import message
from support.waiting import until_some
from tocsin.channels import kafka as kind
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Retry
from tocsin.envelope import merged
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind, fingerprint


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A running Kafka with users, which is reached over TLS."""
    with kafka(tmp_path_factory.mktemp("guarded"), USERS, tls=True) as broker:
        broker.start()
        yield broker


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka to be ill-treated, which does not run yet."""
    with kafka(tmp_path) as broker:
        yield broker


def values(broker: Kafka, topic: str) -> list[Any]:
    return [json.loads(record.value() or b"null") for record in stored(broker, topic)]


# What arrives.


async def test_a_record_has_the_fingerprint_as_key_the_envelope_as_value_and_headers_that_say_what_it_is() -> None:
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


async def test_the_notifications_of_one_key_stand_in_the_order_in_which_they_were_sent() -> None:
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


async def test_topic_key_and_value_can_be_made_of_the_row() -> None:
    broker = shared_kafka()
    topic = new_topic(broker, "team.Ann")
    template = topic.replace("Ann", "{{ labels.customer }}")
    async with channel(
        broker.brokers, topic=template, key=["customer", "order_id"], body={"late": "{{ value }}"}
    ) as to:
        assert await sent(to, message()) == Delivered()
    [record] = stored(broker, topic)
    assert record.key() == b'{"customer":"Ann","order_id":17}'
    assert record.value() == b'{"late":3}'


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"topic": "{{ labels.nobody }}"}, "nobody"),
        ({"topic": "to {{ labels.customer }}"}, "no name of a topic"),
        ({"topic": "t", "key": ["nothing"]}, "no column nothing"),
        ({"topic": "t", "body": ["{{ row.nothing }}"]}, "nothing"),
    ],
)
async def test_a_template_that_does_not_fit_the_row_is_a_dead_letter_that_says_so(
    options: dict[str, Any], told: str
) -> None:
    async with channel("127.0.0.1:1", **options) as to:
        result = await sent(to, message())
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert told in result.detail


async def test_with_state_the_topic_holds_what_fires_and_a_tombstone_for_what_does_not() -> None:
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


async def test_with_state_each_row_of_a_merged_notification_has_its_latest() -> None:
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


# What is told when it does not arrive.


async def test_a_record_that_is_too_large_is_rejected_alone_though_the_broker_refuses_the_whole_batch() -> None:
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


async def test_a_record_beyond_our_own_limit_is_rejected() -> None:
    broker = shared_kafka()
    async with channel(broker.brokers, topic=new_topic(broker), max_bytes=1000) as to:
        result = await sent(to, message(extra={"note": ("text", "x" * 2000)}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TOO_LARGE
    assert "max_bytes" in result.detail


async def test_a_topic_that_is_not_there_is_waited_for_with_the_remedy() -> None:
    broker = shared_kafka()
    name = new_topic(broker) + "-later"
    async with channel(broker.brokers, topic=name, timeout="2s") as to:
        result = await sent(to, message())
        assert isinstance(result, Retry)
        assert result.reason is Reason.NOT_FOUND
        assert name in result.detail
        assert "create: true" in result.detail
        make_topic(broker, name)
        assert await until_some(lambda: delivered(to))


async def test_a_cluster_that_is_not_there_is_retried_with_the_reason() -> None:
    async with channel("127.0.0.1:1", topic="t", timeout="500ms") as to:
        result = await sent(to, message())
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert "refused" in result.detail


async def test_a_broker_that_dies_and_comes_back_has_every_notification(own: Kafka) -> None:
    own.start()
    make_topic(own, "t")
    async with channel(own.brokers, topic="t", timeout="1s") as to:
        assert await until_some(lambda: delivered(to, "before"))  # a broker that has just started takes a while
        own.kill()
        assert isinstance(await sent(to, message(key="while")), Retry)
        own.start()
        assert await until_some(lambda: delivered(to, "while", "after"))
    assert {"before", "while", "after"} <= {value["row"]["order_id"] for value in values(own, "t")}


async def test_a_broker_that_does_not_answer_is_retried_and_a_repeat_has_the_same_id(own: Kafka) -> None:
    own.start()
    make_topic(own, "t")
    async with channel(own.brokers, topic="t", timeout="1s") as to:
        assert await until_some(lambda: delivered(to, "first"))
        own.freeze()
        result = await sent(to, message())
        assert isinstance(result, Retry)
        assert result.reason in (Reason.TIMEOUT, Reason.CONNECTION)
        own.thaw()
        assert await until_some(lambda: delivered(to))
    ids = {dict(record.headers() or [])["tocsin-id"] for record in stored(own, "t")}
    assert ids == {message(key="first").id.encode(), message().id.encode()}


async def test_the_error_of_a_connection_is_told_while_it_lasts_and_never_for_what_fails_after_it(own: Kafka) -> None:
    own.start()
    make_topic(own, "t", max_message_bytes="100")  # so that nothing is delivered, and yet the broker answers
    nobody = [f"127.0.0.1:{port}" for port in range(1, 4)]

    async def told(reason: Reason) -> bool:
        result = await sent(to, message())
        assert isinstance(result, Retry | Rejected)
        assert result.reason is reason, result
        assert ("refused" in result.detail) == (reason is Reason.CONNECTION), result
        return True

    at: dict[str, Any] = {
        "bootstrap_servers": [*nobody, own.brokers],
        "librdkafka": {"reconnect.backoff.max.ms": "500"},
    }
    async with channel(own.brokers, topic="t", timeout="2s", **at) as to:
        assert await until_some(lambda: told(Reason.TOO_LARGE))
        own.kill()
        assert await until_some(lambda: told(Reason.CONNECTION))
        assert await told(Reason.CONNECTION), "again, though the library reports it once"
        own.start()
        assert await until_some(lambda: told(Reason.TOO_LARGE))
        own.freeze()
        assert await told(Reason.TIMEOUT)
        own.thaw()


async def test_closing_while_nothing_answers_does_not_wait_for_it() -> None:
    async with channel("127.0.0.1:1", topic="t", timeout="1h") as to:
        waiting = asyncio.create_task(sent(to, message()))
        await asyncio.sleep(0)
        await to.close()
        assert isinstance(await waiting, Retry)


async def test_who_logs_in_can_write(guarded: Kafka) -> None:
    topic = new_topic(guarded)
    async with channel(guarded.guarded, topic=topic, **login(guarded, "admin", SECRET)) as to:
        assert await to.verify() == []
        assert await sent(to, message()) == Delivered()
    assert len(stored(guarded, topic)) == 1


async def test_a_broker_whose_certificate_is_not_trusted_is_given_nothing(guarded: Kafka) -> None:
    topic = new_topic(guarded)
    trusting_nobody_special = login(guarded, "admin", SECRET) | {"tls_ca": None}
    async with channel(guarded.guarded, topic=topic, timeout="1500ms", **trusting_nobody_special) as to:
        result = await sent(to, message())
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert "certificate" in result.detail
    assert stored(guarded, topic) == []


@pytest.mark.parametrize(
    ("user", "password"),
    [("admin", SECRET + "-wrong"), ("guest", USERS["guest"])],
    ids=["a wrong password", "no right to the topic"],
)
async def test_who_may_not_write_pauses_the_channel_and_no_password_is_told(
    guarded: Kafka, user: str, password: str
) -> None:
    topic = new_topic(guarded)
    with capture_logs() as lines:
        async with channel(guarded.guarded, topic=topic, timeout="1500ms", **login(guarded, user, password)) as to:
            result = await sent(to, message())
            told = [result, to, configured("h:1", **login(guarded, user, password)), lines, await to.verify()]
    assert isinstance(result, Paused)
    assert result.reason is Reason.UNAUTHORIZED
    assert password not in repr(told)


async def test_who_may_write_nowhere_is_told_which_right_is_missing(guarded: Kafka) -> None:
    """Then the cluster gives an idempotent producer no number, and every record ends with the producer."""
    topic = new_topic(guarded)
    allow(guarded, "guest", "DESCRIBE", topic)
    async with channel(guarded.guarded, topic=topic, **login(guarded, "guest", USERS["guest"])) as to:
        results = [await sent(to, message()) for _ in range(2)]
    for result in results:
        assert isinstance(result, Paused)
        assert result.reason is Reason.UNAUTHORIZED
        assert "Cluster authorization failed" in result.detail
        assert "WRITE on the topic" in result.detail


# What is wrong with the configuration.


def test_an_alert_without_a_topic_is_told() -> None:
    config = configured("h:1")
    with pytest.raises(ConfigError, match=r"alerts\.late\.notify: channel k: no topic is given"):
        kind.build("k", config, {"late": config})


@pytest.mark.parametrize(
    "settings",
    [{"librdkafka": {"no.such.setting": SECRET}}, {"librdkafka": {"socket.timeout.ms": "soon"}}],
    ids=["unknown", "not a number"],
)
def test_a_setting_that_the_library_does_not_know_is_told(settings: dict[str, Any]) -> None:
    config = configured("h:1", topic="t", **settings)
    with pytest.raises(ConfigError, match=r"channels\.k: librdkafka does not take") as caught:
        kind.build("k", config, {"late": config})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bootstrap_servers": ["kafka:port"]}, "not host:port"),
        ({"bootstrap_servers": ["http://kafka:9092"]}, "not host:port"),
        ({"sasl_username": "u"}, "sasl_mechanism and sasl_password must be given too"),
        ({"tls_ca": "ca.pem"}, "only with tls: true"),
        ({"tls": True, "tls_cert": "c.pem"}, "together"),
        ({"topic": "a b"}, "no name of a topic"),
        ({"librdkafka": {"acks": "0"}}, "acks is set by Tocsin"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_the_remedy(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind.Config.model_validate({"type": "kafka", "bootstrap_servers": ["h:1"], **settings})
