"""A connection to the ledger's database that is given up or lost, at any moment."""

import asyncio
import contextlib
import select

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from support.postgres import Database
from support.tcp_proxy import TcpProxy
from support.waiting import SOON, seen, until_equal
from tocsin.ledger.postgres import LedgerServer, open_ledger
from tocsin.ledger.postgres.connection import Link, begin, in_settings
from tocsin.postgres import PgConnection


async def test_work_given_up_before_it_begins_is_never_made(database: Database) -> None:
    """Otherwise Python complains of a coroutine without an end."""
    link, made = Link(LedgerServer(dsn=SecretStr(database.dsn))), list[PgConnection]()

    async def work(connection: PgConnection) -> None:
        made.append(connection)

    await link.get()
    running = asyncio.create_task(link.run(5.0, work))
    await asyncio.sleep(0)
    link.give_up()
    with pytest.raises(TimeoutError):
        await running
    assert not made
    assert link.lost


@pytest.mark.parametrize("turns", range(8))
async def test_answer_that_comes_as_its_connection_is_given_up_harms_nothing(database: Database, turns: int) -> None:
    """The library goes on with the answer in one of the next turns of the event loop. If its connection is freed by
    then, it finds none, or ends the whole process."""
    link = Link(LedgerServer(dsn=SecretStr(database.dsn)))
    socket = (await link.get()).pgconn.socket
    failed: list[Exception] = []

    async def work(connection: PgConnection) -> None:
        try:
            await connection.execute("SELECT pg_sleep(0.5)")
        except Exception as error:
            failed.append(error)
            raise

    running = asyncio.create_task(link.run(5.0, work))
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(0.5)' AND state = 'active'"
    await until_equal(lambda: database.run(asked), [(1,)], "the server works on it")
    select.select([socket], [], [], SOON)  # the answer is there, and the event loop has not seen it
    given_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    def turn(left: int) -> None:
        """Timers come after what was read from sockets."""
        if left:
            loop.call_later(0, turn, left - 1)
        else:
            link.give_up()
            given_up.set()

    turn(turns)
    await given_up.wait()
    with contextlib.suppress(TimeoutError):
        await running
    assert not failed
    await link.close()


_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.mark.parametrize(
    ("held", "tables_exist"),
    [
        ("SELECT pg_advisory_xact_lock(hashtext('tables of tocsin'))", False),
        ("SELECT FROM tocsin.ledger FOR UPDATE", True),
    ],
    ids=["making the tables", "joining the others"],
)
async def test_process_lost_while_it_starts_holds_up_no_other(
    database: Database, held: str, tables_exist: bool
) -> None:
    """Its connection leads nowhere from the moment at which the server gives it the lock."""
    if tables_exist:
        await (await open_ledger(LedgerServer(dsn=SecretStr(database.dsn)))).close()
    target = conninfo_to_dict(database.dsn)
    async with (
        TcpProxy(str(target["host"]), int(target.get("port") or 5432)) as proxy,
        await psycopg.AsyncConnection.connect(database.dsn) as holder,
    ):
        await holder.execute(held)
        dsn = make_conninfo(database.dsn, host="127.0.0.1", port=str(proxy.port))
        starting = asyncio.create_task(open_ledger(LedgerServer(dsn=SecretStr(dsn), connect_timeout=1.0)))
        await until_equal(lambda: database.run(_WAITS), [(1,)], "it waits for the lock")
        proxy.lose()
        await holder.rollback()
        async with asyncio.timeout(SOON):
            await (await open_ledger(LedgerServer(dsn=SecretStr(database.dsn)))).close()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def test_process_paused_while_it_makes_the_tables_tries_again(database: Database) -> None:
    """For so long that the server has ended its transaction, which others wait for."""
    with psycopg.connect(database.dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(hashtext('tables of tocsin'))")
        starting = asyncio.create_task(open_ledger(LedgerServer(dsn=SecretStr(database.dsn), connect_timeout=1.0)))
        await until_equal(lambda: database.run(_WAITS), [(1,)], "it waits for the lock")
        [(waiting,)] = await database.run(_WAITS.replace("count(*)", "pid"))
        holder.rollback()
        holder.autocommit = True
        left = "SELECT FROM pg_stat_activity WHERE pid = %s"
        seen(lambda: not holder.execute(left, (waiting,)).rowcount, "its transaction is ended")
    await (await starting).close()


async def test_lost_command_holds_what_it_has_locked_for_seconds(database: Database) -> None:
    """So that a process does not wait for it until its own transactions time out."""
    for statement in begin(LedgerServer(dsn=SecretStr(database.dsn)))[1:]:
        await database.run(statement.replace("SET LOCAL", "SET"))
    assert await database.run("SHOW idle_in_transaction_session_timeout") == [("10s",)]


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_processes_that_start_together_make_the_tables_once(database: Database, isolation: str) -> None:
    """Both find none, and wait for each other. `isolation`: the default of the database."""
    name = conninfo_to_dict(database.dsn)["dbname"]
    await database.run(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    async with await psycopg.AsyncConnection.connect(database.dsn) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(hashtext('tables of tocsin'))")
        server = LedgerServer(dsn=SecretStr(database.dsn))
        starting = [asyncio.create_task(open_ledger(server)) for _ in range(2)]
        await until_equal(lambda: database.run(_WAITS), [(2,)], "both wait for the lock")
    for one in starting:
        await (await one).close()


async def test_defaults_of_the_role_do_not_change_updates_of_tables(database: Database) -> None:
    """A timeout of the role would end a migration of large tables each time."""
    name = conninfo_to_dict(database.dsn)["dbname"]
    for setting in ("statement_timeout", "lock_timeout"):
        await database.run(f"ALTER DATABASE {name} SET {setting} = '29s'")
    server = LedgerServer(dsn=SecretStr(database.dsn))
    link = Link(server)
    connection = await link.get()
    async with in_settings(connection, server):
        cursor = await connection.execute(
            "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
        )
        assert await cursor.fetchone() == ("1min", "0")
    await link.close()
