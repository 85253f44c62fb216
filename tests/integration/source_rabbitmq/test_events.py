"""RabbitMQ as a source of events, against a real broker: messages as events."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import encode
from pamqp.commands import Basic

from support.event_reading import reading
from support.rabbitmq import USER, Peer, RabbitMQ
from support.rabbitmq_reading import ENVELOPE, rows, source


async def test_each_type_of_envelope_becomes_an_event(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue)) as found:
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        await other.send(queue, ENVELOPE, message_id="m-1", timestamp=at)
        events = await found.until(2)
    assert rows(events) == [(name, {"order": 7, "paid": False}) for name in ("email", "sms")]
    assert [event.id for event in events] == ["m-1/email", "m-1/sms"]
    assert {event.at for event in events} == {round(at.timestamp() * 1000)}


async def test_routing_key_is_name_and_bindings_select(broker: RabbitMQ, other: Peer, queue: str) -> None:
    settings = {"exchange": queue + ".x", "binding_keys": ["orders.*", "fraud.#"], "name_from": "routing_key"}
    async with reading(source(broker, queue, **settings)) as found:
        for key in ("orders.late", "fraud", "fraud.card.lost"):
            await other.send(key, {"n": 1}, exchange=queue + ".x")
        names = [event.name for event in await found.until(3)]
    assert names == ["orders.late", "fraud", "fraud.card.lost"]
    with pytest.raises(Exception, match="NO_ROUTE"):
        await other.send("orders.late.again", {"n": 1}, exchange=queue + ".x")


@pytest.mark.parametrize(("type_", "keys"), [("direct", ["one", "two"]), ("fanout", [])])
async def test_exchanges_of_any_type_can_be_declared_again(
    broker: RabbitMQ, other: Peer, queue: str, type_: str, keys: list[str]
) -> None:
    for exchange in (f"{queue}.1", f"{queue}.2", f"{queue}.1"):
        made = source(broker, queue, exchange=exchange, exchange_type=type_, binding_keys=keys, exchange_durable=False)
        async with reading(made) as found:
            await other.send("one", {"alert": exchange}, exchange=exchange)
            assert [event.name for event in await found.until(1)] == [exchange]


async def test_equal_messages_are_separate_events(broker: RabbitMQ, other: Peer, queue: str) -> None:
    async with reading(source(broker, queue)) as found:
        await other.send(queue, {"alert": "a"}, {"alert": "a"})
        assert len({event.id for event in await found.until(2)}) == 2


async def test_timestamp_in_milliseconds_is_recognized(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(source(broker, queue)) as found:
        with monkeypatch.context() as patched:
            patched.setitem(encode.METHODS, "timestamp", lambda value: int(value.timestamp() * 1000).to_bytes(8, "big"))
            await other.send(queue, {"alert": "a"}, timestamp=datetime(2026, 1, 2, tzinfo=UTC))
        [event] = await found.until(1)
    assert event.at == 1_767_312_000_000


@pytest.mark.parametrize("properties", [{"timestamp": datetime(2026, 1, 2, tzinfo=UTC)}, {"type": "\xff"}])
async def test_unreadable_property_dead_letters_only_its_message(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch, properties: dict[str, Any]
) -> None:
    body = b'{"alert": "bad", "x": "' + b"y" * 150_000 + b'"}'  # more than one frame
    async with reading(source(broker, queue)) as found:
        await other.send(queue, {"alert": "before"})
        with monkeypatch.context() as patched:
            microseconds = (1_767_312_000_000_000).to_bytes(8, "big")
            patched.setitem(encode.METHODS, "timestamp", lambda _: microseconds)
            write = encode.short_string
            patched.setitem(encode.METHODS, "shortstr", lambda value: b"\x01\xff" if value == "\xff" else write(value))
            await other.send(queue, body, app_id="shop", **properties)
        await other.send(queue, {"alert": "after"})
        assert [event.name for event in await found.until(2)] == ["before", "after"]
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert dead.body == body
    assert dead.headers["x-tocsin-reason"] == "malformed"
    assert dead.headers["x-tocsin-detail"] == "its properties cannot be read"
    assert await other.counts(queue) == (0, 0)


async def test_dead_letter_drops_headers_that_fill_a_frame(broker: RabbitMQ, other: Peer, queue: str) -> None:
    """A frame has 131072 bytes; with more, RabbitMQ closes the connection, and delivers the message again."""
    async with reading(source(broker, queue)) as found:
        await other.send(queue, b"not JSON", headers={"x": "y" * 130_900}, app_id="shop")
        await other.send(queue, b"not JSON", headers={"x": "y" * 100_000})
        await other.send(queue, {"alert": "after"})
        await found.until(1)
        full, other_one = await other.taken(f"{queue}.dead", 2)
    assert "x" not in full.headers
    assert (full.body, full.app_id, full.headers["x-tocsin-reason"]) == (b"not JSON", "shop", "malformed")
    assert len(str(other_one.headers["x"])) == 100_000


async def test_routing_key_with_invalid_utf8_is_read(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"exchange": queue + ".x", "binding_keys": "#", "name_from": ["body.alert", "routing_key"]}
    async with reading(source(broker, queue, **settings)) as found:
        with monkeypatch.context() as patched:
            write = encode.short_string
            patched.setitem(
                encode.METHODS, "shortstr", lambda value: b"\x05caf\xe9s" if value == "cafes" else write(value)
            )
            await other.send("cafes", {"alert": "a"}, {"n": 1}, exchange=queue + ".x")
        assert [event.name for event in await found.until(2)] == ["a", "caf?s"]


async def test_dead_letter_keeps_properties_that_can_be_written(
    broker: RabbitMQ, other: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = encode.encode_table_value
    async with reading(source(broker, queue)):
        wire = await other.channel.get_underlay_channel()
        headers: dict[str, Any] = {"latin": "\xff", "list": [1]}
        with monkeypatch.context() as patched:
            # A text that is not UTF-8, as other libraries send it.
            latin = b"S\x00\x00\x00\x01\xff"
            patched.setattr(encode, "encode_table_value", lambda value: latin if value == "\xff" else write(value))
            properties = Basic.Properties(
                priority=9, headers=headers, expiration="60000", user_id=USER, message_type="t"
            )
            await wire.basic_publish(b"not JSON", routing_key=queue, properties=properties)
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert (dead.headers["latin"], dead.headers["list"]) == (r"b'\xff'", [1])
    assert (dead.priority, dead.type, dead.expiration, dead.user_id) == (9, "t", None, None)
