"""A table of events as a queue, against a real server: nothing is lost while nobody listens; NOTIFY only wakes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from support.events_table import INSERT, handled, made, source, taking, until_waiting, value
from support.postgres import Database, Postgres
from tocsin.errors import SourceError, SourceReason

pytestmark = pytest.mark.xdist_group("postgres")


@asynccontextmanager
async def late(database: Database) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
    """A second client, whose transactions the test commits when it wants."""
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        yield connection


async def test_a_stored_event_is_handled_by_a_worker_that_starts_later(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 3)
    async with taking(source(database)) as worker:
        batch = await worker.take()
    assert [event.id for event in batch.events] == ["events/1", "events/2", "events/3"]
    assert [event.name for event in batch.events] == ["order"] * 3
    assert value(batch.events[0], "data") == '{"n": 1}'
    assert await handled(database) == {1: "taken", 2: "taken", 3: "taken"}


async def test_a_worker_that_comes_back_gets_what_it_had_not_acknowledged_with_the_same_ids(database: Database) -> None:
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


async def test_a_burst_is_handled_in_the_order_in_which_it_came(database: Database) -> None:
    await made(database)
    async with taking(source(database, batch=7)) as worker:
        for _ in range(50):
            await database.run(INSERT, 1)
        await worker.until(50)
    assert worker.ids == list(range(1, 51))


async def test_a_notify_wakes_at_once(database: Database) -> None:
    """It polls once an hour, so whatever comes came by NOTIFY."""
    await made(database)
    async with taking(source(database)) as worker:
        for count in range(1, 4):
            taken = asyncio.create_task(worker.take())
            await until_waiting(database)
            await database.run(INSERT, 1)
            await taken
            assert worker.ids == list(range(1, count + 1))


async def test_without_a_notify_the_poll_finds_it(database: Database) -> None:
    await made(database)
    await database.run("ALTER TABLE events DISABLE TRIGGER ALL")
    async with taking(source(database, poll="50ms")) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        await database.run(INSERT, 1)
        await taken


async def test_a_smaller_id_that_is_committed_late_is_not_skipped(database: Database) -> None:
    await made(database)
    async with late(database) as other, taking(source(database)) as worker:
        await other.execute(INSERT, [1])
        await database.run(INSERT, 1)
        assert [event.id for event in (await worker.take()).events] == ["events/2"]
        await other.commit()
        assert [event.id for event in (await worker.take()).events] == ["events/1"]


async def test_a_notify_before_the_commit_loses_nothing(database: Database) -> None:
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


async def test_changes_and_deletions_become_events_through_a_trigger(database: Database) -> None:
    """What a row-level trigger on any table writes is part of the change: both are committed, or neither."""
    await made(database)
    await database.run("""
        CREATE TABLE orders (id int PRIMARY KEY, state text);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO events (name, data) VALUES ('order_' || lower(TG_OP), to_jsonb(coalesce(NEW, OLD)));
          RETURN NULL;
        END $$;
        CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION tell();
    """)
    async with taking(source(database)) as worker:
        await database.run("INSERT INTO orders VALUES (1, 'new'); UPDATE orders SET state = 'paid'; DELETE FROM orders")
        await worker.until(3)
    assert worker.names == ["order_insert", "order_update", "order_delete"]


async def test_a_disconnect_is_a_source_error_and_the_backlog_is_read_afterwards(server: Postgres) -> None:
    async with server.database() as database:
        await made(database)
        async with taking(source(database)) as worker:
            await database.run(INSERT, 1)
            await worker.take()
            waiting = asyncio.create_task(worker.take())
            await database.close()
            await asyncio.to_thread(server.stop)
            with pytest.raises(SourceError) as raised:
                await waiting
            assert raised.value.reason in (SourceReason.DISCONNECTED, SourceReason.OTHER)
        with pytest.raises(SourceError) as refused:
            async with taking(source(database)):
                pass
        assert refused.value.reason is SourceReason.CONNECT
        await asyncio.to_thread(server.start)
        await database.run(INSERT, 2)
        async with taking(source(database)) as worker:
            await worker.take()
            assert worker.ids == [2, 3]
