"""Rows and events of PostgreSQL keep their identity under any settings of their server, and through a pooler."""

from typing import Any

from psycopg.conninfo import conninfo_to_dict

from support.events_table import made, settings, source, taking
from support.pgbouncer import pgbouncer
from support.postgres import Database, Postgres, on_both_versions
from support.reading import error_of, reading
from tocsin.channels.postgres import Config as PostgresChannel
from tocsin.postgres import connected
from tocsin.sources import postgres as rows
from tocsin.sources.base import Subject
from tocsin.sources.postgres_events import existing_table
from tocsin.sources.settings import PostgresConfig

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

AT = 1_767_323_045_500


async def changed(database: Database, **defaults: str) -> None:
    name = conninfo_to_dict(database.dsn)["dbname"]
    for setting, value in defaults.items():
        await database.run(f"ALTER DATABASE {name} SET {setting} = '{value}'")


def rows_of(database: Database, **given: Any) -> rows.Postgres:
    quick = {"dsn": database.dsn, "interval": "100ms", "snapshot_timeout": "20s", **given}
    return rows.build("db", PostgresConfig.model_validate(quick))


@on_both_versions
async def test_row_keeps_its_text_under_other_settings(database: Database) -> None:
    await database.run(VIEW)
    async with reading(rows_of(database), "late") as stream:
        await stream.next()
        before = stream.state
    await changed(database, **SETTINGS)
    async with reading(rows_of(database), "late") as stream:
        await stream.next()
        assert stream.state == before


@on_both_versions
async def test_event_keeps_id_and_time_under_other_settings(database: Database) -> None:
    """It was not acknowledged, and is delivered again after the defaults of the database changed."""
    await database.run("CREATE TABLE events (id timestamptz PRIMARY KEY, name text NOT NULL, at timestamptz)")
    await database.run(existing_table(settings(database)))
    await database.run("INSERT INTO events VALUES ('2026-01-02 03:04:05.5+00', 'order', '2026-01-02 03:04:05.5+00')")
    async with taking(source(database, time="at")) as worker:
        [before] = (await worker.next()).events
    await changed(database, TimeZone="Asia/Kathmandu", DateStyle="German")

    async with taking(source(database, time="at")) as worker:
        [after] = (await worker.take()).events
    assert (after.id, after.at, after.row) == (before.id, before.at, before.row)
    assert after.at == AT


async def test_event_with_fractional_id_is_ingested_once(database: Database) -> None:
    """With fewer digits its text would match no row, so it would never be marked."""
    await database.run("CREATE TABLE events (id float8 PRIMARY KEY, name text NOT NULL)")
    await database.run(existing_table(settings(database)))
    await changed(database, extra_float_digits="-3")
    await database.run("INSERT INTO events VALUES (0.1::float8 + 0.2, 'order')")
    async with taking(source(database)) as worker:
        await worker.take()
    assert await database.run("SELECT handled_as FROM events") == [("taken",)]


async def test_settings_are_made_through_session_pooler(server: Postgres, database: Database) -> None:
    """PgBouncer refuses them in the startup packet: sources and channel make them after the login."""
    await made(database)
    await database.run("INSERT INTO events (name) VALUES ('order')")
    await database.run(VIEW)
    async with reading(rows_of(database), "late") as stream:
        await stream.next()
        direct = stream.state
    await changed(database, **SETTINGS)
    with pgbouncer(server) as pooled:
        dsn = pooled(database.dsn)
        async with taking(source(database, dsn=dsn)) as worker:
            await worker.take()
            assert worker.names == ["order"]
        async with reading(rows_of(database, dsn=dsn), "late") as stream:
            await stream.next()
            assert stream.state == direct
        slow = rows_of(database, dsn=dsn, statement_timeout="200ms")
        assert "statement timeout" in str(await error_of(slow, Subject(query="SELECT 1 FROM pg_sleep(60)")))
        channel = PostgresChannel.model_validate({"type": "postgres", "dsn": dsn, "options": {"search_path": "a, b"}})
        async with await connected(channel) as connection:
            cursor = await connection.execute("SHOW search_path")
            assert await cursor.fetchone() == ("a, b",)
