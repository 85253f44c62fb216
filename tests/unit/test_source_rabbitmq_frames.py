"""Frames of RabbitMQ that the library cannot decode, made readable. No socket."""

import asyncio

import pamqp.frame
import pytest
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, ProtocolSyntaxError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader, ProtocolHeader

from tocsin.sources.rabbitmq.frames import Frames, is_reduced, readable


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def table(*values: bytes) -> bytes:
    inner = b"".join(short(b"k%d" % number) + value for number, value in enumerate(values))
    return len(inner).to_bytes(4, "big") + inner


FLAT = st.one_of(
    st.binary(max_size=9).map(lambda text: b"S" + len(text).to_bytes(4, "big") + text),
    st.integers(0, 2**64 - 1).map(lambda value: b"T" + value.to_bytes(8, "big")),
    st.just(b"V"),
)
VALUES = FLAT | st.lists(FLAT, max_size=3).map(lambda values: b"F" + table(*values))
TYPES = {
    "shortstr": st.binary(max_size=255).map(short),
    "octet": st.integers(0, 255).map(lambda value: bytes([value])),
    "timestamp": st.integers(0, 2**64 - 1).map(lambda value: value.to_bytes(8, "big")),
    "table": st.lists(VALUES, max_size=3).map(lambda values: table(*values)),
}
KINDS = {name: Basic.Properties.amqp_type(name) for name in Basic.Properties.attributes()}
PROPERTIES = st.fixed_dictionaries({}, optional={name: TYPES[kind] for name, kind in KINDS.items()})


def content(properties: dict[str, bytes], size: int = 0) -> bytes:
    """A content header with these values, as a server sends it."""
    flags = sum(Basic.Properties.flags[name] for name in properties)
    ordered = [properties[name] for name in Basic.Properties.flags if name in properties]
    return framed(2, b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + flags.to_bytes(2, "big") + b"".join(ordered))


def framed(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 0, 1]) + len(payload).to_bytes(4, "big") + payload + b"\xce"


def deliver(exchange: bytes, key: bytes) -> bytes:
    return framed(
        1, b"\x00\x3c\x00\x3c" + short(b"tag") + (258).to_bytes(8, "big") + b"\x01" + short(exchange) + short(key)
    )


def by_the_library(frame: bytes) -> ContentHeader | None:
    """The content header as the library decodes it; None where it raises."""
    try:
        _, _, header = pamqp.frame.unmarshal(frame)
    except Exception:  # noqa: BLE001 - whatever it raises
        return None
    assert isinstance(header, ContentHeader)
    return header


@given(PROPERTIES, st.integers(0, 2**64 - 1))
def test_readable_properties_are_kept_or_removed_together(properties: dict[str, bytes], size: int) -> None:
    frame = content(properties, size)
    made, _ = readable(frame)
    header, as_sent = by_the_library(made), by_the_library(frame)
    assert header is not None
    assert header.body_size == size
    assert is_reduced(header) == (as_sent is None) == (made != frame)
    assert header.properties == (as_sent or ContentHeader()).properties


@pytest.mark.parametrize("depth", [200, 3000])
def test_too_deeply_nested_headers_are_removed(depth: int) -> None:
    nested = b""
    for _ in range(depth):
        nested = table(b"F" + (nested or table()))
    header = by_the_library(readable(content({"headers": nested, "app_id": short(b"shop")}))[0])
    assert header is not None
    assert is_reduced(header)


@given(st.binary(max_size=255), st.binary(max_size=255))
def test_bytes_outside_utf8_become_question_marks(exchange: bytes, key: bytes) -> None:
    _, _, found = pamqp.frame.unmarshal(readable(deliver(exchange, key))[0])
    assert isinstance(found, Basic.Deliver)
    assert (found.consumer_tag, found.delivery_tag, found.redelivered) == ("tag", 258, True)
    for given_, got in ((exchange, found.exchange), (key, found.routing_key)):
        assert got == given_.decode(errors="surrogateescape").encode(errors="replace").decode()


async def test_library_gets_every_frame_at_any_chunking() -> None:
    bad = content({"timestamp": b"\xff" * 8}, 5)
    frames = [deliver(b"", b"q"), bad, framed(3, b"hello"), content({}, 0), b"\x08\x00\x00\x00\x00\x00\x00\xce"]
    for step in (1, 3, 7, 8, 1000):
        reader = Frames(asyncio.get_running_loop())
        stream = b"".join(frames)
        for at in range(0, len(stream), step):
            reader.feed_data(stream[at : at + step])
        reader.feed_eof()
        got = [frame async for _, _, frame in FrameReceiver(reader)]
        assert [type(frame).__name__ for frame in got] == [
            "Deliver",
            "ContentHeader",
            "ContentBody",
            "ContentHeader",
            "Heartbeat",
        ]
        body = got[2]
        assert isinstance(body, ContentBody)
        assert body.value == b"hello"


async def test_library_still_reports_version_and_lost_connection() -> None:
    for data, error in (
        (ProtocolHeader(0, 9, 0).marshal(), ProtocolSyntaxError),
        (deliver(b"", b"q")[:-3], AMQPConnectionError),
    ):
        reader = Frames(asyncio.get_running_loop())
        reader.feed_data(data)
        reader.feed_eof()
        with pytest.raises(error):
            await FrameReceiver(reader).get_frame()
