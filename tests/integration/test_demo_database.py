"""The demo's schema, writer and scenario on a real PostgreSQL, and the start of the embedded server."""

import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from support.postgres import Postgres
from support.waiting import until
from tocsin_demo.database import schema
from tocsin_demo.database import server as embedded
from tocsin_demo.database.scenario import BID_WINDOW, DEPLOYMENT_WINDOW, PLAN
from tocsin_demo.database.writer import DatabaseWriter
from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.processes import processes
from tocsin_producer.errors import SinkError
from tocsin_producer.events import CUSTOMER_EVENTS, Event, Kind, Schedule
from tocsin_producer.plan import Plan
from tocsin_producer.sinks import Sink

THRESHOLD = 5


@pytest.fixture
def database(server: Postgres) -> Iterator[psycopg.Connection]:
    """A session on a fresh schema."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS demo CASCADE")
        schema.apply(server.dsn())
        yield connection


@pytest.fixture
def writer(server: Postgres, database: psycopg.Connection) -> Iterator[DatabaseWriter]:
    with closing(DatabaseWriter(server.dsn())) as sink:
        yield sink


def rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def spike(organization: str = "B", count: int = 10, customer: int = 3, at: float | None = None) -> Iterator[bytes]:
    event = {
        "customer_id": customer,
        "customer_name": "Ann",
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
    fields = {"auction_id": auction_id, "item": item, "amount": amount, "bidder": "Ann"}
    yield json.dumps({**fields, "bid_ts": int(time.time() if at is None else at)}).encode()


# The schema


def test_schema_applies_twice_and_keeps_rules(server: Postgres, database: psycopg.Connection) -> None:
    database.execute("UPDATE demo.organizations SET threshold = 99 WHERE organization = 'A'")
    database.execute("DELETE FROM demo.auction_alerts WHERE alert_name = 'all art'")
    schema.apply(server.dsn(), bid_window=timedelta(seconds=7))
    assert rows(database, "SELECT threshold FROM demo.organizations WHERE organization = 'A'") == [(99,)]
    assert rows(database, "SELECT alert_name FROM demo.auction_alerts") == [("expensive pizza",)]
    assert rows(database, "SELECT name, span FROM demo.settings ORDER BY name") == [
        ("bid_window", timedelta(seconds=7)),
        ("deployment_window", timedelta(minutes=2)),
    ]


def test_role_reads_alert_views_only(server: Postgres, database: psycopg.Connection) -> None:
    with psycopg.connect(server.dsn(user="tocsin"), autocommit=True) as tocsin:
        for relation in ("organization_alert", "active_alerts", "rejected_events"):
            assert rows(tocsin, f"SELECT * FROM demo.{relation}") == []
        for statement in (b"SELECT * FROM demo.customer_events", b"DELETE FROM demo.rejected_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tocsin.execute(statement)


# Notifications, and the views: tests/shipped/test_materialize_views.py compares those with Materialize's


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
def test_change_notifies_its_channel_once(
    database: psycopg.Connection,
    writer: DatabaseWriter,
    server: Postgres,
    act: Callable[[Sink, psycopg.Connection], object],
    channel: str,
) -> None:
    with psycopg.connect(server.dsn(user="tocsin"), autocommit=True) as listener:
        for name in ("organization_alert", "active_alerts", "rejected_events"):
            listener.execute(f"LISTEN {name}".encode())
        act(writer, database)
        # Notifications arrive in the order of commits, so this one is the last.
        database.execute("NOTIFY rejected_events, 'the end'")
        received = [
            (note.channel, note.payload)
            for note in itertools.takewhile(lambda note: note.payload != "the end", listener.notifies(timeout=20))
        ]
    assert [name for name, _ in received] == [channel]


# The writer


def test_malformed_events_are_rejected_and_valid_ones_arrive(
    database: psycopg.Connection, writer: DatabaseWriter
) -> None:
    plan = Plan(rate=20, bid_rate=20, malformed=1, limit=3000)
    events = list(Schedule(plan).events(start=time.time()))
    for event in events:
        writer.send(event.topic, event.key, event.value)
    writer.flush()
    valid = [event for event in events if event.kind is not Kind.MALFORMED]
    for table in ("customer_events", "winning_bids"):
        expected = sum(event.topic == table for event in valid)
        assert rows(database, f"SELECT count(*) FROM demo.{table}") == [(expected,)]
    assert rows(database, "SELECT count(*) FROM demo.rejected_events") == [(len(events) - len(valid),)]
    reasons = {reason for (reason,) in rows(database, "SELECT DISTINCT reason FROM demo.rejected_events")}
    assert {"null value", "not JSON", "not UTF-8", "not a JSON object", "larger than 65536 bytes"} < reasons
    assert rows(database, "SELECT max(length(sample)) <= 1000 FROM demo.rejected_events") == [(True,)]


def test_writer_without_database_raises(server: Postgres, database: psycopg.Connection) -> None:
    writer = DatabaseWriter(server.dsn())
    writer.send(CUSTOMER_EVENTS, b"1", next(spike()))
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin-producer'"
    )
    with pytest.raises(SinkError, match="the demo's database does not accept events: "):
        writer.close()


# The scenario


def _played(minutes: float) -> list[Event]:
    events = Schedule(PLAN).events(start=1_800_000_000.0)
    valid = (event for event in events if event.kind is not Kind.MALFORMED)
    return list(itertools.takewhile(lambda event: event.at < minutes * 60, valid))


def _organization(event: Event) -> str:
    assert event.value is not None
    return str(json.loads(event.value)["organization"])


def test_first_spike_fires_and_recovers_within_twenty_seconds() -> None:
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


def test_spikes_reach_every_organization_and_both_rules() -> None:
    spikes = [event for event in _played(3) if event.kind is Kind.SPIKE]
    groups = {event.at: _organization(event) for event in spikes}
    assert list(groups.items())[:5] == [(3.0, "C"), (28.0, "A"), (53.0, "D"), (78.0, "B"), (103.0, "D")]
    bids = [json.loads(event.value or b"") for event in _played(0.5) if event.kind is Kind.BID]
    matching = {bid["item"] for bid in bids if bid["item"] == "Custom Art" or float(bid["amount"]) > 90}
    assert {"Custom Art", "Best Pizza in Town"} <= matching
    assert timedelta(seconds=25) <= BID_WINDOW


# The embedded server. tests/e2e/test_demo.py shows that it always ends.


async def test_programs_in_private_directory_are_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root cannot run PostgreSQL, and the account that runs it for root cannot read root's own directories."""
    programs = embedded._installation()
    package = programs.parent
    for part in (programs, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.relative_to(package.parent))
    tmp_path.chmod(0o700)
    monkeypatch.setattr(embedded, "_installation", lambda: tmp_path / programs.relative_to(package.parent))
    async with processes() as running:
        server = await embedded.start(running)
        with psycopg.connect(server.conninfo()) as connection:
            assert rows(connection, "SELECT 1") == [(1,)]
    assert not running.directory.exists()
    shutil.rmtree(tmp_path)  # pytest would keep the copy for some runs


async def test_server_that_fails_to_start_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installation = tmp_path / "package" / "installation"
    (installation / "bin").mkdir(parents=True)
    (installation / "bin" / "initdb").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (installation / "bin" / "initdb").chmod(0o755)
    monkeypatch.setattr(embedded, "_installation", lambda: installation)
    with pytest.raises(DemoError, match=r"(?s)PostgreSQL does not start: initdb ended with status 1.*no space left"):
        async with processes() as running:
            await embedded.start(running)
    assert not running.directory.exists()


async def test_processes_end_even_without_the_reaper() -> None:
    async with processes() as running:
        process = await running.start("sleep", "sleep", "60")
        await until(lambda: psutil.Process(process.pid).name() == "sleep", "the reaper knows it")
        os.kill(running._reaper.pid, signal.SIGKILL)
        await running.unattended()
    assert process.outcome == "was ended by SIGTERM"
    assert not running.directory.exists()
