"""A table of events against a real server: nothing is lost while nobody listens, nothing is handled twice by those who
share the work, and nothing that comes in stops the reading."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from support.events_table import made, settings, source, taking, until_waiting, value
from support.postgres import Database, Postgres, postgres
from support.waiting import until
from tocsin.client import EventsTable, publish
from tocsin.errors import RefusedReason, SourceError, SourceReason
from tocsin.sources import Subject
from tocsin.sources import postgres_events as kind
from tocsin.sources.postgres_events.statements import Statements

pytestmark = pytest.mark.xdist_group("postgres")

INSERT = "INSERT INTO events (name, data) SELECT 'order', jsonb_build_object('n', n) FROM generate_series(1, %s) AS n"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as one:
        yield one


@asynccontextmanager
async def late(database: Database) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
    """A second client, whose transactions the test commits when it wants."""
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        yield connection


async def handled(database: Database, table: str = "events") -> dict[int, str | None]:
    """Row id -> what became of it."""
    return dict(await database.run(f"SELECT id, handled_as FROM {table} ORDER BY id"))


# The table is the queue.


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


# Several workers.


async def test_each_event_is_handled_by_one_of_several_workers(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 600)
    small = source(database, batch=20)
    async with taking(small) as a, taking(small) as b, taking(small) as c:
        workers = [a, b, c]
        for _ in range(10):
            batches = [await worker.next() for worker in workers]
            held = [event.id for batch in batches for event in batch.events]
            assert len(held) == len({*held}) == 60, "two workers hold the same event at once"
            for worker, batch in zip(workers, batches, strict=True):
                await worker.acknowledge(batch)
    assert sorted(number for worker in workers for number in worker.ids) == list(range(1, 601))


async def test_workers_at_full_speed_share_the_work_and_keep_the_order_of_each_key(database: Database) -> None:
    await made(database, key="key")
    await database.run(
        "INSERT INTO events (name, key) SELECT 'n', CASE WHEN i % 5 > 0 THEN (i % 7)::text END"
        " FROM generate_series(1, 2000) AS i"
    )
    told: list[tuple[int, str | None]] = []
    holding: set[str | None] = set()
    shares = {11: 0, 13: 0, 17: 0}

    async def work(size: int) -> None:
        async with taking(source(database, batch=size, key="key")) as worker:
            while True:
                batch = await worker.next()
                keys = {value(event, "key") for event in batch.events} - {None}
                assert not keys & holding, "two workers hold events of one key"
                holding.update(keys)
                told.extend((int(event.id.rpartition("/")[2]), value(event, "key")) for event in batch.events)
                shares[size] += len(batch.events)
                await asyncio.sleep(0)
                holding.difference_update(keys)
                await worker.acknowledge(batch)

    workers = [asyncio.create_task(work(size)) for size in shares]
    await until(lambda: len(told) >= 2000 or any(worker.done() for worker in workers), "all are told")
    for worker in workers:
        worker.cancel()
    ended = await asyncio.gather(*workers, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError}, ended
    assert sorted(number for number, _ in told) == list(range(1, 2001))
    assert all(shares.values()), shares
    for key in {key for _, key in told} - {None}:
        numbers = [number for number, of in told if of == key]
        assert numbers == sorted(numbers)


async def test_a_later_event_of_a_key_waits_for_the_worker_that_holds_an_earlier_one(database: Database) -> None:
    await made(database, key="key")
    await database.run(
        "INSERT INTO events (name, key) VALUES ('1', 'a'), ('2', 'a'), ('3', 'b'), ('4', 'a'), ('5', NULL)"
    )
    ordered = source(database, key="key", batch=1)
    async with taking(ordered) as first, taking(source(database, key="key")) as second:
        batch = await first.next()
        assert [event.name for event in batch.events] == ["1"]
        assert [event.name for event in (await second.take()).events] == ["3", "5"]
        waiting = asyncio.create_task(second.take())
        await first.acknowledge(batch)
        assert [event.name for event in (await waiting).events] == ["2", "4"]


async def test_the_events_of_a_worker_that_died_go_to_another(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 5)
    async with taking(source(database)) as survivor, taking(source(database)) as dead:
        held = await dead.next()
        [[pid]] = await database.run("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
        waiting = asyncio.create_task(survivor.take())
        await database.run("SELECT pg_terminate_backend(%s)", pid)
        assert [event.id for event in (await waiting).events] == [event.id for event in held.events]
        with pytest.raises(SourceError):
            await dead.acknowledge(held)


async def test_the_events_of_a_worker_that_fell_silent_go_to_another_when_its_lease_ends(database: Database) -> None:
    await made(database)
    await database.run(INSERT, 5)
    async with taking(source(database, lease="300ms")) as silent, taking(source(database)) as other:
        held = await silent.next()
        assert len((await other.take()).events) == 5
        with pytest.raises(SourceError) as raised:
            await silent.acknowledge(held)
        assert raised.value.reason in (SourceReason.DISCONNECTED, SourceReason.OTHER)


async def test_who_goes_on_without_acknowledging_gets_each_event_once_and_others_may_have_them(
    database: Database,
) -> None:
    """A dry run looks at everything and takes nothing."""
    await made(database, key="key")
    await database.run("INSERT INTO events (name, key) VALUES ('1', 'a'), ('2', 'a')")
    async with taking(source(database, batch=1, key="key")) as looking:
        first, second = await looking.next(), await looking.next()
        assert [event.name for batch in (first, second) for event in batch.events] == ["1", "2"]
        third = asyncio.create_task(looking.next())
        async with taking(source(database)) as worker:
            await worker.take()
            assert worker.names == ["1", "2"]
            await database.run("INSERT INTO events (name) VALUES ('3')")
            assert [event.name for event in (await third).events] == ["3"]
        with pytest.raises(RuntimeError, match="before the next one"):
            await looking.acknowledge(first)


@pytest.mark.parametrize("companion", [None, "public.events_pending"])
@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_batch_costs_the_same_however_long_the_backlog_is(
    database: Database, companion: str | None, key: str | None, known: bool
) -> None:
    """It is read along the index of what is pending, whether the server has `known` how much that is or has not."""
    given = {"companion": companion, "key": key}
    await made(database, **given)
    await database.run(INSERT, 20_000)
    if known:
        await database.run("ANALYZE")
    take = Statements(settings(database, **given), "bigint").take([]).as_string(None)
    async with await psycopg.AsyncConnection.connect(settings(database, **given).conninfo()) as connection:
        plan = [row[0] async for row in await connection.execute(f"EXPLAIN ANALYZE {take}")]
    read = [float(found) for line in plan for found in re.findall(r"actual time=\S+ rows=(\S+)", line)]
    assert max(read) <= 1_000, "\n".join(plan)
    assert any("Index Scan using events_pending" in line for line in plan)


# Nothing that comes in stops the reading.


async def test_a_notify_that_says_anything_is_only_a_hint(database: Database) -> None:
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


async def test_a_row_that_is_no_event_is_recorded_and_the_others_go_on(database: Database) -> None:
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


@pytest.mark.parametrize("after", ["mark", "delete"])
async def test_an_event_that_no_alert_takes_is_marked_and_not_looped_over(database: Database, after: str) -> None:
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


async def test_the_time_of_an_event_is_its_own_or_that_of_its_reading(database: Database) -> None:
    await made(database, time="at")
    await database.run("ALTER TABLE events ALTER COLUMN at DROP NOT NULL")
    await database.run(
        "INSERT INTO events (name, at) VALUES ('x', '2026-01-02 03:04:05.678+02'), ('x', NULL), ('x', 'infinity')"
    )
    timed = kind.PostgresEvents("shop", settings(database, time="at"), clock=lambda: 5.0)
    async with taking(timed) as worker:
        await worker.take()
    assert [event.at for event in worker.events] == [1_767_315_845_678, 5_000, 5_000]


async def test_columns_that_change_while_it_runs_are_read_as_they_are(database: Database) -> None:
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


# Names and rights.


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


@pytest.mark.parametrize("companion", [None, "shop.pending"])
async def test_who_publishes_needs_no_right_but_to_insert(database: Database, companion: str | None) -> None:
    given = {"table": "shop.events", "companion": companion}
    await database.run("CREATE SCHEMA shop")
    await made(database, **given)
    await database.run("DROP ROLE IF EXISTS publisher; CREATE ROLE publisher LOGIN")
    await database.run("GRANT USAGE ON SCHEMA shop TO publisher; GRANT INSERT, SELECT (id) ON shop.events TO publisher")
    dsn = psycopg.conninfo.make_conninfo(database.dsn, user="publisher")
    async with taking(source(database, **given)) as worker:
        await asyncio.to_thread(publish, dsn, "x", into=EventsTable(table="shop.events"))
        await worker.take()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await asyncio.to_thread(_stolen, dsn, "shop.pending" if companion else "shop.events")


def _stolen(dsn: str, table: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(f"UPDATE {table} SET handled_at = now()")


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


async def test_an_event_that_went_before_it_was_taken_is_recorded(database: Database) -> None:
    given = {"companion": "public.events_pending"}
    await made(database, **given)
    await database.run("INSERT INTO events (name) VALUES ('gone'), ('here'); DELETE FROM events WHERE name = 'gone'")
    async with taking(source(database, **given)) as worker:
        batch = await worker.take()
        assert worker.names == ["here"]
        assert [(each.id, each.reason) for each in batch.refused] == [("events/1", RefusedReason.MISSING)]
    assert await handled(database, "events_pending") == {1: "refused", 2: "taken"}


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


# Publishing.


async def test_an_event_is_published_with_the_data_it_is_about_or_not_at_all(database: Database) -> None:
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


async def test_what_is_published_alone_is_durable_and_told_without_a_trigger(database: Database) -> None:
    await made(database)
    await database.run("ALTER TABLE events DISABLE TRIGGER ALL")
    async with taking(source(database)) as worker:
        taken = asyncio.create_task(worker.take())
        await until_waiting(database)
        id_ = await asyncio.to_thread(publish, database.dsn, "alone")
        await taken
        assert [event.id for event in worker.events] == [f"events/{id_}"]
    assert value(worker.events[0], "data") == "{}"


# Settings.


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
