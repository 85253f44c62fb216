"""The connections of a PostgreSQL source, which its alerts share: how many there are, who gets one, and what is said
when there is none."""

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from support.postgres import Database, Postgres, on_both_versions
from support.reading import Reading, check, error_of, reading
from support.tocsin import command, running, write
from support.waiting import SOON, until, until_equal, until_some
from tocsin.errors import SourceError, SourceReason
from tocsin.sources import postgres as source_kind
from tocsin.sources import wire
from tocsin.sources.base import Subject
from tocsin.sources.settings import PostgresConfig

ALERTS, LIMIT = 60, 20


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        await made.run("CREATE TABLE orders (id int PRIMARY KEY)")
        await made.run("INSERT INTO orders VALUES (1)")
        yield made


@asynccontextmanager
async def limited_role(database: Database, limit: int) -> AsyncIterator[str]:
    """A connection string for a role that may have so many connections."""
    role = f"watcher_{secrets.token_hex(4)}"
    await database.run(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}")
    await database.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        yield make_conninfo(database.dsn, user=role)
    finally:
        await database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def source(dsn: str, **given: Any) -> source_kind.Postgres:
    quick = {"interval": "20ms", "statement_timeout": "20s", "progress_timeout": "60s", "connect_timeout": "10s"}
    eager = {"backoff_initial": "10ms", "backoff_max": "50ms"}
    return source_kind.build("pg", PostgresConfig.model_validate({"dsn": dsn, **quick, **eager, **given}))


HELD = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tocsin' AND datname = current_database()"


async def held(database: Database) -> int:
    """How many connections Tocsin holds."""
    return len(await database.run(HELD))


@asynccontextmanager
async def locked(database: Database) -> AsyncIterator[None]:
    """Lock the orders for the length of the block, so that no reading of them ends."""
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        await connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        yield


async def until_blocked(database: Database, count: int) -> None:
    """Wait until so many readings wait for the lock."""
    waiting = f"{HELD} AND wait_event_type = 'Lock'"
    await until_some(lambda: database.run(f"SELECT 1 FROM ({waiting}) AS w HAVING count(*) = {count}"), "blocked")


async def read_on(stream: Reading, count: int) -> None:
    for _ in range(count):
        await stream.next()


# Sixty alerts.


@pytest.mark.parametrize("notify", [[], ["orders_changed"]], ids=["interval", "notify"])
async def test_sixty_alerts_are_read_under_a_limit_of_twenty(
    database: Database, tmp_path: Path, notify: list[str]
) -> None:
    """All of them, again and again, over at most ten connections. With `notify` the interval is so long that only a
    NOTIFY explains the second reading."""
    async with limited_role(database, LIMIT) as dsn:
        interval = {"interval": "1h", "progress_timeout": "2h", "stale_after": "3h"} if notify else {"interval": "1s"}
        whole = {
            "web": {"listen": "127.0.0.1:0"},
            "sources": {"shop": {"type": "postgres", "dsn": dsn, "notify": notify, **interval}},
            "alerts": {
                f"alert_{n}": {"source": "shop", "query": f"SELECT id, {n} AS n FROM orders", "key": ["id"]}
                for n in range(ALERTS)
            },
        }
        file = write(tmp_path / "checked.yaml", whole)
        assert await command(tmp_path, "check", "--online", "--config", str(file)) == (0, ANY, "")
        counts: list[int] = []
        async with running(tmp_path, whole) as tocsin:

            async def firing() -> list[float]:
                counts.append(await held(database))
                return list((await tocsin.gauge("tocsin_alert_firing")).values())

            await until_equal(firing, [1.0] * ALERTS, "firing")
            await tocsin.until_ready()
            for number in (2, 3):
                await database.run(f"INSERT INTO orders VALUES ({number})")
                if notify:
                    await database.run("NOTIFY orders_changed")
                await until_equal(firing, [float(number)] * ALERTS, "firing")
            assert tocsin.logged("source down") == []
            assert 1 <= max(counts) <= 10
            await tocsin.stop()
        await until_equal(lambda: held(database), 0, "connections")


async def test_reload_closes_what_the_former_source_held(database: Database, tmp_path: Path) -> None:
    def config(limit: int) -> dict[str, Any]:
        return {
            "web": {"listen": "127.0.0.1:0"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": database.dsn,
                    "interval": "50ms",
                    "max_connections": limit,
                    "notify": ["orders_changed"],
                }
            },
            "alerts": {f"alert_{n}": {"source": "shop", "relation": "orders", "key": ["id"]} for n in range(8)},
        }

    async with running(tmp_path, config(5)) as tocsin:
        await tocsin.until_ready()
        await until_equal(lambda: held(database), 5, "connections")
        tocsin.write(config(2))
        tocsin.signal(signal.SIGHUP)
        await until_equal(lambda: held(database), 2, "connections")
        await tocsin.until_ready()


# Who gets a connection.


async def test_blocked_reading_leaves_the_others_alone(database: Database) -> None:
    """Two of three connections wait for a lock; over the third one, the other alerts are read."""
    await database.run("CREATE TABLE others (id int)")
    shared = source(database.dsn, max_connections=3)
    async with AsyncExitStack() as stack:
        blocked = [await stack.enter_async_context(reading(shared, "orders")) for _ in range(2)]
        free = [await stack.enter_async_context(reading(shared, "others")) for _ in range(3)]
        for stream in (*blocked, *free):
            await stream.next()
        async with locked(database):
            waiting = [asyncio.create_task(stream.next()) for stream in blocked]
            await until_blocked(database, 2)
            await asyncio.gather(*(read_on(stream, 10) for stream in free))
            assert await held(database) == 3
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_alerts_wait_while_all_connections_are_taken(database: Database) -> None:
    await database.run("CREATE TABLE others (id int)")
    shared = source(database.dsn, max_connections=1)
    async with reading(shared, "orders") as blocked, reading(shared, "others") as other:
        await blocked.next()
        await other.next()
        async with locked(database):
            first = asyncio.create_task(blocked.next())
            await until_blocked(database, 1)
            second = asyncio.create_task(other.next())
            await asyncio.sleep(0.2)
            assert not second.done()
            assert await held(database) == 1
        await asyncio.gather(first, second)


async def test_alerts_take_turns_with_one_connection(database: Database) -> None:
    """None is starved by those that are due all the time."""
    shared = source(database.dsn, max_connections=1, interval="1ms")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(reading(shared, "orders")) for _ in range(8)]
        for stream in streams:
            await stream.next()
        readers = [asyncio.create_task(read_on(stream, 10**6)) for stream in streams]
        await until(lambda: len(streams[0].batches) > 30)
        counts = [len(stream.batches) for stream in streams]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert max(counts) - min(counts) <= 3


async def test_connection_is_kept_and_returned_between_readings(database: Database) -> None:
    """Alerts that are due one after the other use one and the same connection."""
    shared = source(database.dsn)
    query = Subject(query="SELECT pg_backend_pid()")
    async with reading(shared, query) as one, reading(shared, query) as other:
        await one.next()
        await other.next()
        assert one.state == other.state
        assert await held(database) == 1


# What ends connections.


@on_both_versions
async def test_ended_idle_connections_are_replaced_unnoticed(database: Database) -> None:
    shared = source(database.dsn)
    async with AsyncExitStack() as stack:
        slow = Subject(query="SELECT pg_sleep(0.2)")  # so that all are read at the same time
        streams = [await stack.enter_async_context(reading(shared, slow)) for _ in range(3)]
        await asyncio.gather(*(stream.next() for stream in streams))
        assert await held(database) == 3
        await database.run(f"SELECT pg_terminate_backend(pid) FROM ({HELD}) AS them")
        await until_equal(lambda: held(database), 0, "connections")
        for stream in streams:
            await stream.next()


async def test_alerts_recover_from_a_restart_of_the_server(
    server: Postgres, database: Database, tmp_path: Path
) -> None:
    whole = {
        "web": {"listen": "127.0.0.1:0"},
        "sources": {
            "shop": {
                "type": "postgres",
                "dsn": database.dsn,
                "interval": "50ms",
                "notify": ["orders_changed"],
                "max_connections": 4,
                "backoff_initial": "50ms",
                "backoff_max": "200ms",
            }
        },
        "alerts": {f"alert_{n}": {"source": "shop", "relation": "orders", "key": ["id"]} for n in range(12)},
    }
    async with running(tmp_path, whole) as tocsin:
        await tocsin.until_ready()
        await database.close()
        await asyncio.to_thread(server.stop)
        try:
            reasons = await tocsin.until_not_ready("alert_11")
            assert "connection to server" in reasons
        finally:
            await asyncio.to_thread(server.start)
        await tocsin.until_ready()
        await database.run("INSERT INTO orders VALUES (2)")
        await tocsin.until_metric("tocsin_alert_firing", 2, alert="alert_11")
        assert await held(database) <= 4


async def test_last_alert_closes_the_connections(database: Database) -> None:
    shared = source(database.dsn, notify=["orders_changed"])
    async with reading(shared, "orders") as one:
        await one.next()
        async with reading(shared, "orders") as other:
            await other.next()
        assert await held(database) == 2
        await one.next()
    await until_equal(lambda: held(database), 0, "connections")


# NOTIFY.


@on_both_versions
async def test_one_connection_listens_for_all_alerts(database: Database) -> None:
    """On all channels. The interval is a minute, so an earlier reading was caused by NOTIFY."""
    shared = source(database.dsn, notify=["Orders changed", "customers"], interval="60s", progress_timeout="100s")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(reading(shared, "orders")) for _ in range(5)]
        for stream in streams:
            await stream.next()
        assert len(await database.run(f"{HELD} AND query LIKE 'LISTEN%'")) == 1
        for number, channel in enumerate(("Orders changed", "customers"), 2):
            await database.run(f'INSERT INTO orders VALUES ({number}); NOTIFY "{channel}"')
            for stream in streams:
                await stream.until(lambda stream=stream, number=number: (str(number),) in stream.state)  # type: ignore[misc]
        assert all(batch.note == "" for stream in streams for batch in stream.batches)


async def test_source_notifies_itself_before_it_listens(database: Database) -> None:
    """Also without a pooler: only a notification that arrives shows that others will."""
    asked = source(database.dsn, notify=["orders_changed"])
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as other:
        await other.execute(sql.SQL("LISTEN {}").format(wire._PROBE))
        assert await asked.verify([]) == []
        async with reading(asked, "orders"):
            pass
        sent = [notified.channel async for notified in other.notifies(timeout=SOON, stop_after=2)]
        assert len(sent) == 2


async def test_listening_outlasts_a_limit_on_idle_sessions(database: Database) -> None:
    """The connections for readings end by the limit, and are replaced."""
    [(name,)] = await database.run("SELECT current_database()")
    await database.run(f"ALTER DATABASE {name} SET idle_session_timeout = '200ms'")
    shared = source(database.dsn, notify=["orders_changed"], interval="300ms")
    async with reading(shared, "orders") as stream:
        await stream.next()
        listening = await database.run(f"{HELD} AND query LIKE 'LISTEN%'")
        await read_on(stream, 4)
        assert await database.run(f"{HELD} AND query LIKE 'LISTEN%'") == listening
        assert stream.last.note == ""


async def test_notify_is_not_missed_while_no_connection_listens(database: Database) -> None:
    """The interval is a minute, so the reading was caused by the loss of the connection, or by the next one."""
    shared = source(database.dsn, notify=["orders_changed"], interval="60s", progress_timeout="100s")
    listening = f"{HELD} AND query LIKE 'LISTEN%'"
    async with reading(shared, "orders") as stream:
        await stream.next()
        for number in (2, 3):
            await database.run(
                f"SELECT pg_terminate_backend(pid) FROM ({listening}) AS it;"
                f"INSERT INTO orders VALUES ({number}); NOTIFY orders_changed"
            )
            await stream.until(lambda number=number: (str(number),) in stream.state)  # type: ignore[misc]
            await until_some(lambda: database.run(listening), "it listens")
        await stream.until(lambda: stream.last.note == "")


# What is said.


@on_both_versions
async def test_refused_connections_name_the_key_to_lower(database: Database) -> None:
    async with limited_role(database, 2) as dsn:
        shared = source(dsn, max_connections=5)
        async with reading(shared, "orders") as one, reading(shared, "orders") as other:
            for stream in (one, other):
                await stream.next()
            async with locked(database):
                waiting = [asyncio.create_task(stream.next()) for stream in (one, other)]
                await until_blocked(database, 2)
                error = await error_of(shared, "orders")
            check(error, SourceReason.CONNECT, "too many connections for role", "lower max_connections, which is 5")
            await asyncio.gather(*waiting)


async def test_wait_without_a_free_connection_names_the_key_to_raise(database: Database) -> None:
    times = {"interval": "100ms", "statement_timeout": "1s", "progress_timeout": "1200ms"}
    shared, slow = source(database.dsn, max_connections=1, **times), Subject(query="SELECT pg_sleep(0.9)")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(reading(shared, slow)) for _ in range(3)]
        found = await asyncio.gather(*(stream.next() for stream in streams), return_exceptions=True)
        [error] = [one for one in found if isinstance(one, SourceError)]
        check(error, SourceReason.CONNECT, "no connection was free for 1.2 s", "raise max_connections, which is 1")


async def test_silent_server_is_reported_to_all_at_once() -> None:
    """Thirty alerts share two connections: they do not wait for fifteen timeouts."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        shared = source(
            f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable", max_connections=2, connect_timeout="1s"
        )
        began = time.monotonic()
        errors = await asyncio.gather(*(error_of(shared, "orders") for _ in range(30)))
        assert {error.reason for error in errors} == {SourceReason.CONNECT}
        assert time.monotonic() - began < SOON / 2


def test_notify_needs_a_connection_of_its_own() -> None:
    with pytest.raises(ValueError, match="at least 2 with notify"):
        source("host=x", notify=["orders_changed"], max_connections=1)
