"""Preparing a database for events: names, rights, printed SQL, and errors about what is missing."""

import asyncio
from functools import partial
from typing import Any

import psycopg
import pytest

from support.events_table import INSERT, made, settings, source, taking, until_waiting, value
from support.postgres import Database, Postgres, on_both_versions
from tocsin.client import EventsTable, publish
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import postgres_events as kind
from tocsin.sources.base import Subject


async def test_any_name_can_be_used(database: Database) -> None:
    names = {
        "table": '"The Shop"."My ""events"" %s {}"',
        "id": 'I"d %s',
        "name": "Na'me {}",
        "key": "Kéy",
        "time": "At $$ $x$",
        "channel": 'Orders "changed" $$; it\'s %s',
    }
    await database.run('CREATE SCHEMA "The Shop"')
    await made(database, **names)
    table = EventsTable(**{word: str(names[word]) for word in ("table", "id", "name", "channel")})
    async with taking(source(database, **names)) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        id_ = await asyncio.to_thread(publish, database.dsn, "late", {"a%s": "ö"}, columns={"Kéy": "k"}, into=table)
        await taken
    [event] = worker.events
    assert event.id == f'The Shop.My "events" %s {{}}/{id_}'
    assert (value(event, "Kéy"), value(event, "data")) == ("k", '{"a%s": "ö"}')


@on_both_versions
@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_printed_sql_grants_all_that_the_role_needs(server: Postgres, database: Database, after: str) -> None:
    role = {"user": "events_reader", "host": psycopg.conninfo.conninfo_to_dict(database.dsn)["host"]}
    name = psycopg.conninfo.conninfo_to_dict(database.dsn)["dbname"]
    config = kind.Config.model_validate(
        {**role, "database": name, "table": "shop.events", "after": after, "poll": "1h"}
    )
    await database.run("CREATE SCHEMA shop")
    for _ in range(2):
        await database.run(kind.new_table(config))
    await database.run("INSERT INTO shop.events (name) VALUES ('x')")
    async with taking(kind.build("shop", config)) as worker:
        await worker.take()
        await database.run("INSERT INTO shop.events (name) VALUES ('x')")
        await worker.until(2)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with await psycopg.AsyncConnection.connect(database.dsn, user="events_reader") as connection:
            await connection.execute("UPDATE shop.events SET name = 'y'")


EXISTING = """
CREATE TABLE events (pk uuid PRIMARY KEY, name varchar(40), payload json);
INSERT INTO events VALUES ('00000000-0000-0000-0000-000000000001', 'old', '{}');
"""
ADD = "INSERT INTO events VALUES ('00000000-0000-0000-0000-000000000002', 'new', '{\"a\": 1}')"


@on_both_versions
@pytest.mark.parametrize("backlog", [False, True])
@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_existing_table_gets_what_it_lacks(database: Database, backlog: bool, after: str) -> None:
    await database.run(EXISTING)
    given = {"id": "pk", "after": after}
    for again in (backlog, False):
        await database.run(kind.existing_table(settings(database, **given), backlog=again))
    async with taking(source(database, **given)) as worker:
        await database.run(ADD)
        await worker.until(2 if backlog else 1)
        assert worker.names == (["old", "new"] if backlog else ["new"])
        assert [column.name for column in worker.events[0].columns] == ["pk", "name", "payload"]
    names = [row[0] for row in await database.run("SELECT name FROM events ORDER BY pk")]
    assert names == (["old", "new"] if after == "mark" else [] if backlog else ["old"])


NEW_FIX = "; run the SQL that `tocsin sql shop` prints"
EXISTING_FIX = "; run the SQL that `tocsin sql shop --existing` prints"


@pytest.mark.parametrize(
    ("setup", "given", "reason", "words"),
    [
        ("SELECT", {}, SourceReason.MISSING, f'relation "events" does not exist{NEW_FIX}'),
        (EXISTING, {"id": "pk"}, SourceReason.SHAPE, f"no column handled_at and no column handled_as{EXISTING_FIX}"),
        (
            f"{EXISTING} ALTER TABLE events ADD handled_at timestamptz",
            {"id": "pk"},
            SourceReason.SHAPE,
            f"events has no column handled_as{EXISTING_FIX}",
        ),
        (EXISTING, {}, SourceReason.SHAPE, "events has no column id; add it, or name another one with `id`"),
        (
            EXISTING,
            {"id": "pk", "time": "at"},
            SourceReason.SHAPE,
            "no column at; add it, or name another one with `time`",
        ),
    ],
)
async def test_unprepared_database_is_refused_with_a_fix(
    database: Database, setup: str, given: dict[str, str], reason: SourceReason, words: str
) -> None:
    await database.run(setup)
    asked = source(database, **given)
    for attempt in (asked.open([], position={}).__aenter__, partial(asked.describe, Subject(event="x"))):
        with pytest.raises(SourceError) as raised:
            await attempt()
        assert raised.value.reason is reason
        assert str(raised.value).endswith(words)
    [problem] = await asked.verify([])
    assert problem == str(raised.value)


@pytest.mark.parametrize(
    ("change", "reason", "fix"),
    [
        ("REVOKE SELECT ON events FROM events_reader", SourceReason.PERMISSION, EXISTING_FIX),
        ("DROP TABLE events", SourceReason.MISSING, NEW_FIX),
    ],
)
async def test_change_of_running_table_has_a_fix(
    database: Database, change: str, reason: SourceReason, fix: str
) -> None:
    given = {"dsn": psycopg.conninfo.make_conninfo(database.dsn, user="events_reader")}
    await made(database, **given)
    async with taking(source(database, **given)) as worker:
        await database.run(INSERT, 1)
        await worker.take()
        await database.run(change)
        await database.run("NOTIFY events")
        with pytest.raises(SourceError) as raised:
            await worker.take()
    assert raised.value.reason is reason
    assert str(raised.value).endswith(fix)


@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_sql_for_new_table_fails_on_existing(database: Database, after: str) -> None:
    """Run by mistake, it must not turn all existing rows into pending events."""
    await database.run(EXISTING)
    given = {"id": "pk", "after": after}
    with pytest.raises(psycopg.errors.UndefinedColumn, match="handled_at"):
        await database.run(kind.new_table(settings(database, **given)))
    await database.run("ROLLBACK")
    await database.run(kind.existing_table(settings(database, **given)))
    assert await database.run("SELECT 1 FROM events WHERE handled_at IS NULL") == []


async def test_suggested_sql_repairs_table_and_keeps_rows(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 2)
    await database.run("ALTER TABLE events DROP COLUMN handled_as; DROP FUNCTION events_notify CASCADE")
    await database.run(kind.existing_table(settings(database)))
    async with taking(source(database)) as worker:
        await worker.take()
        await database.run(INSERT, 1)
        await worker.until(3)
    assert worker.ids == [1, 2, 3]


KEYED = "INSERT INTO events (name) SELECT 'order' FROM generate_series(1, 4)"


@pytest.mark.parametrize("key", ["name", "id", "at", "data"])
async def test_key_may_be_any_column(database: Database, key: str) -> None:
    given = {"key": key, "time": "at"}
    for _ in range(2):
        await made(database, **given)
    [[columns]] = await database.run(
        "SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute"
        " WHERE attrelid = 'events'::regclass AND attnum > 0 AND attname NOT LIKE 'handled%%'"
    )
    assert columns == ["at", "data", "id", "name"]
    async with taking(source(database, **given, batch=1)) as worker, taking(source(database, **given)) as other:
        await database.run(KEYED)
        held = await worker.next()
        assert [event.name for event in held.events] == ["order"]
        if key != "name":  # whose values are all the same here
            assert [int(event.id.rpartition("/")[2]) for event in (await other.take()).events] == [2, 3, 4]
        await worker.acknowledge(held)
        if key == "name":
            await other.until(3)
    assert worker.ids + other.ids == [1, 2, 3, 4]


@pytest.mark.parametrize("word", ["id", "name", "time", "key"])
async def test_a_column_may_be_called_data(database: Database, word: str) -> None:
    given = {"time": "at", "key": "of", word: "data"}
    await made(database, **given)
    assert await source(database, **given).verify([]) == []


async def test_describe_and_sample_of_an_event(database: Database) -> None:
    await made(database)
    assert [column.name for column in await source(database).describe(Subject(event="x"))] == ["id", "name", "data"]
    assert await source(database).sample(Subject(event="x")) is None
    await database.run(INSERT, 1)
    assert await source(database).sample(Subject(event="order")) == ("1", "order", '{"n": 1}')
    assert await source(database).sample(Subject(event="x")) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "a;b"}, "is not a relation name"),
        ({"table": "a.b.c.d"}, "is not a relation name"),
        ({"table": "x" * 64}, "longer than 63 bytes"),
        ({"channel": "é" * 32}, "longer than 63 bytes"),
        ({"channel": ""}, "must not be empty"),
        ({"id": "name"}, "two columns"),
        ({"name": "handled_at"}, "is reserved"),
        ({"batch": 0}, "greater than or equal to 1"),
        ({"poll": 5}, "is not a duration"),
        ({"poll": "0"}, "longer than 0"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.Config.model_validate({"host": "h", "user": "u", **given})
