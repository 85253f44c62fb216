"""Events of a table keep their identity under any session settings."""

from psycopg.conninfo import conninfo_to_dict

from support.events_table import made, settings, source, taking
from support.pgbouncer import pgbouncer
from support.postgres import Database, Postgres
from support.reading import error_of
from tocsin.sources import postgres as rows
from tocsin.sources.base import Subject
from tocsin.sources.postgres_events import existing_table
from tocsin.sources.settings import PostgresConfig

AT = 1_767_323_045_500


async def changed(database: Database, **defaults: str) -> None:
    name = conninfo_to_dict(database.dsn)["dbname"]
    for setting, value in defaults.items():
        await database.run(f"ALTER DATABASE {name} SET {setting} = '{value}'")


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


async def test_events_are_taken_through_session_pooler(server: Postgres, database: Database) -> None:
    """PgBouncer refuses settings in the startup packet."""
    await made(database)
    await database.run("INSERT INTO events (name) VALUES ('order')")
    with pgbouncer(server) as pooler:
        async with taking(source(database, dsn=pooler.dsn(database.dsn))) as worker:
            await worker.take()
            assert worker.names == ["order"]


async def test_server_ends_slow_reading_through_session_pooler(server: Postgres, database: Database) -> None:
    """The limit is set after the login, so the pooler does not drop it."""
    with pgbouncer(server) as pooler:
        limits = {"statement_timeout": "200ms", "interval": "100ms", "snapshot_timeout": "20s"}
        config = PostgresConfig.model_validate({"dsn": pooler.dsn(database.dsn), **limits})
        error = await error_of(rows.build("db", config), Subject(query="SELECT 1 FROM pg_sleep(60)"))
    assert "statement timeout" in str(error)
