"""Publishing events: in the transaction of the caller, with no more rights than needed."""

import asyncio

import psycopg
import pytest

from support.events_table import made, source, taking, until_waiting, value
from support.postgres import Database
from tocsin.client import EventsTable, publish


async def test_event_is_committed_only_with_its_data(database: Database) -> None:
    await made(database)
    await database.run("CREATE TABLE orders (id int)")

    def order(number: int, *, fail: bool) -> None:
        with psycopg.connect(database.dsn) as connection:
            connection.execute("INSERT INTO orders VALUES (%s)", [number])
            publish(connection, "order_placed", {"order": number})
            if fail:
                raise ZeroDivisionError

    async with taking(source(database)) as worker:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(order, 1, fail=True)
        await asyncio.to_thread(order, 2, fail=False)
        await worker.take()
    assert await database.run("SELECT id FROM orders") == [(2,)]
    assert [value(event, "data") for event in worker.events] == ['{"order": 2}']


async def test_publish_without_transaction_commits_and_notifies(database: Database) -> None:
    await made(database)
    await database.run("ALTER TABLE events DISABLE TRIGGER ALL")
    async with taking(source(database)) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        id_ = await asyncio.to_thread(publish, database.dsn, "alone")
        await taken
        assert [event.id for event in worker.events] == [f"events/{id_}"]
    assert value(worker.events[0], "data") == "{}"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("RETURN NULL", "no event was written: a trigger or rule of events dropped it; check its BEFORE INSERT"),
        ("NEW.id := NULL; RETURN NEW", "the event has no id, so it is never read"),
    ],
)
async def test_publish_fails_when_a_trigger_drops_the_event(database: Database, what: str, words: str) -> None:
    await database.run(f"""
        CREATE TABLE events (id int DEFAULT 1, name text, data jsonb);
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spoil();
    """)
    with pytest.raises(psycopg.DataError, match=words):
        await asyncio.to_thread(publish, database.dsn, "x")
    assert await database.run("SELECT 1 FROM events") == []


async def test_publishers_need_only_the_right_to_insert(database: Database) -> None:
    given = {"table": "shop.events"}
    await database.run("CREATE SCHEMA shop")
    await made(database, **given)
    await database.run("DROP ROLE IF EXISTS publisher; CREATE ROLE publisher LOGIN")
    await database.run("GRANT USAGE ON SCHEMA shop TO publisher; GRANT INSERT, SELECT (id) ON shop.events TO publisher")
    dsn = psycopg.conninfo.make_conninfo(database.dsn, user="publisher")
    async with taking(source(database, **given)) as worker:
        await asyncio.to_thread(publish, dsn, "x", into=EventsTable(table="shop.events"))
        await worker.take()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await asyncio.to_thread(_mark, dsn)


def _mark(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE shop.events SET handled_at = now()")
