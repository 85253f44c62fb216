"""The content of an events table: nothing stops the reading, and invalid events are refused."""

import asyncio

import pytest

from support.events_table import INSERT, handled, made, settings, source, taking, until_waiting, value
from support.postgres import Database
from tocsin.errors import RefusedReason
from tocsin.sources import postgres_events as kind


async def test_payload_of_notify_is_ignored(database: Database) -> None:
    await made(database)
    async with taking(source(database)) as worker:
        for payload in ("", "no id", "99999999999999999999", "1; DROP TABLE events", "x" * 7000, "💥"):
            await database.run("SELECT pg_notify('events', %s)", payload)
        await database.run(INSERT, 1)
        await worker.until(1)
        await database.run("NOTIFY events, '12345'")
        await database.run(INSERT, 1)
        await worker.until(2)
    assert worker.ids == [1, 2]


async def test_row_without_a_name_is_refused(database: Database) -> None:
    await made(database)
    await database.run("ALTER TABLE events ALTER COLUMN name DROP NOT NULL")
    await database.run("INSERT INTO events (name) VALUES ('a'), (NULL), ('b')")
    async with taking(source(database)) as worker:
        batch = await worker.take()
        assert worker.names == ["a", "b"]
        [refused] = batch.refused
        assert (refused.id, refused.reason, refused.detail) == (
            "events/2",
            RefusedReason.MALFORMED,
            "its name is NULL",
        )
        await database.run("INSERT INTO events (name) VALUES ('c')")
        await worker.until(3)
    assert await handled(database) == {1: "taken", 2: "refused", 3: "taken", 4: "taken"}


@pytest.mark.parametrize("key", [None, "name"])
async def test_rows_without_an_id_are_refused(database: Database, key: str | None) -> None:
    """After all others. A caller that marks nothing sees them once."""
    given = {"key": key, "batch": 2}
    await database.run("CREATE TABLE events (id int UNIQUE, name text)")
    await database.run(kind.existing_table(settings(database, **given)))
    await database.run("INSERT INTO events VALUES (NULL, 'x'), (1, 'x'), (NULL, NULL), (2, 'x'), (NULL, 'x'), (3, 'x')")
    async with taking(source(database, **given)) as looking:
        assert sum([len((await looking.next()).refused) for _ in range(3)]) == 3
        another = asyncio.create_task(looking.next())
        await until_waiting(database)
        await database.run("INSERT INTO events VALUES (4, 'x')")
        assert [event.id for event in (await another).events] == ["events/4"]
    async with taking(source(database, **given)) as worker:
        refused = [one for _ in range(3) for one in (await worker.take()).refused]
        assert worker.ids == [1, 2, 3, 4]
        assert [(one.id, one.reason, one.detail) for one in refused] == [
            ("events/NULL", RefusedReason.MALFORMED, "its id is NULL")
        ] * 3
    marked = await database.run("SELECT handled_as FROM events ORDER BY id NULLS LAST")
    assert marked == [("taken",)] * 4 + [("refused",)] * 3


@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_unmatched_event_is_marked_and_read_once(database: Database, after: str) -> None:
    await made(database, after=after)
    await database.run("INSERT INTO events (name) VALUES ('known'), ('unknown')")
    async with taking(source(database, after=after), unmatched=["unknown"]) as worker:
        await worker.take()
        await database.run("INSERT INTO events (name) VALUES ('known')")
        await worker.take()
    assert worker.names == ["known", "unknown", "known"]
    kept = await handled(database)
    assert kept == ({2: "unmatched"} if after == "delete" else {1: "taken", 2: "unmatched", 3: "taken"})
    assert await database.run("SELECT 1 FROM events WHERE handled_at IS NULL") == []


async def test_event_without_time_has_the_read_time(database: Database) -> None:
    await made(database, time="at")
    await database.run("ALTER TABLE events ALTER COLUMN at DROP NOT NULL")
    await database.run(
        "INSERT INTO events (name, at) VALUES ('x', '2026-01-02 03:04:05.678+02'), ('x', NULL), ('x', 'infinity')"
    )
    timed = kind.PostgresEvents("shop", settings(database, time="at"), clock=lambda: 5.0)
    async with taking(timed) as worker:
        await worker.take()
    assert [event.at for event in worker.events] == [1_767_315_845_678, 5_000, 5_000]


async def test_changed_columns_are_read_as_they_are(database: Database) -> None:
    await made(database)
    async with taking(source(database)) as worker:
        await database.run(INSERT, 1)
        await worker.take()
        await database.run("ALTER TABLE events ADD COLUMN amount numeric; ALTER TABLE events DROP COLUMN data")
        await database.run("INSERT INTO events (name, amount) VALUES ('x', 1.50)")
        await worker.take()
    assert [column.name for column in worker.events[0].columns] == ["id", "name", "data"]
    assert [(column.name, column.oid) for column in worker.events[1].columns][2] == ("amount", 1700)
    assert value(worker.events[1], "amount") == "1.50"
