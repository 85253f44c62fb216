"""The ledger's database goes away, is full, or turns a process away: nothing is lost, and work goes on once it is back.

With the default backoff of sources and channels, which is longer than the promise.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support.faketime import shifted
from support.outages import OUTAGES, Outage, over
from support.postgres import Database, Postgres, postgres
from support.receiver import Answer
from support.tcp_proxy import TcpProxy
from support.tocsin import Harness, TocsinProcess, new_harness
from support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failing ledger")]

OUTAGE = float(os.environ.get("TOCSIN_TEST_OUTAGE", "12"))
"""Seconds of a long outage; TOCSIN_TEST_OUTAGE asks for others. By then, the pauses of a source and a channel would
have grown beyond `BACK`."""
SEEN = 12.0
"""Seconds until an outage is seen; `TocsinLedgerDown` fires 10 s later."""
BACK = 5.0
"""Seconds after the end of an outage in which work goes on."""


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture
def server(own: Postgres) -> Postgres:
    """A server that the tests of this module stop. Each finds it running."""
    own.start()
    return own


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        yield made
        server.start()


@pytest.fixture
async def harness(tmp_path: Path, database: Database) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.config["ledger"] = {"url": database.dsn}
        for part in (made.source, made.config["channels"]["hook"]):
            del part["backoff_initial"], part["backoff_max"]
        yield made


@pytest.fixture(params=OUTAGES)
async def outage(request: pytest.FixtureRequest, server: Postgres, database: Database) -> AsyncIterator[Outage]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(OUTAGES[request.param](server, database))


@asynccontextmanager
async def working(harness: Harness) -> AsyncIterator[TocsinProcess]:
    """A process that has notified the first row."""
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))
        yield tocsin


async def goes_on(harness: Harness, tocsin: TocsinProcess, since: float) -> None:
    """What changed meanwhile is notified soon, each with one id."""
    await harness.until_notified(("fired", "1"), ("resolved", "1"), ("fired", "2"))
    assert time.monotonic() - since < BACK
    await tocsin.until_metric("tocsin_ledger_up", 1)
    await tocsin.until_ready()
    assert time.monotonic() - since < BACK
    assert len(tocsin.logged("the ledger works again")) == 1


def change(harness: Harness) -> None:
    """Have one row go and another come."""
    harness.orders.delete(("1", "Ann", "10"))
    harness.orders.insert(("2", "Bob", "20"))


async def test_work_goes_on_after_an_outage(harness: Harness, outage: Outage) -> None:
    harness.config["ledger"]["url"] = outage.dsn
    async with working(harness) as tocsin:
        await outage.begin()
        change(harness)
        began = time.monotonic()
        await tocsin.until_metric("tocsin_ledger_up", 0)
        await tocsin.until_not_ready("ledger: ", outage.says)
        assert time.monotonic() - began < SEEN
        if outage.long:
            await asyncio.sleep(OUTAGE - (time.monotonic() - began))
        assert len(tocsin.logged("the ledger cannot be used")) < 5
        await outage.end()
        await goes_on(harness, tocsin, time.monotonic())


async def test_process_that_starts_first_waits_for_the_database(harness: Harness, server: Postgres) -> None:
    """As on a machine that starts both."""
    harness.orders.insert(("1", "Ann", "10"))
    server.stop()
    async with harness.run() as tocsin:
        await tocsin.until_not_ready("ledger: standing by: ", "No such file or directory")
        await tocsin.until_metric("tocsin_ledger_up", 0)
        server.start()
        began = time.monotonic()
        await harness.until_notified(("fired", "1"))
        assert time.monotonic() - began < BACK
        await tocsin.until_ready()
        await tocsin.until_metric("tocsin_ledger_up", 1)


async def test_connections_that_got_lost_are_noticed(harness: Harness, server: Postgres, database: Database) -> None:
    """As when a firewall forgets them: the server is there, and neither side gets an answer."""
    async with TcpProxy(str(server.data), 5432) as proxy:
        harness.config["ledger"]["url"] = over(proxy, database)
        async with working(harness):
            proxy.lose()
            began = time.monotonic()
            change(harness)
            await harness.until_notified(("fired", "1"), ("resolved", "1"), ("fired", "2"))
            assert time.monotonic() - began < 10


async def test_synchronous_standby_that_is_away_is_named(
    harness: Harness, server: Postgres, database: Database
) -> None:
    """Commits wait for it, whatever timeout they have. Sessions that wait do not pile up on the server."""
    async with working(harness) as tocsin:
        await configure(server, "SET synchronous_standby_names = 'away'")
        try:
            change(harness)
            await tocsin.until_not_ready("ledger: ", "transactions do not end: its synchronous standby is away")
            await tocsin.until_metric("tocsin_ledger_up", 0)
            seen: set[int] = set()
            while len(seen) < 8:  # one after another waits, and is given up
                found = await database.run("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
                assert len(found) < 8
                seen |= {pid for (pid,) in found}
        finally:
            await configure(server, "RESET synchronous_standby_names")
        await goes_on(harness, tocsin, time.monotonic())


async def configure(server: Postgres, change: str) -> None:
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as admin:
        await admin.execute(f"ALTER SYSTEM {change}".encode())
        await admin.execute("SELECT pg_reload_conf()")


async def test_password_that_changes_is_read_from_its_file(
    harness: Harness, server: Postgres, database: Database, tmp_path: Path
) -> None:
    access, file = server.data / "pg_hba.conf", tmp_path / "url"
    access.write_text(f"local all teller scram-sha-256\n{access.read_text()}")
    await configure(server, "RESET ALL")
    await database.run("CREATE ROLE teller LOGIN PASSWORD 'first-password'; GRANT ALL ON SCHEMA public TO teller")
    await database.run("CREATE SCHEMA tocsin AUTHORIZATION teller")
    file.write_text(make_conninfo(database.dsn, user="teller", password="first-password"))
    harness.config["ledger"] = {"url_file": str(file)}
    async with working(harness) as tocsin:
        await database.run("ALTER ROLE teller PASSWORD 'second-password'")
        await database.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'teller'")
        change(harness)
        await tocsin.until_not_ready("ledger: ", "the login is refused; check the user and the password")
        file.write_text(make_conninfo(database.dsn, user="teller", password="second-password"))
        await goes_on(harness, tocsin, time.monotonic())
        assert not tocsin.logged("-password")
        assert not tocsin.logged("takes effect with the next start")
    await database.run("DROP OWNED BY teller; DROP ROLE teller")


# Full.


async def test_full_server_is_used_once_there_is_room(harness: Harness, server: Postgres, database: Database) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET max_connections = 15")
    await database.close()
    server.stop()
    server.start()
    try:
        async with working(harness) as tocsin:
            others = _all_connections(server)
            assert len(others) > 3
            change(harness)
            await tocsin.until_not_ready("ledger: ", "the server takes no more connections", "too many clients already")
            began = time.monotonic()
            for other in others:
                other.close()
            await goes_on(harness, tocsin, began)
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM RESET max_connections")
        server.stop()
        server.start()


def _all_connections(server: Postgres) -> list[psycopg.Connection[tuple[object, ...]]]:
    """Take all connections that the server has, and those that it has given to others."""
    taken = [psycopg.connect(server.dsn(), autocommit=True)]
    while len(taken) < 15:
        taken[0].execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname <> 'postgres' AND backend_type = 'client backend'"
        )
        try:
            taken.append(psycopg.connect(server.dsn()))
        except psycopg.OperationalError:
            break
    return taken


@pytest.fixture
def small_disk(server: Postgres) -> Iterator[Path]:
    """A file system of a few megabytes that the server can write to."""
    where = server.data.parent / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)], capture_output=True)
    if mounted.returncode:
        where.rmdir()
        pytest.skip("needs the right to mount a file system")
    owner = server.data.stat()
    subprocess.run(["chown", f"{owner.st_uid}:{owner.st_gid}", str(where)], check=True)
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)
    where.rmdir()


async def test_full_disk_loses_nothing(
    harness: Harness, server: Postgres, database: Database, small_disk: Path
) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        try:
            async with working(harness) as tocsin:
                for table in ("notifications", "transitions"):
                    await database.run(f"ALTER TABLE tocsin.{table} SET TABLESPACE small")
                filler = small_disk / "filler"
                with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * 4096)
                big = secrets.token_hex(100_000)  # the server compresses a text that repeats
                harness.orders.insert(("2", big, "20"))
                harness.orders.delete(("1", "Ann", "10"))
                await tocsin.until_metric("tocsin_ledger_up", 0)
                await tocsin.until_not_ready("ledger: ", "the server's disk is full; free some space")
                filler.unlink()
                await goes_on(harness, tocsin, time.monotonic())
        finally:
            await database.run("DROP SCHEMA tocsin CASCADE")
            admin.execute("DROP TABLESPACE small")


@pytest.fixture
def small_wal(server: Postgres) -> Iterator[Path]:
    """The write-ahead log of the server, on a file system of its own."""
    place, kept = server.data / "pg_wal", server.data.parent / "pg_wal"
    server.stop()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True).returncode:
        server.start()
        pytest.skip("needs the right to mount a file system")
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["cp", "-a", str(place), str(kept)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    subprocess.run(["cp", "-a", f"{kept}/.", str(place)], check=True)
    server.start()
    yield place
    server.stop()
    subprocess.run(["cp", "-a", f"{place}/.", str(kept)], check=True)
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    subprocess.run(["cp", "-a", f"{kept}/.", str(place)], check=True)
    shutil.rmtree(kept)
    server.start()


async def test_full_disk_of_the_log_loses_nothing(
    harness: Harness, server: Postgres, small_wal: Path, database: Database
) -> None:
    """The server stops itself."""
    async with working(harness) as tocsin:
        filler = small_wal / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with contextlib.suppress(psycopg.Error):
            await database.run("CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
        change(harness)
        await tocsin.until_not_ready("ledger: ", "No such file or directory")
        filler.unlink()
        server.start()
        await goes_on(harness, tocsin, time.monotonic())


# Clocks.


async def test_clocks_of_processes_may_differ(harness: Harness, database: Database) -> None:
    """What one of them is to try again in a moment, by its clock, is not in 20 minutes for the next one."""
    hook = harness.config["channels"]["hook"]
    hook.update(backoff_initial="100ms", backoff_max="1s", max_age="5m")
    harness.source["max_ahead"] = "1h"
    harness.receiver.otherwise = lambda _: Answer(status=503)
    async with harness.run(**shifted(10)) as ahead:
        await ahead.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await until(lambda: len(harness.receiver.requests) > 1, "attempts")
    [[off]] = await database.run("SELECT abs(created_at - extract(epoch FROM now())) FROM tocsin.notifications")
    assert off < 60
    harness.receiver.otherwise = lambda _: Answer(status=200)
    before = len(harness.receiver.requests)
    async with harness.run(**shifted(-10)) as behind:
        await until(lambda: len(harness.receiver.requests) > before, "the next process tries again")
        await behind.until_metric("tocsin_channel_pending", 0, channel="hook")
        await behind.until_metric("tocsin_channel_delivered_total", 1, channel="hook")
