"""The ledger in PostgreSQL: who may use it, who writes to it, and a server that goes away."""

import asyncio
import os
import socket
from dataclasses import replace
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from support.ledger import commit, delivered, fired, firing, sendable, transition
from support.pgbouncer import VERSIONS, pgbouncer
from support.postgres import Database, shared_postgres
from support.tcp_proxy import TcpProxy
from support.waiting import SOON, until
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Filter
from tocsin.ledger.postgres import LedgerServer, PostgresLedger, ddl, listed, open_ledger, schema, verify
from tocsin.ledger.postgres.connection import Link, sessions_of
from tocsin.ledger.postgres.membership import Membership
from tocsin.model import Kind


@pytest.fixture
def server(database: Database) -> LedgerServer:
    return at(database)


def at(database: Database, **parts: str) -> LedgerServer:
    dsn = " ".join([database.dsn, *(f"{name}={value}" for name, value in parts.items())])
    return LedgerServer(dsn=SecretStr(dsn), lease=1.0)


async def refusal(server: LedgerServer, *, runs_alerts: bool = True) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        await (await open_ledger(server, runs_alerts=runs_alerts)).close()
    return caught.value


def another() -> dict[str, str]:
    """Another configuration than that of a ledger that is opened without one."""
    return {"alerts.late": "another"}


async def standing_by(server: LedgerServer) -> "asyncio.Task[PostgresLedger]":
    waits = asyncio.Event()
    opening = asyncio.create_task(open_ledger(server, configuration=another, waiting=lambda _: waits.set()))
    await waits.wait()
    return opening


async def killed(ledger: PostgresLedger) -> int:
    """Have a ledger renew its lease no more, as if its process were killed or paused. Returns its epoch."""
    assert isinstance(ledger.sharing, Membership)
    await ledger.sharing.close()
    return ledger.sharing.member.epoch


async def test_command_names_what_makes_the_ledger(server: LedgerServer) -> None:
    error = await refusal(server, runs_alerts=False)
    assert error.reason is LedgerReason.OLDER
    assert "schema tocsin; `tocsin run` makes it" in str(error)
    assert await verify(server) == []
    assert (await refusal(server, runs_alerts=False)).reason is LedgerReason.OLDER  # nothing was made


async def test_two_processes_of_one_name_are_two(server: LedgerServer) -> None:
    """As containers may have: this test is both. A third one, with another configuration, waits for both."""
    ledgers = [await open_ledger(server) for _ in range(2)]
    try:
        reasons: list[str] = []
        waits = asyncio.Event()

        def waiting(why: str | LedgerError) -> None:
            reasons.append(str(why))
            waits.set()

        opening = asyncio.create_task(open_ledger(server, configuration=another, waiting=waiting))
        await waits.wait()
        name = f"process {os.getpid()} on {socket.gethostname()}"
        assert reasons[0] == (
            f"2 times {name} run another configuration (alerts.late differs); `tocsin run` waits until"
            " they run this one or have ended. Set another ledger.namespace if they are another installation"
        )
        found = await listed(server)
        assert [one.name for one in found] == [name, name]
        assert found[0].epoch != found[1].epoch
        await ledgers.pop().close()
        await until(lambda: reasons[-1].startswith(f"{name} runs another"), "one is left")
    finally:
        for ledger in ledgers:
            await ledger.close()
    await (await opening).close()


async def test_ledger_of_a_newer_version_is_refused(server: LedgerServer, database: Database) -> None:
    await (await open_ledger(server)).close()
    await database.run("UPDATE tocsin.ledger SET version = version + 1")
    for runs_alerts in (True, False):
        assert (await refusal(server, runs_alerts=runs_alerts)).reason is LedgerReason.NEWER
    assert "newer version" in (await verify(server))[0]


async def test_newer_version_changes_the_tables_once_it_runs(
    server: LedgerServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update starts a standby of the new version before it stops the process that runs the alerts."""
    old = await open_ledger(server)
    version = [(len(schema.MIGRATIONS),)]
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE ledger ADD more integer"))
    new = await standing_by(server)
    assert await database.run("SELECT version FROM tocsin.ledger") == version
    assert len(await fired(old, "1")) == 1
    await old.close()
    await (await new).close()
    assert await database.run("SELECT version - 1, more FROM tocsin.ledger") == [(*version[0], None)]


async def test_older_standby_does_not_run_on_newer_tables(server: LedgerServer, database: Database) -> None:
    running = await open_ledger(server)
    old = await standing_by(server)
    await database.run("UPDATE tocsin.ledger SET version = version + 1")
    await running.close()
    with pytest.raises(LedgerError) as caught:
        await old
    assert caught.value.reason is LedgerReason.NEWER


async def test_role_without_rights_is_named_the_sql_that_grants_them(database: Database) -> None:
    await database.run("CREATE ROLE teller LOGIN PASSWORD 'hush'")
    try:
        server = at(database, user="teller", password="hush")
        for problem in (str(await refusal(server)), *await verify(server)):
            assert "`tocsin sql ledger`" in problem
            assert "hush" not in problem
        await database.run(ddl(server))
        await database.run(ddl(server))  # it may be run again
        assert await verify(server) == []
        ledger = await open_ledger(server)
        assert len(await fired(ledger, "1")) == 1
        await ledger.close()
    finally:
        await database.run("DROP OWNED BY teller; DROP ROLE teller")


async def test_check_finds_missing_rights_and_writes_nothing(server: LedgerServer, database: Database) -> None:
    await (await open_ledger(server)).close()
    await database.run("CREATE ROLE reader LOGIN")
    try:
        await database.run(
            "GRANT USAGE ON SCHEMA tocsin TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA tocsin TO reader"
        )
        assert "permission denied for table instances" in (await verify(at(database, user="reader")))[0]
    finally:
        await database.run("DROP OWNED BY reader; DROP ROLE reader")
    before = await database.run("SELECT last_value FROM tocsin.epochs")
    assert await verify(server) == []
    assert await database.run("SELECT last_value FROM tocsin.epochs") == before


async def test_read_only_server_is_refused_in_words(database: Database) -> None:
    server = at(database)
    setting = "SET default_transaction_read_only = on"
    await database.run(f"DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' {setting}'; END $$")
    for problem in (str(await refusal(server)), *await verify(server)):
        assert "standby or read-only" in problem


async def test_namespaces_share_a_database(database: Database) -> None:
    ledgers = [
        await open_ledger(at(database).model_copy(update={"namespace": name})) for name in ("tocsin", 'other "one"')
    ]
    await fired(ledgers[0], "1")
    assert [len(await ledger.find(Filter())) for ledger in ledgers] == [1, 0]
    for ledger in ledgers:
        await ledger.close()


async def test_end_of_a_process_ends_no_session_of_another_namespace(database: Database) -> None:
    """Each namespace counts its processes from one, and the server shortens and replaces what a session is called."""
    ours, theirs = (at(database).model_copy(update={"namespace": letter * 30 + "%s"}) for letter in "\u00e4\u00f6")
    name = sessions_of(theirs, 1, "writer")
    other = await psycopg.AsyncConnection.connect(make_conninfo(database.dsn, application_name=name))
    former = await open_ledger(ours)
    link = Link(ours, sessions=sessions_of(ours, await killed(former), "writer"))
    await link.get()  # ends what a lost connection of the process has left
    await link.close()
    follower = await open_ledger(ours)
    assert isinstance(follower.sharing, Membership)
    await until(lambda: [one.epoch for one in follower.sharing.instances] == [2], "the former one is ended")
    await other.execute("SELECT")  # as before
    await other.close()
    for ledger in (former, follower):
        await ledger.close()


async def test_host_of_any_name_runs_alerts(server: LedgerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads a name that is not UTF-8 as halves of surrogate pairs, which no database takes."""
    monkeypatch.setattr(socket, "gethostname", lambda: "caf\udce9")
    ledger = await open_ledger(server)
    assert [one.name for one in await listed(server)] == [f"process {os.getpid()} on caf?"]
    await ledger.close()


async def test_encoding_that_lacks_characters_is_refused(database: Database) -> None:
    name = f"{conninfo_to_dict(database.dsn)['dbname']}_latin1"
    await database.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    server = LedgerServer(dsn=SecretStr(make_conninfo(database.dsn, dbname=name)))
    for problem in (str(await refusal(server)), *await verify(server)):
        assert "is LATIN1, which lacks most characters; create one with `CREATE DATABASE ... ENCODING 'UTF8'" in problem
    await database.run(f"DROP DATABASE {name}")


async def test_one_that_was_taken_over_writes_nothing(server: LedgerServer, database: Database) -> None:
    """Fails without the lease at the end of each transaction."""
    former = await open_ledger(server)
    await former.commit(commit([transition("1")], saved=[firing("1")], frontier=10))
    await database.run("DELETE FROM tocsin.instances")
    ledger = await open_ledger(server)
    with pytest.raises(LedgerError) as caught:
        await former.commit(commit([transition("2")], saved=[firing("2")], frontier=20))
    assert caught.value.reason is LedgerReason.FENCED
    assert former.fault is caught.value
    stored = await ledger.load("late")
    assert stored is not None
    assert (stored.frontier, len(stored.firings)) == (10, 1)
    assert len(await ledger.find(Filter())) == 1
    await former.close()
    assert len(await fired(ledger, "3")) == 1  # the end of the former takes nothing from it
    await ledger.close()


async def test_locks_of_one_that_was_paused_hold_up_nothing(server: LedgerServer, database: Database) -> None:
    former = await open_ledger(server)
    await former.commit(commit([transition("1")], saved=[firing("1")], frontier=10))
    name = sessions_of(server, await killed(former), "writer")
    paused = await psycopg.AsyncConnection.connect(make_conninfo(database.dsn, application_name=name))
    await paused.execute("UPDATE tocsin.alerts SET frontier = 11")  # in the middle of a transaction
    ledger = await open_ledger(server)
    async with asyncio.timeout(SOON):
        await ledger.commit(commit([transition("2")], frontier=20))
    await ledger.close()
    with pytest.raises(psycopg.errors.AdminShutdown):
        await paused.commit()
    await paused.close()
    await former.close()


async def test_batch_that_takes_longer_than_the_lease_keeps_it(server: LedgerServer, database: Database) -> None:
    ledger = await open_ledger(server)
    await ledger.commit(commit(frontier=10))
    standing_by: list[object] = []
    async with await psycopg.AsyncConnection.connect(database.dsn) as slow:
        await slow.execute("UPDATE tocsin.alerts SET frontier = 11")
        writing = asyncio.create_task(ledger.commit(commit([transition("1")], frontier=20)))
        other = asyncio.create_task(open_ledger(server, configuration=another, waiting=standing_by.append))
        await until(lambda: len(standing_by) > 20, "a wait of two leases")
        assert not writing.done()
    assert len(await writing) == 1
    assert not other.done()
    await ledger.close()
    await (await other).close()


async def test_large_batch_takes_longer_than_the_lease(database: Database) -> None:
    """Between its statements rows are prepared, and the server sees nothing of the process."""
    ledger = await open_ledger(at(database).model_copy(update={"lease": 0.02}))
    keys = [str(number) for number in range(5000)]
    assert len(await ledger.commit(commit([transition(key) for key in keys], saved=[*map(firing, keys)]))) == 5000
    await ledger.close()


async def test_claims_of_one_that_was_killed_are_recovered(server: LedgerServer, database: Database) -> None:
    former = await open_ledger(server)
    await fired(former, "1")
    assert len((await former.claim("hook", 10)).heads) == 1
    await database.run("DELETE FROM tocsin.instances")
    ledger = await open_ledger(server)
    assert await sendable(ledger) == []
    await ledger.recover("hook", 0.0, 0.0)
    assert len(await sendable(ledger)) == 1
    await former.close()
    await ledger.close()


async def test_claim_reads_nothing_for_one_that_waits_for_another(server: LedgerServer) -> None:
    """Else each change of a row whose receiver is away would cost a transaction, for which all channels wait."""
    transactions: list[float] = []
    ledger = await open_ledger(server, observe=transactions.append)
    [first] = await ledger.commit(commit([transition()]))
    assert (await ledger.claim("hook", 10)).heads == [first]
    [second] = await ledger.commit(commit([transition(kind=Kind.UPDATED, at=1005, started_at=1000)]))
    before = len(transactions)
    assert not (await ledger.claim("hook", 10)).heads
    assert len(transactions) == before
    await ledger.settle([delivered(first)])
    assert (await ledger.claim("hook", 10)).heads == [second]
    await ledger.close()


async def test_plans_kept_from_an_empty_ledger_do_not_read_a_large_one(
    server: LedgerServer, database: Database
) -> None:
    ledger = await open_ledger(server)
    for number in range(20):
        await fired(ledger, f"early {number}")
        await ledger.settle([delivered(one) for one in (await ledger.claim("hook", 10)).heads])
    await fired(ledger, *map(str, range(2000)))
    for number in range(50):
        await fired(ledger, f"late {number}")
        await ledger.settle([delivered(one) for one in (await ledger.claim("hook", 1)).heads])
    await ledger.close()
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'notifications'"
    [(rows,)] = await database.run(read)
    assert rows < 20_000  # 2,000 for each settlement would be 100,000


async def test_what_a_commit_wrote_is_sent_though_its_answer_is_lost(
    server: LedgerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await open_ledger(server)
    await ledger.claim("hook", 10)
    run = Link.run

    async def unanswered(link: Link, *arguments: Any) -> None:
        await run(link, *arguments)
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(Link, "run", unanswered)
        with pytest.raises(LedgerError):
            await fired(ledger, "1")
    assert await ledger.changed_elsewhere()
    assert len((await ledger.claim("hook", 10)).heads) == 1
    await ledger.close()


async def test_connections_lost_while_idle_are_made_again(server: LedgerServer, database: Database) -> None:
    """As `idle_session_timeout` of the role, a pooler or a restart ends them. No call notices it."""
    ledger = await open_ledger(server)
    batch = commit([transition("1")], saved=[firing("1")])
    assert len(await ledger.commit(batch)) == 1
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tocsin%' AND datname = current_database()"
    sessions = [psutil.Process(pid) for (pid,) in await database.run(asked)]
    for session in sessions:
        await database.run("SELECT pg_terminate_backend(%s)", session.pid)
    await until(lambda: not any(session.is_running() for session in sessions), "the server has ended them")
    assert await ledger.commit(batch) == []
    assert len(await ledger.commit(replace(batch, transitions=commit([transition("2")]).transitions))) == 1
    assert len(await ledger.find(Filter())) == 2
    await ledger.close()


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
@pytest.mark.parametrize("version", VERSIONS[::2])
async def test_ledger_works_through_pgbouncer(database: Database, pool_mode: str, version: str) -> None:
    """With fewer sessions than the two ledgers have connections where they are shared."""
    with pgbouncer(shared_postgres(), pool_mode, 2 if pool_mode == "transaction" else 4, version=version) as through:
        server = LedgerServer(dsn=SecretStr(through(database.dsn)))
        assert await verify(server) == []
        other = server.model_copy(update={"namespace": "other"})
        ledgers = [await open_ledger(one) for one in (server, other)]
        for round_ in range(20):  # psycopg and the pooler treat repeated statements in another way
            written = await asyncio.gather(*(fired(one, f"{round_} {name}") for one in ledgers for name in "ab"))
            assert [len(some) for some in written] == [1, 1, 1, 1]
        for ledger in ledgers:
            assert len(await fired(ledger, *map(str, range(100)))) == 100  # many go in another way
            assert len(await sendable(ledger)) == 140
            await ledger.close()


async def test_standby_notices_a_silent_server_and_takes_over_later(server: LedgerServer, database: Database) -> None:
    with pgbouncer(shared_postgres()) as through:
        dsn = through(database.dsn)
        async with TcpProxy("127.0.0.1", int(str(conninfo_to_dict(dsn)["port"]))) as proxy:
            behind = SecretStr(make_conninfo(dsn, port=str(proxy.port)))
            ledger = await open_ledger(server)
            said: list[object] = []
            standby = asyncio.create_task(
                open_ledger(LedgerServer(dsn=behind, connect_timeout=0.5), configuration=another, waiting=said.append)
            )
            await until(lambda: said, "the standby waits")
            proxy.hold()
            await until(lambda: "no answer in time" in str(said[-1]), "it notices the silence")
            proxy.release()
            await ledger.close()
            await (await standby).close()
