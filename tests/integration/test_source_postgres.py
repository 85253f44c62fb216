"""The PostgreSQL source against a real server: readings on an interval and on NOTIFY, and errors."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection, sql

from support.postgres import BURST, QUEUE_IS_EMPTY, Database, Postgres, on_both_versions
from support.reading import check, error_of, reading
from support.tocsin import write
from support.waiting import SOON, until_some
from tocsin.cli import main
from tocsin.errors import SourceReason
from tocsin.sources import postgres as source_kind
from tocsin.sources.base import Subject
from tocsin.sources.settings import PostgresConfig

NOTIFYING = """
CREATE TABLE orders (id int PRIMARY KEY, name text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_notify('Orders changed', ''); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION tell();
INSERT INTO orders VALUES (1, 'Ann'), (2, NULL);
"""
ANN = ("1", "Ann")
UNNAMED = ("2", None)


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        await made.run(NOTIFYING)
        yield made


def source(database: Database, **given: Any) -> source_kind.Postgres:
    quick = {"interval": "100ms", "statement_timeout": "5s", "progress_timeout": "100s", "connect_timeout": "5s"}
    config = PostgresConfig.model_validate({"dsn": database.dsn, **quick, **given})
    return source_kind.build("pg", config)


@on_both_versions
async def test_relation_is_read_on_the_interval(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        first = await stream.next()
        assert first.snapshot is not None
        assert first.frontier == first.snapshot + 1
        assert stream.state == {ANN: 1, UNNAMED: 1}
        await database.run("DELETE FROM orders WHERE id = 2")
        await stream.until_state(ANN)
        assert stream.last.polled


@on_both_versions
async def test_replaced_relation_is_noticed(database: Database) -> None:
    """By the definition of a view, and by the number of a relation of the same one."""
    await database.run("CREATE VIEW named AS SELECT * FROM orders WHERE name IS NOT NULL")
    async with reading(source(database), "named") as stream:
        assert (await stream.next()).replaced == ""
        await database.run("CREATE OR REPLACE VIEW named AS SELECT * FROM orders WHERE name IS NULL")
        await stream.until_state(UNNAMED)
        assert stream.last.replaced == "the definition of the view was changed"
        assert (await stream.next()).replaced == ""
        await database.run("BEGIN; DROP VIEW named; CREATE VIEW named AS TABLE orders; COMMIT")
        await stream.until_state(ANN, UNNAMED)
        assert stream.last.replaced == "the name refers to another view now"
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("BEGIN; ALTER TABLE orders RENAME TO old; CREATE TABLE orders AS TABLE old; COMMIT")
        await stream.until(lambda: bool(stream.last.replaced))
        assert stream.last.replaced == "the name refers to another relation of the same definition now"


@on_both_versions
async def test_replaced_view_below_is_noticed(database: Database) -> None:
    """Through a view that stays as it is, and not for its rows alone."""
    await database.run("CREATE VIEW lowest AS SELECT * FROM orders WHERE name IS NOT NULL")
    await database.run("CREATE MATERIALIZED VIEW other AS SELECT 1 AS one")
    await database.run("CREATE VIEW middle AS SELECT lowest.* FROM lowest, other")
    await database.run("CREATE VIEW named AS SELECT * FROM middle")
    async with reading(source(database), "named") as stream:
        assert (await stream.next()).replaced == ""
        await database.run("INSERT INTO orders VALUES (9, 'new')")
        await stream.until_state(ANN, ("9", "new"))
        assert stream.last.replaced == ""
        await database.run("CREATE OR REPLACE VIEW lowest AS SELECT * FROM orders WHERE name IS NULL")
        await stream.until_state(UNNAMED)
        assert stream.last.replaced == "the definition of lowest, which the view selects from, was changed"
        assert (await stream.next()).replaced == ""


async def test_server_without_a_catalog_is_read_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_kind, "_IDENTITY", sql.SQL("SELECT nosuch({})"))
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("DELETE FROM orders WHERE id = 2")
        await stream.until_state(ANN)


async def test_only_pause_longer_than_the_interval_may_be_a_gap(database: Database) -> None:
    for seconds in (8, 12):
        last = int((time.time() - seconds) * 1000)
        async with reading(source(database, interval="10s"), "orders", as_of=last) as stream:
            assert (await stream.next()).polled == (seconds < 10)


@on_both_versions
async def test_notify_causes_a_reading_at_once(database: Database) -> None:
    """The interval is a minute, so an earlier reading was caused by NOTIFY."""
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
    assert min(waits) < 1.0
    assert max(waits) < SOON


async def test_notify_during_a_reading_causes_another(database: Database) -> None:
    """Its change may be missing in the reading that was running."""
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
        await stream.until_state(ANN, UNNAMED, ("3", "late"))


async def test_notifications_leave_the_queue_during_a_reading(database: Database) -> None:
    """The queue of a server has the notifications that any listener has not read. It is shared by all of its databases,
    and a NOTIFY fails when it is full. A session that listens and has an open transaction reads none."""
    async with (
        reading(source(database, interval="60s", notify=["Orders changed"]), "orders") as stream,
        await AsyncConnection.connect(database.dsn, autocommit=True) as other,
    ):
        await stream.next()
        await other.execute("LISTEN elsewhere")
        await other.execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        under_way = asyncio.create_task(stream.next())
        await database.run(BURST, "Orders changed")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%%orders%%' AND wait_event_type = 'Lock'"
        await until_some(lambda: database.run(waiting), "the reading waits for the lock")
        assert (await database.run(QUEUE_IS_EMPTY)) == [(False,)]
        await other.execute("UNLISTEN *; COMMIT")
        await under_way
        await other.execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        under_way = asyncio.create_task(stream.next())
        await database.run(BURST, "Orders changed")
        await until_some(lambda: _empty(database), "all are read")
        assert await database.run(waiting)
        await other.execute("COMMIT")
        await under_way


async def _empty(database: Database) -> bool:
    return await database.run(QUEUE_IS_EMPTY) == [(True,)]


async def test_timestamps_never_go_back(database: Database) -> None:
    async with reading(source(database, interval="1ms"), "orders") as stream:
        for _ in range(20):
            await stream.next()
        stamps = [batch.snapshot or 0 for batch in stream.batches]
        assert stamps == sorted(set(stamps))
    future = int(time.time() * 1000) + 3_600_000  # the ledger's frontier, from a server whose clock was ahead
    async with reading(source(database), "orders", as_of=future) as stream:
        assert ((await stream.next()).snapshot or 0) > future


@pytest.mark.parametrize("end", ["", " -- why not", "\n-- why; not\n", "; -- why not", " /* why\nnot */;\n"])
async def test_query_is_used_as_it_is(database: Database, end: str) -> None:
    query = f"SELECT upper(name) AS who, count(*) FROM orders WHERE name LIKE 'A%' AND name <> '; --' GROUP BY 1{end}"
    async with reading(source(database), Subject(query=query)) as stream:
        await stream.until_state(("ANN", "1"))
        assert [column.name for column in stream.columns] == ["who", "count"]
    assert await source(database).sample(Subject(query=query)) == ("ANN", "1")


TYPES = (
    ("real", "1.5"),
    ("double precision", "-Infinity"),
    ("numeric", "12345678901234567890.123456789"),
    ("boolean", "t"),
    ("jsonb", '{"a": [1, null], "b": "é"}'),
    ("timestamptz", "2026-01-02 03:04:05.678901+00"),
    ("bytea", "\\xdeadbeef"),
    ("text[]", '{a,"b,c","d\\"e",NULL,"NULL",""}'),
    ("text", "tab\tnew\nline\\ü😀\r\b\f\v"),
    ("text", ""),
    ("text", "\\N"),
)


@on_both_versions
async def test_every_type_arrives_as_server_text(database: Database) -> None:
    spec = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(TYPES))
    await database.run(f"CREATE TABLE types ({spec})")
    row = tuple(text for _, text in TYPES)
    slots = ", ".join(["%s"] * len(row))
    await database.run(f"INSERT INTO types VALUES ({slots})", *row)
    await database.run("INSERT INTO types DEFAULT VALUES")
    async with reading(source(database, options={"timezone": "UTC"}), "types") as stream:
        await stream.until_state(row, (None,) * len(row))


# Errors.


async def test_missing_relation_is_named(database: Database) -> None:
    check(await error_of(source(database), "nonesuch"), SourceReason.MISSING, "nonesuch", "postgres@")


async def test_unknown_role_is_a_login_error(database: Database) -> None:
    stranger = source(database, dsn=f"{database.dsn} user=stranger password=SECRET")
    error = await error_of(stranger, "orders")
    check(error, SourceReason.AUTH, 'role "stranger" does not exist')
    assert "SECRET" not in str(error)


async def test_lines_of_an_error_are_separate_sentences(database: Database) -> None:
    await database.run(r"""CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
      RAISE EXCEPTION E'the first line\nand\tanother' USING DETAIL = 'no full stop', HINT = 'Do this.'; END $$""")
    error = await error_of(source(database), Subject(query="SELECT fail() AS id"))
    check(error, SourceReason.OTHER, "the first line; and another (no full stop. Do this)")


async def test_failing_query_is_named_and_recovers(database: Database) -> None:
    await database.run("CREATE VIEW risky AS SELECT id, 1 / (id - 3) AS n FROM orders")
    async with reading(source(database), "risky") as stream:
        await stream.next()
        await database.run("INSERT INTO orders VALUES (3, 'trouble')")
        check(await stream.error(), SourceReason.OTHER, "division by zero")
    check(await error_of(source(database), "risky"), SourceReason.OTHER, "division by zero")
    await database.run("DELETE FROM orders WHERE id = 3")
    async with reading(source(database), "risky") as stream:
        await stream.next()


@on_both_versions
async def test_slow_query_is_ended_by_the_server(database: Database) -> None:
    query = Subject(query="SELECT id FROM orders, pg_sleep(60)")
    began = time.monotonic()
    error = await error_of(source(database, statement_timeout="200ms"), query)
    assert "statement timeout" in str(error)
    assert time.monotonic() - began < SOON / 2
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()"
    await until_some(lambda: database.run(f"SELECT 1 WHERE NOT EXISTS ({running})", "COPY%pg_sleep(60)%"))


async def test_dropped_relation_is_missing_at_next_reading(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("DROP TABLE orders")
        check(await stream.error(), SourceReason.MISSING, "orders")


@on_both_versions
async def test_changed_columns_end_the_stream(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        await database.run("ALTER TABLE orders ADD COLUMN town text DEFAULT 'Ulm'")
        check(await stream.error(), SourceReason.SHAPE, "columns")
    async with reading(source(database), "orders") as stream:
        await stream.until_state((*ANN, "Ulm"), (*UNNAMED, "Ulm"))


@on_both_versions
async def test_restarted_server_is_read_again(server: Postgres, database: Database) -> None:
    asked = source(database, notify=["Orders changed"])
    async with reading(asked, "orders") as stream:
        await stream.next()
        frontier = stream.frontier
        await asyncio.to_thread(server.stop)
        error = await stream.error()
        assert error.reason in (SourceReason.CONNECT, SourceReason.DISCONNECTED, SourceReason.OTHER)
        down = await error_of(asked, "orders")
        await asyncio.to_thread(server.start)
    assert down.reason is SourceReason.CONNECT
    async with reading(asked, "orders", as_of=frontier - 1) as stream:
        assert ((await stream.next()).snapshot or 0) >= frontier
        await stream.until_state(ANN, UNNAMED)


async def test_closed_stream_closes_its_connection(database: Database) -> None:
    async with reading(source(database), "orders") as stream:
        await stream.next()
        assert await database.run("SELECT 1 FROM pg_stat_activity WHERE application_name = 'tocsin'")
    unused = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'tocsin')"
    await until_some(lambda: database.run(unused))


async def test_check_refuses_columns_of_one_name(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {
        "sources": {"db": {"type": "postgres", "dsn": database.dsn}},
        "alerts": {"twice": {"source": "db", "query": "SELECT 1 AS a, 2 AS a", "key": ["a"]}},
    }
    file = write(tmp_path / "check.yaml", whole)
    assert await asyncio.to_thread(main, ["check", "--online", "--config", str(file)]) == 1
    assert "there are several columns 'a'; give each its own name" in capsys.readouterr().err
