"""An events table as a queue: nothing is lost while no process listens; NOTIFY only wakes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from support.events_table import INSERT, handled, made, source, taking, until_waiting, value
from support.postgres import Database, on_both_versions
from support.waiting import until_some


@asynccontextmanager
async def late(database: Database) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
    """A second client, whose transactions the test commits when it wants."""
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        yield connection


async def test_stored_events_are_read_by_a_later_worker(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 3)
    async with taking(source(database)) as worker:
        batch = await worker.take()
    assert [event.id for event in batch.events] == ["events/1", "events/2", "events/3"]
    assert [event.name for event in batch.events] == ["order"] * 3
    assert value(batch.events[0], "data") == '{"n": 1}'
    assert await handled(database) == {1: "taken", 2: "taken", 3: "taken"}


async def test_unacknowledged_events_come_again_with_same_ids(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 3)
    async with taking(source(database)) as worker:
        first = await worker.next()
    async with taking(source(database)) as worker:
        again = await worker.take()
    assert [event.id for event in again.events] == [event.id for event in first.events]
    async with taking(source(database)) as worker:
        await database.run(INSERT, 1)
        assert [event.id for event in (await worker.take()).events] == ["events/4"]


async def test_burst_is_read_in_order(database: Database) -> None:
    await made(database)
    async with taking(source(database, batch=7)) as worker:
        for _ in range(50):
            await database.run(INSERT, 1)
        await worker.until(50)
    assert worker.ids == list(range(1, 51))


@on_both_versions
async def test_notify_wakes_the_reader(database: Database) -> None:
    """It polls once an hour, so the event came by NOTIFY."""
    await made(database)
    async with taking(source(database)) as worker:
        for count in range(1, 4):
            taken = asyncio.create_task(worker.take())
            await until_waiting(database)
            await database.run(INSERT, 1)
            await taken
            assert worker.ids == list(range(1, count + 1))


async def test_worker_outlasts_a_limit_on_idle_sessions(database: Database) -> None:
    """It polls once an hour, and sends nothing meanwhile."""
    await made(database)
    [(name,)] = await database.run("SELECT current_database()")
    await database.run(f"ALTER DATABASE {name} SET idle_session_timeout = '1s'")
    async with taking(source(database)) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        idle = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT 1 FROM %'"
        await until_some(
            lambda: database.run(f"{idle} AND clock_timestamp() - state_change > '1.2s'"), "it was idle for so long"
        )
        await database.run(INSERT, 1)
        assert [event.id for event in (await taken).events] == ["events/1"]


@on_both_versions
async def test_late_commit_of_smaller_id_is_not_skipped(database: Database) -> None:
    await made(database)
    async with late(database) as other, taking(source(database)) as worker:
        await other.execute(INSERT, [1])
        await database.run(INSERT, 1)
        assert [event.id for event in (await worker.take()).events] == ["events/2"]
        await other.commit()
        assert [event.id for event in (await worker.take()).events] == ["events/1"]


async def test_notify_before_the_commit_loses_nothing(database: Database) -> None:
    await made(database)
    await database.run("ALTER TABLE events DISABLE TRIGGER ALL")
    async with late(database) as other, taking(source(database, poll="200ms")) as worker:
        await other.execute(INSERT, [1])
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        await database.run("NOTIFY events, '1'")
        await other.commit()
        await taken
    assert worker.ids == [1]


@on_both_versions
async def test_trigger_turns_changes_and_deletions_into_events(database: Database) -> None:
    """The event and the change it is about are committed together."""
    await made(database)
    await database.run("""
        CREATE TABLE orders (id int PRIMARY KEY, state text);
        CREATE FUNCTION publish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO events (name, data) VALUES ('order_' || lower(TG_OP), to_jsonb(coalesce(NEW, OLD)));
          RETURN NULL;
        END $$;
        CREATE TRIGGER publish AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION publish();
    """)
    async with taking(source(database)) as worker:
        await database.run("INSERT INTO orders VALUES (1, 'new'); UPDATE orders SET state = 'paid'; DELETE FROM orders")
        await worker.until(3)
    assert worker.names == ["order_insert", "order_update", "order_delete"]
