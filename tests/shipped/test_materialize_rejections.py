"""Events that must not break a view: each is rejected with its reason, by expressions that guard the casts."""

import itertools
import json
import re
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.model_on_postgres import BID, EVENT, NOW, Model
from support.setup_server import shipped
from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS
from tocsin_producer.faults import malformed
from tocsin_producer.plan import Flaw


@pytest.mark.parametrize("flaw", [flaw for flaw in Flaw if flaw is not Flaw.NULL])
@pytest.mark.parametrize(("topic", "fields"), [(CUSTOMER_EVENTS, EVENT), (WINNING_BIDS, BID)])
def test_malformed_event_is_rejected_and_views_work(
    model: Model, flaw: Flaw, topic: str, fields: dict[str, Any]
) -> None:
    found = {malformed(flaw, fields, draw=itertools.repeat(n / 60).__next__, size=70_000) for n in range(60)}
    messages = [message for message in found if message is not None]
    model.receive(*messages, topic=topic)
    model.receive(fields, topic=topic)
    assert len(model.rows("rejected_events", 'topic, partition, "offset", left(sample, 10)')) == len(messages)
    assert {row[0] for row in model.rows("rejected_events")} == {topic}
    assert len(model.rows("dim_deployments")) + len(model.rows("active_alerts")) == 1


def event_with(name: str) -> bytes:
    return b'{"customer_id":7,"customer_name":"%s","deployment_type":"cloud","organization":"A","event_ts":%d}' % (
        name.encode("latin-1"),
        NOW.timestamp(),
    )


VALID = event_with("Ann")
HOSTILE = {
    "not UTF-8": [
        *(b"\xff\xfe", VALID + b"\0", event_with("a\x00b")),
        event_with("\xc3"),  # cut off
        event_with("\xe0\x80\xaf"),  # longer than it need be
        event_with("\xed\xa0\x80"),  # half a surrogate pair
        event_with("\xf4\x90\x80\x80"),  # past the last character
    ],
    "not a flat JSON object": [
        *(b"", b" ", b"null", b"7", b'"x"', b"[1,2]", b'{"broken', b'{"a":1,}', b'{"a":1}{"b":2}', b"{'a':1}"),
        *(b'{"a":01}', b'{"a":1.}', b'{"a":NaN}', b'{"a":1e999999}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":True}'),
        *(b'{"a":{"nested":true}}', b'{"a":[]}', b'{"a":' * 2000 + b"1" + b"}" * 2000),
        *(b'{"a":"\n"}', b'{"a":"\\x"}', b'{"a":"\\u0000"}', b'{"a":"\\ud83d"}', b'{"a":"\\udc00\\ud800"}'),
        b"\xef\xbb\xbf" + VALID,  # a byte order mark
        *(b"\xc2\xa0" + VALID, VALID + b"\xe2\x80\xa8", VALID + b"\x0b"),  # white space, but not in JSON
    ],
}


def reasons(model: Model) -> list[str]:
    """The reason of each rejected event, in the order of arrival."""
    return [reason for _, reason in model.rows("rejected_events", '"offset", reason')]


@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_messages_are_rejected_with_reason(model: Model, reason: str) -> None:
    messages = HOSTILE[reason]
    model.receive(*messages, VALID)
    model.receive(*messages, topic=WINNING_BIDS)
    assert reasons(model) == [reason] * 2 * len(messages)
    assert [row[2] for row in model.rows("dim_deployments")] == [1]


INVALID: dict[str, list[dict[str, Any]]] = {
    "customer_id is missing or invalid": [{"customer_id": value} for value in ("seven", 10**9, -1, 1.5, True, None)],
    "deployment_type is missing": [{"deployment_type": None}],
    "organization is missing": [{"organization": None}],
    "event_ts is missing or invalid": [
        {"event_ts": value} for value in (None, "tomorrow", 99_999_999_999, int(NOW.timestamp()) * 1000)
    ],
    "event_ts is in the future": [{"event_ts": value} for value in (int(NOW.timestamp()) + 601, 9_999_999_999)],
}


def test_invalid_field_is_named(model: Model) -> None:
    model.receive(*[EVENT | changed for many in INVALID.values() for changed in many])
    assert reasons(model) == [reason for reason, many in INVALID.items() for _ in many]
    assert model.rows("fct_customer_events") == []


def test_invalid_amount_is_rejected(model: Model) -> None:
    amounts = ("", "90,5", "-1", "1e3", "1" * 13, "0.1234567890", "Infinity", "NaN", None, True)
    model.receive(*[BID | {"amount": amount} for amount in amounts], topic=WINNING_BIDS)
    assert reasons(model) == ["amount is missing or invalid"] * len(amounts)


def test_event_above_64_kib_is_rejected(model: Model) -> None:
    room = 65_536 - len(event_with(""))
    model.receive(event_with("x" * room), event_with("x" * (room + 1)))
    ((_, _, offset, reason, sample, received_at),) = model.rows("rejected_events")
    assert (offset, reason, len(sample)) == (2, "larger than 65536 bytes", 200)
    assert received_at == NOW.replace(tzinfo=None)
    assert len(model.rows("fct_customer_events")) == 1


def test_rejected_event_is_shown_for_an_hour(model: Model) -> None:
    model.receive(b"?", at=NOW)
    model.at(NOW + timedelta(hours=1))
    assert len(model.rows("rejected_events")) == 1
    model.at(NOW + timedelta(hours=1, milliseconds=1))
    assert model.rows("rejected_events") == []


def test_white_space_escapes_and_every_character_are_read(model: Model) -> None:
    text = '\u007f\u00a0\u2028\U0001f355"\\/\b\f\n\r\t\x01'
    fields = EVENT | {"customer_name": text}
    model.receive(json.dumps(fields, indent="\t").encode())  # a pair of surrogates in escapes
    model.receive(json.dumps(fields, ensure_ascii=False).encode())
    assert [row[1] for row in model.rows("fct_customer_events")] == [text, text]
    assert model.rows("rejected_events") == []


# The guards, against real decoders.


def pattern(view: str) -> re.Pattern[str]:
    (item,) = [item for item in shipped() if item.action == "CREATE VIEW" and item.name == view]
    (found,) = re.findall("~ '([^']+)'", item.text)
    return re.compile(found.removesuffix("$") + r"\Z")


UTF8 = pattern("events_text")
FLAT = pattern("events_json")


def decodes(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def test_utf8_guard_agrees_with_decoder_at_edges() -> None:
    edges = (0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xFF)
    leads = (*range(0xE0, 0xF6), 0xFF)
    samples = [bytes((first, second)) for first in range(256) for second in range(256)]
    samples += [bytes((lead, a, b)) for lead in leads for a in edges for b in edges]
    samples += [bytes((lead, a, b, c)) for lead in leads for a in edges for b in edges for c in edges]
    assert [data for data in samples if bool(UTF8.match(data.hex())) is not decodes(data)] == []


FRAGMENTS = st.sampled_from(
    [
        *'{}":,[] -0179\t\n\u00a0\u2028\x0b\x1f\x7fé\\\U0001f355',
        *('"a"', "\\u", "0000", "d83d", "\\ud83d\\udf55", ".5", "e9", "E-7", "1e99", "9" * 18, "true", "null"),
    ]
)
OBJECTS = st.dictionaries(
    st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), max_size=4
)


@st.composite
def nearly_json(draw: st.DrawFn) -> str:
    text = json.dumps(draw(OBJECTS), ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 2)))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return text


@settings(max_examples=100, deadline=None)
@given(st.lists(nearly_json(), min_size=5, max_size=20))
def test_text_that_passes_json_guard_can_be_cast(connection: psycopg.Connection[Any], texts: list[str]) -> None:
    texts = [text for text in texts if "\0" not in text and not re.search("[\ud800-\udfff]", text)]
    passed = [text for text in texts if FLAT.match(text)]
    found: Any = connection.execute("SELECT one::jsonb FROM unnest(%s::text[]) AS one", (passed,)).fetchall()
    assert all(not isinstance(value, dict | list) for (row,) in found for value in row.values())
    # And PostgreSQL reads the expression as Python does.
    shipped = FLAT.pattern.removesuffix(r"\Z") + "$"
    rows = connection.execute("SELECT one ~ %s FROM unnest(%s::text[]) AS one", (shipped, texts)).fetchall()
    assert [row[0] for row in rows] == [text in passed for text in texts]
