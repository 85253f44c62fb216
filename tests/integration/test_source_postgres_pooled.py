"""The PostgreSQL sources through PgBouncer, whose pool mode `transaction` may give each transaction another session."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support import events_table
from support.pgbouncer import VERSIONS, pgbouncer
from support.postgres import Database, Postgres
from support.reading import Reading, check, error_of, reading
from support.waiting import until_some
from tocsin.errors import SourceError, SourceReason
from tocsin.postgres import OUTPUT
from tocsin.sources import postgres as source_kind
from tocsin.sources.base import Subject
from tocsin.sources.settings import PostgresConfig

QUERIES = {"SELECT 1 AS a, 2 AS b": ("1", "2"), "SELECT 3 AS b, 4 AS a": ("3", "4"), "SELECT 5 AS c": ("5",)}


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        yield made


def source(dsn: str, **given: object) -> source_kind.Postgres:
    quick = {"interval": "5ms", "statement_timeout": "20s", "progress_timeout": "100s", "connect_timeout": "10s"}
    return source_kind.build("pg", PostgresConfig.model_validate({"dsn": dsn, **quick, **given}))


every_version = pytest.mark.parametrize("version", VERSIONS)
first_and_last_version = pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
"""For tests that wait for seconds."""


@every_version
async def test_alerts_that_share_a_session_get_their_own_columns(
    server: Postgres, database: Database, version: str
) -> None:
    """Parse and Describe of one alert must not meet the statement of another one."""
    with pgbouncer(server, "transaction", size=2, version=version) as pooled:

        async def read(query: str) -> None:
            async with reading(source(pooled(database.dsn)), Subject(query=query)) as stream:
                names = [column.name for column in stream.columns]
                await read_on(stream, 40)
                assert stream.state == {QUERIES[query]: 1}
                assert query == f"SELECT {', '.join(f'{v} AS {n}' for v, n in zip(QUERIES[query], names, strict=True))}"

        await asyncio.gather(*map(read, [*QUERIES] * 2))


@every_version
async def test_settings_hold_in_transactions_and_reach_no_one_else(
    server: Postgres, database: Database, version: str
) -> None:
    with pgbouncer(server, "transaction", size=1, version=version) as pooled:
        dsn = pooled(database.dsn)
        given = {"statement_timeout": "300ms", "options": {"TimeZone": "Asia/Tokyo", "search_path": "a, b"}}
        query = "SELECT current_setting('TimeZone'), current_setting('search_path'), current_setting('DateStyle')"
        async with reading(source(dsn, **given), Subject(query=query)) as stream:
            await read_on(stream, 3)
            assert stream.state == {("Asia/Tokyo", "a, b", "ISO, MDY"): 1}
        assert "statement timeout" in str(await error_of(source(dsn, **given), Subject(query="SELECT pg_sleep(60)")))
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None) as other:
            for setting in ("statement_timeout", "search_path"):
                shown = await (await other.execute(f"SHOW {setting}")).fetchone()
                assert shown not in (("300ms",), ("a, b",))


@every_version
async def test_full_pooler_names_the_key_to_lower(server: Postgres, database: Database, version: str) -> None:
    with pgbouncer(server, version=version, max_client_conn="1") as pooled:
        shared = source(pooled(database.dsn))
        async with reading(shared, Subject(query="SELECT pg_sleep(0.5)")) as slow:
            under_way = asyncio.create_task(slow.next())
            await until_some(lambda: database.run("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%%pg_sleep%%'"))
            error = await error_of(shared, Subject(query="SELECT 1 AS a"))
            check(error, SourceReason.CONNECT, "no more connections allowed", "lower max_connections, which is 10")
            await under_way


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_settings_of_a_dsn_hold(server: Postgres, database: Database, mode: str) -> None:
    with pgbouncer(server, mode) as pooled:
        asked = source(make_conninfo(pooled(database.dsn), options="-c search_path=a,b"))
        async with reading(asked, Subject(query="SELECT current_setting('search_path')")) as stream:
            await stream.until_state(("a,b",))


@every_version
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_blocked_reading_is_ended_by_the_server(
    server: Postgres, database: Database, mode: str, version: str
) -> None:
    """By the `statement_timeout` of the source, which PgBouncer drops where it is sent with the login."""
    await database.run("CREATE TABLE orders (id int)")
    ignored = "options,statement_timeout"
    with pgbouncer(server, mode, version=version, ignore_startup_parameters=ignored) as pooled:
        async with (
            reading(source(pooled(database.dsn), statement_timeout="300ms"), "orders") as stream,
            await psycopg.AsyncConnection.connect(database.dsn) as other,
        ):
            await stream.next()
            await other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            assert "statement timeout" in str(await stream.error())


@every_version
async def test_statement_pooling_is_refused_in_words(server: Postgres, database: Database, version: str) -> None:
    with pgbouncer(server, "statement", version=version) as pooled:
        error = await error_of(source(pooled(database.dsn)), Subject(query="SELECT 1 AS a"))
        assert "statement pooling mode" in str(error)


async def test_every_setting_of_the_output_may_be_chosen(database: Database) -> None:
    async with reading(source(database.dsn, options=dict(OUTPUT)), Subject(query="SELECT 1 AS a")) as stream:
        await stream.until_state(("1",))


@first_and_last_version
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_unheard_notify_is_reported(server: Postgres, database: Database, mode: str, version: str) -> None:
    """LISTEN succeeds in both modes. The rows are read on the interval meanwhile."""
    await database.run("CREATE TABLE orders (id int)")
    with pgbouncer(server, mode, version=version) as pooled:
        asked = source(pooled(database.dsn), notify=["orders"])
        problems = await asked.verify([])
        async with reading(asked, "orders") as stream:
            await stream.next()
            heard = stream.last.note == ""
            assert heard == (mode == "session")
            assert problems == ([] if heard else [stream.last.note])
            assert heard or "only in pool mode session" in stream.last.note
            await database.run("INSERT INTO orders VALUES (1)")
            await stream.until_state(("1",))


async def read_on(stream: Reading, count: int) -> None:
    for _ in range(count):
        await stream.next()


@first_and_last_version
async def test_events_refuse_shared_sessions(server: Postgres, database: Database, version: str) -> None:
    """LISTEN, locks and settings would be those of other clients. Hearing nothing takes longer to find out than a
    server may take to answer here."""
    await events_table.made(database)
    with pgbouncer(server, "transaction", version=version) as pooled:
        events = events_table.source(database, dsn=pooled(database.dsn), connect_timeout="1s")
        [problem] = await events.verify([])
        assert "use pool mode session" in problem
        with pytest.raises(SourceError, match="events need one of their own"):
            async with events.open([], position={}):
                pass
