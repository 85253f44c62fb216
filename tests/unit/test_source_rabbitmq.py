"""Messages of RabbitMQ as events, their identities, and frames that the library cannot decode. No socket."""

import asyncio
import gzip
import json
import zlib
from collections import Counter
from typing import Any

import pamqp.frame
import pytest
from aiormq.abc import DeliveredMessage
from aiormq.connection import FrameReceiver
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelPreconditionFailed,
    ProtocolSyntaxError,
)
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader, ProtocolHeader

from tocsin.errors import SourceReason
from tocsin.sources.documents import Unreadable
from tocsin.sources.rabbitmq.faults import translated
from tocsin.sources.rabbitmq.frames import Frames, is_reduced, readable
from tocsin.sources.rabbitmq.messages import Identities, events
from tocsin.sources.rabbitmq.settings import Config
from tocsin.values import reader

WHOLE = {"host": "h", "user": "u", "password": "s3cret-word", "queue": "q"}


def message(
    body: bytes = b"{}", *, tag: int = 1, redelivered: bool = False, type_: str = "of-type", **properties: Any
) -> DeliveredMessage:
    return DeliveredMessage(
        delivery=Basic.Deliver("c", tag, redelivered, "", "q"),
        header=ContentHeader(properties=Basic.Properties(message_type=type_, **properties)),
        body=body,
        channel=None,  # type: ignore[arg-type]
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["email", "sms"]) | JSON
BODIES = st.one_of(
    st.binary(max_size=20),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({}, optional={"alert": NAMES, "alerts": st.lists(NAMES, max_size=3), "x": JSON}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.fixed_dictionaries(
        {"message": st.fixed_dictionaries({}, optional={"alertTypes": st.lists(NAMES, max_size=3), "message": JSON})}
    ).map(lambda value: json.dumps(value).encode()),
)


@given(BODIES)
def test_any_message_yields_events_or_a_reason(body: bytes) -> None:
    try:
        found = events(message(body), "id", Config.model_validate(WHOLE), lambda: 1.0)
    except Unreadable as why:
        found, reason = [], why.detail
    else:
        reason = ""
    names = [event.name for event in found]
    assert bool(names) != bool(reason)
    assert "\n" not in reason
    assert len(set(names)) == len(names) == len({event.id for event in found})
    assert all(len(event.columns) == len(event.row) for event in found)


@pytest.mark.parametrize(
    ("body", "settings", "expected"),
    [
        ({"message": {"alertTypes": ["a", "a"], "message": "hello"}}, {}, [("a", {"message": "hello"})]),
        ({"message": {"alertTypes": ["a"], "message": [1, 2]}}, {}, [("a", {"message": [1, 2]})]),
        ({"message": {"alertTypes": ["a"], "message": 0}}, {}, [("a", {"message": 0})]),
        ({"alert": "a", "n": 1}, {}, [("a", {"alert": "a", "n": 1})]),
        ({"alerts": ["a", "b"]}, {}, [("a", {"alerts": ["a", "b"]}), ("b", {"alerts": ["a", "b"]})]),
        ({"n": 1}, {"name_from": ["body.n.m", "body.kind", "type"]}, [("of-type", {"n": 1})]),
        ({"about": {"kind": "x"}}, {"name_from": "body.about.kind"}, [("x", {"about": {"kind": "x"}})]),
        ({"alert": "a", "to": None}, {"defaults": {"to": ["b"], "x": 1, "alert": "z"}},
         [("a", {"alert": "a", "to": ["b"], "x": 1})]),
    ],
    ids=["text", "list", "number", "alert", "alerts", "in turn", "path", "defaults"],
)  # fmt: skip
def test_name_from_settings_and_fields_become_columns(
    body: object, settings: dict[str, Any], expected: list[tuple[str, dict[str, object]]]
) -> None:
    config = Config.model_validate({**WHOLE, **settings})
    found = events(message(json.dumps(body).encode()), "id", config, lambda: 1.0)
    assert [(event.name, reader(event.columns)(event.row)) for event in found] == expected


def test_held_message_is_no_fault_of_the_shape() -> None:
    """As RabbitMQ writes it; the same code as of a declaration that differs."""
    config = Config.model_validate(WHOLE)
    timeout = ChannelPreconditionFailed(
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 60000 ms."
    )
    assert translated(timeout, config, SourceReason.DISCONNECTED).reason is SourceReason.DISCONNECTED
    differs = (
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is"
    )
    for otherwise in (SourceReason.CONNECT, SourceReason.DISCONNECTED):
        error = translated(ChannelPreconditionFailed(f"{differs} 'false'"), config, otherwise)
        assert error.reason is SourceReason.SHAPE


WHOLE_BODY = b'{"alert": "a", "n": 1}'
ZIPPED = gzip.compress(WHOLE_BODY, mtime=0)
"""Without a time, since it is in the names of tests, which are to be the same in each process of a run."""
RAW = zlib.compressobj(wbits=-15)
ENCODED: list[tuple[str | None, bytes, str]] = [
    ("gzip", ZIPPED, ""),
    ("GZIP", ZIPPED, ""),
    ("deflate", zlib.compress(WHOLE_BODY), ""),
    ("deflate", RAW.compress(WHOLE_BODY) + RAW.flush(), ""),
    ("utf-8", WHOLE_BODY, ""),
    ("something", WHOLE_BODY, ""),
    (None, ZIPPED, "it is not UTF-8 text"),
    ("utf-8", b"x", "it is not JSON: Expecting value at character 0"),
    ("br", b"\xff\xfe\x00", "it is not UTF-8 text; its content encoding is 'br': send gzip, deflate or none"),
    ("gzip", WHOLE_BODY, "it is not gzip, though its content encoding says so"),
    ("gzip", b"", "its gzip does not end where the body ends"),
    ("gzip", ZIPPED[:-9], "its gzip does not end where the body ends"),
    ("gzip", ZIPPED * 2, "its gzip does not end where the body ends"),
    (
        "gzip",
        gzip.compress(b'{"alert": "' + b"a" * 100_000 + b'"}', mtime=0),
        "it has more than 1000 bytes, decompressed",
    ),
]
"""Content encoding, body, and why it is refused."""


@pytest.mark.parametrize(("encoding", "body", "refusal"), ENCODED)
def test_compressed_body_is_read_up_to_its_limit(encoding: str | None, body: bytes, refusal: str) -> None:
    config = Config.model_validate({**WHOLE, "max_bytes": 1000})
    sent = message(body, content_encoding=encoding)
    if not refusal:
        [event] = events(sent, "id", config, lambda: 1.0)
        assert (event.name, event.row) == ("a", ("a", "1"))
        return
    with pytest.raises(Unreadable) as refused:
        events(sent, "id", config, lambda: 1.0)
    assert refused.value.detail == refusal


@given(
    st.lists(st.sampled_from(["equal", "other"]), max_size=8),
    st.lists(st.tuples(st.integers(0, 8), st.lists(st.sampled_from(["equal", "other"]), max_size=3)), max_size=4),
)
def test_ids_are_unique_and_stable_across_reconnects(
    first: list[str], connections: list[tuple[int, list[str]]]
) -> None:
    """A server with one consumer redelivers unacknowledged messages first, marked, then new ones."""
    identities = Identities()
    waiting = [(body, False) for body in first]
    bodies: dict[str, str] = {}
    kept: list[str] = []
    sent = Counter(first)
    for acknowledged, new in [*connections, (100, [])]:
        identities.reconnected()
        ids = []
        for tag, (body, redelivered) in enumerate(waiting, 1):
            ids.append(identities.of(message(body.encode(), tag=tag, redelivered=redelivered)))
            bodies[ids[-1]] = body
        assert len(set(ids)) == len(ids)
        assert ids[: len(kept)] == kept
        identities.acknowledged(acknowledged)
        kept = ids[acknowledged:]
        waiting = [(body, True) for body, _ in waiting[acknowledged:]] + [(body, False) for body in new]
        sent.update(new)
    for tag, (body, redelivered) in enumerate(waiting, 1):
        bodies[identities.of(message(body.encode(), tag=tag + 1000, redelivered=redelivered))] = body
    assert Counter(bodies.values()) == sent


def test_generated_id_is_not_reused_after_new_message() -> None:
    """The first message went to another consumer: an equal one, much later, is a new event."""
    identities = Identities()
    first = identities.of(message(tag=1))
    identities.reconnected()
    identities.of(message(b"new", tag=1))
    assert identities.of(message(tag=2, redelivered=True)) != first


def test_message_id_property_is_the_identity() -> None:
    assert Identities().of(message(message_id="mine", headers={"x-message-id": "other"})) == "mine"


def test_message_id_beyond_amqp_091_is_the_identity() -> None:
    """RabbitMQ 4 puts ids of AMQP 1.0 that are binary or longer than 255 bytes into a header."""
    ids = [bytearray(b"\xff\x01"), bytearray(b"\xff\x02"), "x" * 300]
    found = [[Identities().of(message(headers={"x-message-id": id_})) for _ in range(2)] for id_ in ids]
    assert all(first == second for first, second in found)
    assert len({first for first, _ in found}) == 3


@pytest.mark.parametrize(
    "body",
    [
        b'\x00Sw\xa1\x13{"alert": "order\xc3\xbc"}',
        b'\x00Sw\xa0\x13{"alert": "order\xc3\xbc"}',
        b'\x00Sw\xb1\x00\x00\x00\x13{"alert": "order\xc3\xbc"}',
        b'\x00Sw\xb0\x00\x00\x00\x13{"alert": "order\xc3\xbc"}',
        b'{"alert": "order\xc3\xbc"}',
    ],
    ids=["text", "binary", "long text", "long binary", "AMQP 0-9-1 with this type"],
)
def test_text_of_amqp_1_clients_is_read(body: bytes) -> None:
    """As RabbitMQ 4.0.5 delivers what python-qpid-proton 0.40.0 sends."""
    [event] = events(message(body, type_="amqp-1.0"), "id", Config.model_validate(WHOLE), lambda: 1.0)
    assert event.name == "orderü"


@pytest.mark.parametrize(
    "body",
    [
        b"\x00Sw\xd1\x00\x00\x00\x12\x00\x00\x00\x02\xa1\x05alert\xa1\x05order",
        b"\x00Sv\xd0\x00\x00\x00\n\x00\x00\x00\x02\xa1\x01a\xa1\x01b",
        b"\x00Sw",
    ],
    ids=["map", "sequence", "nothing"],
)
def test_other_values_of_amqp_1_clients_are_refused(body: bytes) -> None:
    with pytest.raises(Unreadable, match=r"of AMQP 1\.0; send text or data"):
        events(message(body, type_="amqp-1.0"), "id", Config.model_validate(WHOLE), lambda: 1.0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u:p@h", ("h", 5672, "u", "p", "/", False)),
        ("amqp://u:p@h/", ("h", 5672, "u", "p", "/", False)),
        ("amqp://u:p@h/%2F", ("h", 5672, "u", "p", "/", False)),
        ("amqp://u:p@h/a%2Fb%20c", ("h", 5672, "u", "p", "a/b c", False)),
        ("amqps://u%3A:p%40%25%2F@[::1]/v", ("::1", 5671, "u:", "p@%/", "v", True)),
        ("amqps://u:p@h:1/v", ("h", 1, "u", "p", "v", True)),
    ],
)
def test_url_is_split_into_parts(url: str, expected: tuple[object, ...]) -> None:
    server = Config.model_validate({"url": url, "queue": "q"}).server
    assert (server.host, server.port, server.user, server.password, server.vhost, server.tls) == expected


# Frames that the library cannot decode, made readable.


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
