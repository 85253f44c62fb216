"""The PostgreSQL source against a real server: readings on an interval and on NOTIFY, and what goes wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Database, Postgres
from support.reading import check, error_of, reading
from support.tocsin import command, running, write
from support.waiting import SOON, until_some
from tocsin.errors import SourceReason
from tocsin.firing import FiringSet, Rule
from tocsin.model import Kind
from tocsin.sources import postgres as source_kind
from tocsin.sources.base import Subject
from tocsin.sources.settings import PostgresConfig

pytestmark = pytest.mark.xdist_group("postgres")

NOTIFYING = """
CREATE TABLE orders (id int PRIMARY KEY, name text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_notify('Orders changed', ''); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION tell();
INSERT INTO orders VALUES (1, 'Ann'), (2, NULL);
"""
ANN = ("1", "Ann")
NOBODY = ("2", None)


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        await made.run(NOTIFYING)
        yield made


def source(database: Database, **given: Any) -> source_kind.Postgres:
    quick = {"interval": "100ms", "statement_timeout": "5s", "progress_timeout": "100s", "connect_timeout": "5s"}
    config = PostgresConfig.model_validate({"dsn": database.dsn, **quick, **given})
    return source_kind.build("pg", config)


async def test_a_relation_is_read_again_and_again(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        first = await stream.next()
        assert first.snapshot is not None
        assert first.frontier == first.snapshot + 1
        assert not first.polled, "the first reading after a pause tells of what was missed"
        assert stream.state == {ANN: 1, NOBODY: 1}
        await database.run("DELETE FROM orders WHERE id = 2")
        await stream.until_state(ANN)
        assert stream.last.polled


async def test_a_notify_calls_for_a_reading_at_once(database: Database) -> None:
    """The interval is a minute, so whatever comes earlier came by NOTIFY."""
    notified = source(database, interval="60s", notify=["Orders changed"])
    waits = []
    async with reading(notified, "orders") as stream:
        await stream.next()
        for number in range(3, 8):
            began = time.perf_counter()
            await database.run("INSERT INTO orders VALUES (%s, 'more')", number)
            committed = time.perf_counter()
            await stream.until(lambda wanted=str(number): (wanted, "more") in stream.state)  # type: ignore[misc]
            waits.append(time.perf_counter() - committed)
            assert committed - began < SOON
    assert min(waits) < 0.1
    assert max(waits) < SOON


async def test_a_notify_during_a_reading_calls_for_the_next_one(database: Database) -> None:
    """It may be about something that the reading under way no longer saw."""
    await database.run("CREATE VIEW slow AS SELECT id, name FROM orders, pg_sleep(0.3)")
    async with reading(source(database, interval="60s", notify=["Orders changed"]), "slow") as stream:
        under_way = asyncio.create_task(stream.next())
        await until_some(
            lambda: database.run(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()",
                "COPY%slow%",
            )
        )
        await database.run("INSERT INTO orders VALUES (3, 'late')")
        await under_way
        await stream.until_state(ANN, NOBODY, ("3", "late"))


async def test_readings_become_transitions_by_comparison(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        firing = FiringSet(Rule(alert="orders", columns=stream.columns, key=(0,)))
        told = [(one.kind, one.row) for one in firing.apply(await stream.next()).transitions]
        assert sorted(told, key=str) == [(Kind.FIRED, ANN), (Kind.FIRED, NOBODY)]
        await database.run("UPDATE orders SET name = 'Anna' WHERE id = 1; DELETE FROM orders WHERE id = 2")
        told = []
        while len(told) < 2:
            outcome = firing.apply(await stream.next())
            told += [(one.kind, one.row) for one in outcome.transitions]
        assert sorted(told, key=str) == [(Kind.RESOLVED, NOBODY), (Kind.UPDATED, ("1", "Anna"))]
        assert not firing.apply(await stream.next()).transitions


async def test_time_never_runs_backwards(database: Database) -> None:
    async with reading(source(database, interval="1ms"), "orders") as stream:
        for _ in range(20):
            await stream.next()
        stamps = [batch.snapshot or 0 for batch in stream.batches]
        assert stamps == sorted(set(stamps))
    future = int(time.time() * 1000) + 3_600_000  # the ledger's frontier, from a server whose clock was ahead
    async with reading(source(database), "orders", resume=future) as stream:
        assert ((await stream.next()).snapshot or 0) > future


@pytest.mark.parametrize("name", ['"Late Orders"', '"a""b"', '"x;DROP TABLE orders;--"', '"ünïcode"', '"%s {}"'])
async def test_any_name_can_be_read(database: Database, name: str) -> None:
    made = f'CREATE SCHEMA "The Shop"; CREATE TABLE "The Shop".{name} ("Id" int, "od""d; name" text);'
    await database.run(f"""{made} INSERT INTO "The Shop".{name} VALUES (1, 'x')""")
    async with reading(source(database), f'"The Shop".{name}') as stream:
        await stream.until_state(("1", "x"))
        assert [column.name for column in stream.columns] == ["Id", 'od"d; name']


async def test_a_query_is_taken_as_it_stands(database: Database) -> None:
    query = "SELECT upper(name) AS who, count(*) FROM orders WHERE name LIKE 'A%' GROUP BY 1 -- why not;\n;"
    async with reading(source(database), Subject(query=query)) as stream:
        await stream.until_state(("ANN", "1"))
        assert [column.name for column in stream.columns] == ["who", "count"]
    assert await source(database).sample(Subject(query=query)) == ("ANN", "1")


TYPES = (
    ("smallint", "-1"),
    ("bigint", "9223372036854775807"),
    ("real", "1.5"),
    ("double precision", "NaN"),
    ("double precision", "-Infinity"),
    ("numeric", "12345678901234567890.123456789"),
    ("boolean", "t"),
    ("jsonb", '{"a": [1, null], "b": "é"}'),
    ("timestamptz", "2026-01-02 03:04:05.678901+00"),
    ("date", "2026-01-02"),
    ("interval", "1 mon 2 days 03:04:05.5"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", "\\xdeadbeef"),
    ("text[]", '{a,"b,c","d\\"e",NULL,"NULL",""}'),
    ("int4range", "[1,5)"),
    ("text", "tab\tnew\nline\\ü😀\r\b\f\v"),
    ("text", ""),
    ("text", "\\N"),
)


async def test_every_type_comes_as_the_text_that_the_server_sends(database: Database) -> None:
    spec = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(TYPES))
    await database.run(f"CREATE TABLE types ({spec})")
    row = tuple(text for _, text in TYPES)
    slots = ", ".join(["%s"] * len(row))
    await database.run(f"INSERT INTO types VALUES ({slots})", *row)
    await database.run("INSERT INTO types DEFAULT VALUES")
    async with reading(source(database, options={"timezone": "UTC"}), "types") as stream:
        await stream.until_state(row, (None,) * len(row))


async def test_an_empty_relation_gives_empty_readings(database: Database) -> None:
    await database.run("TRUNCATE orders")
    async with reading(source(database), "orders") as stream:
        assert not (await stream.next()).updates
        assert not (await stream.next()).updates


# What goes wrong.


async def test_a_missing_relation_is_named(database: Database) -> None:
    check(await error_of(source(database), "nonesuch"), SourceReason.MISSING, "nonesuch", "postgres@")


async def test_a_missing_right_is_told(database: Database) -> None:
    await database.run("CREATE ROLE visitor LOGIN")
    try:
        denied = source(database, dsn=f"{database.dsn} user=visitor")
        check(await error_of(denied, "orders"), SourceReason.PERMISSION, "orders", "visitor@")
    finally:
        await database.run("DROP ROLE visitor")


async def test_a_role_that_does_not_exist_is_a_matter_of_login(database: Database) -> None:
    stranger = source(database, dsn=f"{database.dsn} user=stranger password=SECRET")
    error = await error_of(stranger, "orders")
    check(error, SourceReason.AUTH, 'role "stranger" does not exist')
    assert "SECRET" not in str(error)


async def test_a_query_that_fails_says_why_and_works_once_it_can(database: Database) -> None:
    await database.run("CREATE VIEW risky AS SELECT id, 1 / (id - 3) AS n FROM orders")
    async with reading(source(database), "risky") as stream:
        await stream.next()
        await database.run("INSERT INTO orders VALUES (3, 'trouble')")
        check(await stream.error(), SourceReason.OTHER, "division by zero")
    check(await error_of(source(database), "risky"), SourceReason.OTHER, "division by zero")
    await database.run("DELETE FROM orders WHERE id = 3")
    async with reading(source(database), "risky") as stream:
        await stream.next()


async def test_a_query_that_takes_too_long_is_ended_by_the_server(database: Database) -> None:
    query = Subject(query="SELECT id FROM orders, pg_sleep(60)")
    began = time.monotonic()
    error = await error_of(source(database, statement_timeout="200ms"), query)
    assert "statement timeout" in str(error)
    assert time.monotonic() - began < SOON / 2
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()"
    await until_some(lambda: database.run(f"SELECT 1 WHERE NOT EXISTS ({running})", "COPY%pg_sleep(60)%"))


async def test_a_relation_that_is_dropped_is_missed_at_the_next_reading(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("DROP TABLE orders")
        check(await stream.error(), SourceReason.MISSING, "orders")


async def test_a_relation_whose_columns_changed_is_no_longer_read_under_the_old_names(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("ALTER TABLE orders ADD COLUMN town text DEFAULT 'Ulm'")
        check(await stream.error(), SourceReason.SHAPE, "columns")
    async with reading(source(database), "orders") as stream:
        await stream.until_state((*ANN, "Ulm"), (*NOBODY, "Ulm"))


async def test_a_server_that_stops_and_starts_is_read_again(server: Postgres, database: Database) -> None:
    asked = source(database, notify=["Orders changed"])
    async with reading(asked, "orders") as stream:
        await stream.next()
        frontier = stream.frontier
        await asyncio.to_thread(server.stop)
        error = await stream.error()
        assert error.reason in (SourceReason.DISCONNECTED, SourceReason.OTHER)
        down = await error_of(asked, "orders")
        await asyncio.to_thread(server.start)
    assert down.reason is SourceReason.CONNECT
    async with reading(asked, "orders", resume=frontier - 1) as stream:
        assert ((await stream.next()).snapshot or 0) >= frontier
        await stream.until_state(ANN, NOBODY)


async def test_giving_up_a_stream_closes_its_connection(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        assert await database.run("SELECT 1 FROM pg_stat_activity WHERE application_name = 'tocsin'")
    nobody = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'tocsin')"
    await until_some(lambda: database.run(nobody))


async def test_a_large_result_leaves_the_event_loop_its_turns(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a timed test: the longest hold is printed. It fails only where nothing else ran at all."""
    await database.run("INSERT INTO orders SELECT n, 'name ' || n FROM generate_series(3, 100000) AS n")
    holds: list[float] = []

    async def feel() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            holds.append(time.perf_counter() - before)

    feeling = asyncio.create_task(feel())
    async with reading(source(database), "orders") as stream:
        batch = await stream.next()
    feeling.cancel()
    assert len(batch.updates) == 100_000
    assert len(holds) > 10
    with capsys.disabled():
        print(f"\n100,000 rows from PostgreSQL: longest hold of the loop {max(holds) * 1000:.0f} ms")


async def test_several_columns_of_one_name_are_refused(database: Database, tmp_path: Path) -> None:
    """By `run` as by `check --online`: in `row` there would be only one of them."""
    whole = {
        "web": {"listen": "127.0.0.1:0"},
        "sources": {"db": {"type": "postgres", "dsn": database.dsn}},
        "alerts": {"twice": {"source": "db", "query": "SELECT 1 AS a, 2 AS a", "key": ["a"]}},
    }
    file = write(tmp_path / "check.yaml", whole)
    status, _, errors = await command(tmp_path, "check", "--online", "--config", str(file))
    assert (status, "there are several columns 'a'; give each its own name" in errors) == (1, True)
    async with running(tmp_path, whole) as tocsin:
        await tocsin.until_not_ready("there are several columns a; give each its own name")
