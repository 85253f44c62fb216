"""RabbitMQ as a source of events, against a real broker: messages as events."""

import asyncio
import gzip
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from pamqp import encode
from pamqp.commands import Basic

from support.event_reading import reading
from support.rabbitmq import PASSWORD, USER, Peer, RabbitMQ, peer, shared_rabbitmq
from support.rabbitmq_packages import VERSION
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


async def test_compressed_message_is_read_or_dead_lettered(broker: RabbitMQ, other: Peer, queue: str) -> None:
    zipped = gzip.compress(b'{"alert": "a"}')
    async with reading(source(broker, queue)) as found:
        await other.send(queue, zipped[:-4], zipped, content_encoding="gzip")
        assert [event.name for event in await found.until(1)] == ["a"]
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert (dead.body, dead.content_encoding) == (zipped[:-4], "gzip")
    assert dead.headers["x-tocsin-detail"] == "its gzip does not end where the body ends"


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
        headers: dict[str, Any] = {"latin": "\xff", "list": [1], "half": 0.5, "tenth": 0.1}
        with monkeypatch.context() as patched:
            # As other libraries send them: a text that is not UTF-8, and a number with double precision.
            theirs = {"\xff": b"S\x00\x00\x00\x01\xff", 0.1: b"d" + struct.pack(">d", 0.1)}
            patched.setattr(
                encode, "encode_table_value", lambda value: theirs[value] if value in ("\xff", 0.1) else write(value)
            )
            properties = Basic.Properties(
                priority=9, headers=headers, expiration="60000", user_id=USER, message_type="t"
            )
            await wire.basic_publish(b"not JSON", routing_key=queue, properties=properties)
        [dead] = await other.taken(f"{queue}.dead", 1)
    assert (dead.headers["latin"], dead.headers["list"]) == (r"b'\xff'", [1])
    assert (dead.headers["half"], dead.headers["tenth"]) == (0.5, "0.1")
    assert (dead.priority, dead.type, dead.expiration, dead.user_id) == (9, "t", None, None)


# AMQP 1.0, as in its specification: parts 1.6, 2.7, 3.2 and 5.3.

NULL, ZERO, TRUE, FALSE = b"\x40", b"\x43", b"\x41", b"\x42"


def sized(short: bytes, value: bytes) -> bytes:
    """A text, symbol or binary value; `short` is its constructor for at most 255 bytes."""
    if len(value) < 256:
        return short + bytes([len(value)]) + value
    return bytes([short[0] + 16]) + len(value).to_bytes(4, "big") + value


def text(value: str) -> bytes:
    return sized(b"\xa1", value.encode())


def binary(value: bytes) -> bytes:
    return sized(b"\xa0", value)


def uint(value: int) -> bytes:
    return b"\x70" + value.to_bytes(4, "big")


def section(code: int, *fields: bytes) -> bytes:
    body = b"".join(fields)
    return b"\x00\x53" + bytes([code]) + b"\xd0" + struct.pack(">II", len(body) + 4, len(fields)) + body


def framed(payload: bytes, kind: int = 0) -> bytes:
    return struct.pack(">IBBH", len(payload) + 8, 2, kind, 0) + payload


def sent_by_amqp_1(queue: str, *messages: bytes) -> bytes:
    """All that a client sends: login, connection, session, link to the queue, and messages without acknowledgement."""
    login = f"\0{USER}\0{PASSWORD}".encode()
    link = (text("link"), ZERO, FALSE, b"\x50\x01", b"\x50\x00")
    begin = (
        section(0x10, text("test"), text("vhost:/")),
        section(0x11, NULL, ZERO, uint(100), uint(100)),
        section(0x12, *link, section(0x28), section(0x29, text(f"/queues/{queue}")), NULL, NULL, ZERO),
    )
    transfers = [
        section(0x14, ZERO, uint(number), binary(b"%d" % number), ZERO, TRUE) + message
        for number, message in enumerate(messages)
    ]
    sasl = b"AMQP\x03\x01\x00\x00" + framed(section(0x41, sized(b"\xa3", b"PLAIN"), binary(login)), 1)
    return b"".join((sasl, b"AMQP\x00\x01\x00\x00", *map(framed, (*begin, *transfers))))


async def test_messages_of_amqp_1_clients_are_read(queue: str) -> None:
    """RabbitMQ 4 speaks AMQP 1.0 without a plugin."""
    broker = shared_rabbitmq(VERSION)
    order = '{"alert": "order"}'
    async with reading(source(broker, queue)) as found, peer(broker) as other:
        _, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        identity = section(0x73, binary(b"\xff\x01"))
        data, map_ = b"\x00\x53\x75", section(0x77, text("alert"), text("order")).replace(b"\xd0", b"\xd1", 1)
        value = b"\x00\x53\x77"
        messages = [
            data + binary(order.encode()),
            value + text(order + " " * 300),
            value + binary(order.encode()),
            map_,
        ]
        writer.write(sent_by_amqp_1(queue, *(identity + message for message in messages)))
        assert [event.name for event in await found.until(3)] == ["order"] * 3
        [dead] = await other.taken(f"{queue}.dead", 1)
        writer.close()
    assert dead.headers["x-tocsin-detail"] == "it is a map, list or number of AMQP 1.0; send text or data"
    assert len({event.id for event in found.events}) == 1
    assert dead.message_id == found.events[0].id.partition("/")[0]
