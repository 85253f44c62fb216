"""Messages of RabbitMQ as events, their identities, and refused settings of the source. No socket."""

import json
from collections import Counter
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tocsin.sources.documents import Unreadable
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
