"""A row keeps its identity under other settings or versions of its server."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from support.materialize import MaterializeDouble, Relation
from support.pgbouncer import pgbouncer
from support.postgres import Database, Postgres, postgres
from support.tocsin import running
from support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("row_text")]

VIEW = r"""
CREATE VIEW late AS SELECT
  timestamptz '2026-01-02 03:04:05.5+00' AS seen, timestamp '2026-01-02 03:04:05' AS due, date '2026-02-01' AS day,
  interval '1 month -2 days 03:04:05.5' AS waited, '\x00ff61'::bytea AS digest, 0.1::float8 + 0.2 AS price,
  ARRAY[timestamptz '2026-01-02 03:04:05+00', NULL] AS times, ARRAY[interval '1 year'] AS waits,
  tstzrange('2026-01-02 03:04:05+00', NULL) AS span, to_json(timestamptz '2026-01-02 03:04:05+00')::text AS document,
  'late'::name AS name, 'pg_class'::regclass AS relation
"""
SETTINGS = {
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "0",
    "quote_all_identifiers": "on",
}
"""Settings that change the text of a column of the view."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running_server:
        yield running_server


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        await made.run(VIEW)
        yield made


def config(directory: Path, source: Mapping[str, Any], **alert: Any) -> dict[str, Any]:
    """One alert, `late`, whose key is the whole row."""
    return {
        "ledger": {"path": str(directory / "ledger.db")},
        "web": {"listen": "127.0.0.1:0"},
        "sources": {"db": dict(source)},
        "channels": {"line": {"type": "console"}},
        "alerts": {"late": {"source": "db", "relation": "late", "notify": ["line"], **alert}},
    }


def replaced(
    double: MaterializeDouble, older: Relation, columns: Sequence[tuple[str, str]], *rows: Sequence[str]
) -> Relation:
    """The view, on a server of another version: there is no moment in which it is empty."""
    double.drop(older)
    newer = double.create("public.late", columns, retain=None, rows=rows)
    double.compact(newer)
    return newer


async def transitions(directory: Path, configured: Mapping[str, Any]) -> dict[str, float]:
    """Run Tocsin until it has read the relation once, and count the transitions by kind."""
    async with running(directory, configured) as tocsin:
        await tocsin.until_ready()
        page = await tocsin.metrics()
        assert await tocsin.stop() == 0
    counted = {
        dict(labels)["kind"]: n for (name, labels), n in page.items() if name == "tocsin_alert_transitions_total"
    }
    return {kind: number for kind, number in counted.items() if number}


async def test_changed_default_of_setting_fires_nothing(database: Database, tmp_path: Path) -> None:
    """The rows of a PostgreSQL view, after defaults of the database changed between two runs, then one of the role."""
    target = conninfo_to_dict(database.dsn)
    configured = config(tmp_path, {"type": "postgres", "dsn": database.dsn})
    assert await transitions(tmp_path, configured) == {"fired": 1}
    for setting, value in SETTINGS.items():
        await database.run(f"ALTER DATABASE {target['dbname']} SET \"{setting}\" = '{value}'")
    assert await transitions(tmp_path, configured) == {}
    try:
        await database.run("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Tehran'")
        assert await transitions(tmp_path, configured) == {}
    finally:
        await database.run("ALTER ROLE CURRENT_USER RESET TimeZone")


BEFORE = ("1 month 2 days 03:04:05.5", "1 year 11 months", "-1 month -1 day")
AFTER = ("1 mon 2 days 03:04:05.5", "1 year 11 mons", "-1 mons -1 days")
"""The same intervals as v26.8 and as v26.39 write them."""


async def test_interval_of_another_materialize_version_fires_nothing(tmp_path: Path) -> None:
    """It resolves once. Also within an array."""
    columns = [("waited", "interval"), ("all", "interval[]")]
    before = [(text, f'{{"{text}"}}') for text in BEFORE]
    after = [(text, f'{{"{text}"}}') for text in AFTER]
    async with MaterializeDouble() as double:
        source = {"type": "materialize", "host": "127.0.0.1", "port": double.port, "user": "tocsin"}
        names = [name for name, _ in columns]
        configured = config(tmp_path, source, relation="public.late", key=names, labels=names)
        older = double.create("public.late", columns, rows=before)
        assert await transitions(tmp_path, configured) == {"fired": 3}

        newer = replaced(double, older, columns, *after)
        assert await transitions(tmp_path, configured) == {}

        newer.delete(*after)
        assert await transitions(tmp_path, configured) == {"resolved": 3}


async def test_upgraded_materialize_fires_nothing_in_running_process(tmp_path: Path) -> None:
    """The server is restarted in another version while Tocsin runs."""
    async with MaterializeDouble() as double:
        source = {"type": "materialize", "host": "127.0.0.1", "port": double.port, "user": "tocsin"}
        configured = config(tmp_path, source, relation="public.late", key=["waited"], labels=["waited"])
        older = double.create("public.late", [("waited", "interval")], rows=[("1 month",)])
        async with running(tmp_path, configured) as tocsin:
            await tocsin.until_ready()
            newer = replaced(double, older, [("waited", "interval")], ("1 mon",))
            await until(lambda: newer.streams, "subscribed again")
            newer.insert(("2 mons",))
            await until(lambda: len(tocsin.output) >= 2, "the second row is printed")
            assert await tocsin.stop() == 0
    assert [line.split()[1] for line in tocsin.output] == ["fired", "fired"]


OLDER = {
    "2026-01-02 03:04:05.5+00": "2026-01-02 08:49:05.5+05:45",
    "1 mon -2 days +03:04:05.5": "P1M-2DT3H4M5.5S",
    r"\x00ff61": r"\000\377a",
    '{"2026-01-02 03:04:05+00",NULL}': '{"2026-01-02 04:04:05+01",NULL}',
}


async def test_ledger_of_older_version_fires_nothing(database: Database, tmp_path: Path) -> None:
    """It holds texts that the defaults of a role decided on then. The row resolves once, under the id it fired with."""
    await database.run("CREATE TABLE fired AS SELECT seen, waited, digest, times FROM late; DROP VIEW late")
    await database.run("ALTER TABLE fired RENAME TO late")
    configured = config(tmp_path, {"type": "postgres", "dsn": database.dsn})
    assert await transitions(tmp_path, configured) == {"fired": 1}
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as ledger:
        [(row, fingerprint)] = ledger.execute("SELECT row, fingerprint FROM firings").fetchall()
        older = json.dumps([OLDER[text] for text in json.loads(row)])
        ledger.execute("UPDATE firings SET row = ?", (older,))

    assert await transitions(tmp_path, configured) == {}
    await database.run("DELETE FROM late")
    assert await transitions(tmp_path, configured) == {"resolved": 1}
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        stored = ledger.execute("SELECT kind, fingerprint FROM transitions ORDER BY id").fetchall()
    assert stored == [("fired", fingerprint), ("resolved", fingerprint)]


async def test_source_works_through_session_pooler(server: Postgres, database: Database, tmp_path: Path) -> None:
    """PgBouncer refuses settings in the startup packet: source, events and channel set them after the login."""
    with pgbouncer(server) as pooler:
        through = {"dsn": pooler.dsn(database.dsn), "connect_timeout": "5s"}
        configured = config(tmp_path, {"type": "postgres", **through}, notify=["table"])
        configured["channels"] = {"table": {"type": "postgres", "create": True, **through}}
        assert await transitions(tmp_path, configured) == {"fired": 1}

        await database.run("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Kathmandu'")
        try:
            again = await transitions(tmp_path, configured)
        finally:
            await database.run("ALTER ROLE CURRENT_USER RESET TimeZone")
    assert again == {}
    assert await database.run("SELECT status FROM notifications") == [("fired",)]
