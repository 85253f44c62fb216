"""A database made ready for events: names, rights, the SQL that is printed for it, and what is told where it lacks
something."""

import asyncio
from typing import Any

import psycopg
import pytest

from support.events_table import INSERT, made, settings, source, taking, until_waiting, value
from support.postgres import Database, Postgres
from tocsin.client import EventsTable, publish
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import Subject
from tocsin.sources import postgres_events as kind

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.mark.parametrize("companion", [None, '"The Shop"."what\'s %s pending"'])
async def test_any_name_can_be_used(database: Database, companion: str | None) -> None:
    names = {
        "table": '"The Shop"."My ""events"" %s {}"',
        "id": 'I"d %s',
        "name": "Na'me {}",
        "key": "Kéy",
        "time": "At $$ $x$",
        "channel": 'Orders "changed" $$; it\'s %s',
        "companion": companion,
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


async def test_a_channel_in_capitals_is_heard(database: Database) -> None:
    await made(database, channel="Events")
    async with taking(source(database, channel="Events")) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        await database.run(INSERT, 1)
        await taken


@pytest.mark.parametrize("after", ["mark", "delete"])
@pytest.mark.parametrize("companion", [None, "shop.pending"])
async def test_the_printed_sql_gives_the_role_all_that_it_needs(
    server: Postgres, database: Database, after: str, companion: str | None
) -> None:
    role = {"user": "events_reader", "host": psycopg.conninfo.conninfo_to_dict(database.dsn)["host"]}
    name = psycopg.conninfo.conninfo_to_dict(database.dsn)["dbname"]
    config = kind.Config.model_validate(
        {**role, "database": name, "table": "shop.events", "companion": companion, "after": after, "poll": "1h"}
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


@pytest.mark.parametrize("companion", [None, "public.events_pending"])
@pytest.mark.parametrize("backlog", [False, True])
@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_a_table_of_somebody_elses_gets_what_it_lacks(
    database: Database, companion: str | None, backlog: bool, after: str
) -> None:
    await database.run(EXISTING)
    given = {"id": "pk", "companion": companion, "after": after}
    for again in (backlog, False):
        await database.run(kind.existing_table(settings(database, **given), backlog=again))
    async with taking(source(database, **given)) as worker:
        await database.run(ADD)
        await worker.until(2 if backlog else 1)
        assert worker.names == (["old", "new"] if backlog else ["new"])
        assert [column.name for column in worker.events[0].columns] == ["pk", "name", "payload"]
    names = [row[0] for row in await database.run("SELECT name FROM events")]
    assert names == (["old", "new"] if companion or after == "mark" else [] if backlog else ["old"])
    if companion:
        shape = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0"
        [[columns]] = await database.run(shape)
        assert columns == 3, "the table itself is as it was"


@pytest.mark.parametrize(
    ("setup", "given", "reason", "words"),
    [
        ("", {}, SourceReason.MISSING, 'relation "events" does not exist'),
        (EXISTING, {"id": "pk"}, SourceReason.SHAPE, "events has no column handled_at and no column handled_as"),
        (EXISTING, {"companion": "public.p"}, SourceReason.SHAPE, "events has no column id"),
        (EXISTING, {"id": "pk", "companion": "public.p"}, SourceReason.MISSING, 'relation "public.p" does not exist'),
    ],
)
async def test_a_database_that_is_not_set_up_is_told_with_what_to_do(
    database: Database, setup: str, given: dict[str, str], reason: SourceReason, words: str
) -> None:
    if setup:
        await database.run(setup)
    for attempt in (source(database, **given).open([], position={}).__aenter__, source(database, **given).describe):
        with pytest.raises(SourceError) as raised:
            await (attempt(Subject(event="x")) if attempt.__name__ == "describe" else attempt())  # type: ignore[call-arg]
        assert raised.value.reason is reason
        assert words in str(raised.value)
        assert str(raised.value).endswith("; run the SQL that `tocsin sql shop` prints")


async def test_what_an_event_looks_like_can_be_asked(database: Database) -> None:
    await made(database)
    assert [column.name for column in await source(database).describe(Subject(event="x"))] == ["id", "name", "data"]
    assert await source(database).sample(Subject(event="x")) is None
    await database.run(INSERT, 1)
    assert await source(database).sample(Subject(event="x")) == ("1", "order", '{"n": 1}')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "a;b"}, "is no relation name"),
        ({"table": "a.b.c.d"}, "is no relation name"),
        ({"table": "x" * 64}, "longer than 63 bytes"),
        ({"channel": "é" * 32}, "longer than 63 bytes"),
        ({"channel": ""}, "must not be empty"),
        ({"id": "name"}, "two columns"),
        ({"name": "handled_at"}, "writes down"),
        ({"companion": "events"}, "another table"),
        ({"companion": "pending"}, "with its schema"),
        ({"batch": 0}, "greater than or equal to 1"),
        ({"poll": 5}, "is not a duration"),
        ({"poll": "0"}, "longer than 0"),
    ],
)
def test_a_bad_setting_is_refused_with_its_reason(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.Config.model_validate({"host": "h", "user": "u", **given})
