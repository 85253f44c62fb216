"""The ledger in PostgreSQL when its server, the network or an administrator fails it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from support.ledger import commit, fired, firing, transition
from support.postgres import Database
from support.tcp_proxy import TcpProxy
from support.waiting import SOON, until, until_equal, until_some
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Commit, Filter
from tocsin.ledger.postgres import LedgerServer, PostgresLedger, ddl, open_ledger
from tocsin.ledger.postgres.transaction import Transaction


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[TcpProxy]:
    target = conninfo_to_dict(database.dsn)
    async with TcpProxy(str(target["host"]), int(target.get("port") or 5432)) as made:
        yield made


@pytest.fixture
async def behind(database: Database, proxy: TcpProxy) -> AsyncIterator[PostgresLedger]:
    """A ledger behind the proxy."""
    ledger = await open_ledger(through(proxy, database))
    yield ledger
    await proxy.cut()
    await ledger.close()


def through(proxy: TcpProxy, database: Database) -> LedgerServer:
    dsn = make_conninfo(database.dsn, host="127.0.0.1", port=str(proxy.port))
    return LedgerServer(dsn=SecretStr(dsn))


@pytest.fixture
async def role(database: Database) -> AsyncIterator[str]:
    """A role that owns its schema and nothing else."""
    name = f"teller_{conninfo_to_dict(database.dsn)['dbname']}"
    await database.run(f"CREATE ROLE {name} LOGIN PASSWORD 'hush'")
    await database.run(ddl(as_role(database, name)))
    yield name
    await database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", name)
    await database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(database: Database, name: str) -> LedgerServer:
    return LedgerServer(dsn=SecretStr(make_conninfo(database.dsn, user=name, password="hush")))


def at(dsn: str) -> LedgerServer:
    return LedgerServer(dsn=SecretStr(dsn))


async def written(ledger: PostgresLedger, batch: Commit) -> None:
    """Write a batch as the pipelines do: again until there is an answer."""

    async def again() -> bool:
        try:
            await ledger.commit(batch)
        except LedgerError:
            return False
        return True

    await until_some(again, "the batch is written")


async def failure(ledger: PostgresLedger, key: str = "2") -> LedgerError:
    """What a commit raises."""
    with pytest.raises(LedgerError) as caught:
        await fired(ledger, key)
    assert ledger.fault is caught.value
    return caught.value


async def end_sessions(database: Database, user: str = "%") -> None:
    await database.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND usename LIKE %s",
        user,
    )


# The network.


async def test_commit_that_arrives_late_is_not_overwritten(
    behind: PostgresLedger, proxy: TcpProxy, database: Database
) -> None:
    """The process has given it up, and continues from what it had read before."""

    async def frontier() -> object:
        return await database.run("SELECT frontier FROM tocsin.alerts")

    await behind.sharing.want((), ())  # so that all of its connections are lost
    await behind.load("late")
    await behind.commit(commit(frontier=1))
    lost = proxy.lose()
    with pytest.raises(LedgerError):
        await behind.commit(commit(saved=[firing("1", started_at=5)], frontier=9))
    before = await behind.load("late")
    assert before is not None
    assert before.frontier == 1
    lost.set()
    await until_equal(frontier, [(9,)], "the frontier")
    with pytest.raises(LedgerError, match="arrived after all"):
        await behind.commit(commit(frontier=4))
    assert await frontier() == [(9,)]
    after = await behind.load("late")
    assert after is not None
    assert [one.started_at for one in after.firings] == [5]
    await behind.commit(commit(frontier=12))


async def test_commit_ends_when_another_process_takes_over(
    behind: PostgresLedger, proxy: TcpProxy, database: Database
) -> None:
    """Long before it counts as too slow, where its connection leads nowhere."""
    proxy.lose()
    committing = asyncio.create_task(fired(behind, "1"))
    await database.run("DELETE FROM tocsin.instances")
    async with asyncio.timeout(SOON):
        with pytest.raises(LedgerError):
            await committing


async def test_commit_is_written_once_wherever_it_is_cut(behind: PostgresLedger, proxy: TcpProxy) -> None:
    """Also where the server has committed, and its answer is lost."""
    failed = 0
    for number in range(120):
        proxy.left = number * 50
        batch = commit([transition(str(number))], saved=[firing(str(number))], frontier=number)
        try:
            await behind.commit(batch)
        except LedgerError:
            failed += 1
            await written(behind, batch)
        proxy.left = None
    assert failed > 20
    records = await behind.find(Filter(limit=1000))
    assert sorted(int(record.row[0] or 0) for record in records) == [*range(120)]
    stored = await behind.load("late")
    assert stored is not None
    assert (stored.frontier, len(stored.firings)) == (119, 120)


async def test_ledger_works_over_a_slow_network(behind: PostgresLedger, proxy: TcpProxy) -> None:
    proxy.delay = 0.1
    assert len(await fired(behind, "1", "2")) == 2
    assert len((await behind.claim("hook", 10)).heads) == 2


async def test_error_names_a_server_that_is_away(behind: PostgresLedger, proxy: TcpProxy) -> None:
    await proxy.cut()
    await failure(behind)
    error = await failure(behind)
    assert "refused" in str(error)
    await proxy.open()
    assert len(await fired(behind, "2")) == 1
    assert behind.fault is None


# What the server rolls back because of others.


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_transaction_that_the_server_rolls_back_is_tried_again(database: Database, code: str) -> None:
    ledger = await open_ledger(at(database.dsn))
    await database.run(
        f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN
            IF nextval('public.tries') <= 2 THEN RAISE EXCEPTION 'once more' USING ERRCODE = '{code}'; END IF;
            RETURN NEW;
          END $$;
        CREATE TRIGGER fail BEFORE INSERT ON tocsin.notifications FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )
    assert len(await fired(ledger, "1")) == 1
    await database.run("ALTER SEQUENCE tries RESTART INCREMENT BY -1 MINVALUE -100 START 1")
    error = await failure(ledger)
    assert "once more" in str(error)
    assert await database.run("SELECT last_value FROM tries") == [(-1,)]  # three times, and no more
    await ledger.close()


async def test_defaults_of_the_role_do_not_change_transactions(database: Database, role: str) -> None:
    for setting in (
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "standard_conforming_strings = off",
        "search_path = nowhere",
        "TimeZone = 'Australia/Lord_Howe'",
        "IntervalStyle = sql_standard",
        "extra_float_digits = -15",  # times would be read as 2e+09
    ):
        await database.run(f"ALTER ROLE {role} SET {setting}")
    ledgers = [
        await open_ledger(as_role(database, role)),
        await open_ledger(as_role(database, role), runs_alerts=False),
    ]
    assert abs(ledgers[0].now() - time.time()) < 60
    await ledgers[0].turn("hook", 0.5)
    assert len(await fired(ledgers[0], "back\\slash")) == 1
    [stored] = await ledgers[1].find(Filter())
    assert abs(stored.created_at - time.time()) < 60
    for ledger in ledgers:
        await ledger.close()


# What an administrator does.


async def test_rights_that_were_revoked_are_named(database: Database, role: str) -> None:
    ledger = await open_ledger(as_role(database, role))
    await fired(ledger, "1")
    await database.run(f"REVOKE ALL ON ALL TABLES IN SCHEMA tocsin FROM {role}")
    error = await failure(ledger)
    assert error.reason is LedgerReason.UNREADABLE
    assert "the role may not do that; run the SQL of `tocsin sql ledger` (permission denied for table" in str(error)
    await database.run(f"GRANT ALL ON ALL TABLES IN SCHEMA tocsin TO {role}")
    assert len(await fired(ledger, "2")) == 1
    await ledger.close()


async def test_sql_of_an_administrator_gives_back_what_was_revoked(database: Database, role: str) -> None:
    server = as_role(database, role)
    ledger = await open_ledger(server)
    await database.run(
        f"REVOKE ALL ON SCHEMA tocsin FROM {role}; REVOKE ALL ON ALL TABLES IN SCHEMA tocsin FROM {role}"
    )
    assert "or the role may not use their schema any more; run the SQL of `tocsin sql" in str(await failure(ledger))
    await database.run(ddl(server))
    assert len(await fired(ledger, "2")) == 1
    await ledger.close()


@pytest.mark.parametrize("dropped", ["SCHEMA tocsin CASCADE", "TABLE tocsin.firings", "FUNCTION tocsin.renew"])
async def test_what_was_dropped_is_named(database: Database, dropped: str) -> None:
    ledger = await open_ledger(at(database.dsn))
    await database.run(f"DROP {dropped}")
    with pytest.raises(LedgerError) as caught:
        await ledger.commit(commit([transition("1")], saved=[firing("1")]))
    assert caught.value.reason is LedgerReason.CORRUPT
    assert "the tables are not found: they were dropped" in str(caught.value)
    await ledger.close()


async def test_server_that_is_full_is_named(database: Database, role: str) -> None:
    ledger = await open_ledger(as_role(database, role))
    await database.run(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    await end_sessions(database, role)
    await failure(ledger)
    error = await failure(ledger)
    assert "the server takes no more connections; allow this role more of them" in str(error)
    await database.run(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    assert len(await fired(ledger, "2")) == 1
    await ledger.close()


async def test_login_that_is_taken_away_is_named(database: Database, role: str) -> None:
    ledger = await open_ledger(as_role(database, role))
    await database.run(f"ALTER ROLE {role} NOLOGIN")
    await end_sessions(database, role)
    await failure(ledger)
    error = await failure(ledger)
    assert error.reason is LedgerReason.UNREADABLE
    assert "the login is refused; use a role that has LOGIN" in str(error)
    await database.run(f"ALTER ROLE {role} LOGIN")
    assert len(await fired(ledger, "2")) == 1
    await ledger.close()


async def test_login_that_is_refused_at_the_start_is_named(database: Database, role: str) -> None:
    """No process waits for an administrator to find that out."""
    await database.run(f"ALTER ROLE {role} NOLOGIN")
    nowhere = make_conninfo(database.dsn, dbname="nowhere")
    for server, words in (
        (as_role(database, role), "the login is refused"),
        (at(nowhere), "there is no such database"),
    ):
        with pytest.raises(LedgerError) as caught:
            await open_ledger(server)
        assert caught.value.reason is LedgerReason.UNREADABLE
        assert words in str(caught.value)


# Several servers.


def test_several_servers_of_a_url_are_asked_for_the_one_that_writes() -> None:
    server = at("postgresql://teller@db1:5432,db2:5433/alerts")
    assert conninfo_to_dict(server.conninfo())["target_session_attrs"] == "read-write"
    assert conninfo_to_dict(server.conninfo())["tcp_user_timeout"] == "10000"
    assert server.display == "teller@db1:5432,db2:5433/alerts"
    assert "target_session_attrs" not in server.model_copy(update={"dsn": SecretStr("host=db1")}).conninfo()
    chosen = at("postgresql://teller@db1,db2/alerts?target_session_attrs=primary")
    assert conninfo_to_dict(chosen.conninfo())["target_session_attrs"] == "primary"
    assert chosen.display == "teller@db1:5432,db2:5432/alerts"


async def test_server_that_lost_commits_gets_no_more(database: Database) -> None:
    """What is in memory does not fit to it."""
    ledger = await open_ledger(at(database.dsn))
    await fired(ledger, "1")
    await database.run("UPDATE tocsin.instances SET writes = 0")
    error = await failure(ledger)
    assert error.reason is LedgerReason.FENCED
    assert "the database has lost what was committed last" in str(error)
    assert len(await ledger.find(Filter())) == 1
    await ledger.close()


async def test_lost_connections_are_given_up_within_seconds(behind: PostgresLedger, proxy: TcpProxy) -> None:
    """The transaction has a minute, but no one answers any more."""
    await fired(behind, "1")
    await until(lambda: behind.sharing.instances, "all of its connections are there")
    proxy.lose()
    began = time.monotonic()
    error = await failure(behind)
    assert error.reason is LedgerReason.SILENT
    assert time.monotonic() - began < 12
    assert len(await fired(behind, "2")) == 1


# A password that changes.


def in_file(file: Path, dsn: str) -> LedgerServer:
    file.write_text(f"{dsn}\n")
    return LedgerServer(dsn=SecretStr(dsn), password_from=file)


def test_password_is_read_again_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    server = in_file(file, "postgresql://teller:old@db/alerts")
    file.write_text("postgresql://teller:new@db/alerts\n")
    assert server.with_renewed_password().dsn_password == "new"


@pytest.mark.parametrize("text", ["postgresql://teller:new@other/alerts", "postgresql://teller:new@db/other", "", "%"])
def test_nothing_but_the_password_is_read_again(tmp_path: Path, text: str) -> None:
    """Another database is another ledger."""
    file = tmp_path / "url"
    server = in_file(file, "postgresql://teller:old@db/alerts")
    file.write_text(text)
    assert server.with_renewed_password() == server
    file.unlink()
    assert server.with_renewed_password() == server


# Clocks.


async def test_times_are_those_of_the_server(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes with other clocks share them."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    ledger = await open_ledger(at(database.dsn))
    assert abs(ledger.now() - now) < 60
    [one] = await fired(ledger, "1")
    assert abs(one.created_at - now) < 60
    await ledger.close()


async def test_what_a_lost_connection_left_open_holds_up_no_one(database: Database, proxy: TcpProxy) -> None:
    """The network has forgotten it, in the middle of a transaction, and the server waits a minute for more."""
    first, second = await open_ledger(through(proxy, database)), await open_ledger(at(database.dsn))
    await second.commit(commit([transition("1")], frontier=10))
    held = "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'tocsin % writer %' AND state <> 'idle'"

    async def hold(db: Transaction) -> Callable[[], None]:
        await db.get("UPDATE alerts SET frontier = 11")
        proxy.lose()
        await asyncio.Event().wait()
        return lambda: None

    holding = asyncio.create_task(first._writer.run(hold))
    await until_equal(lambda: database.run(held), [("idle in transaction",)], "what is left open")
    first._links[0].give_up()  # as once the server does not answer
    with pytest.raises(TimeoutError):
        await holding
    assert await first.commit(commit(alert="early", frontier=10)) == []
    async with asyncio.timeout(SOON):
        await second.commit(commit(frontier=20))
    await first.close()
    await second.close()
