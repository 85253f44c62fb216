"""The PostgreSQL channel against a real server: rows of the table, NOTIFY, and the outcome of each failure."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import psutil
import psycopg
import pytest

from support.messages import message
from support.postgres import Database, Postgres
from support.waiting import SOON, until, until_equal
from tocsin.channels import postgres as kind
from tocsin.channels.base import Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.model import Kind


def config(database: Database, **given: Any) -> kind.Config:
    values = {"type": "postgres", "dsn": database.dsn, "create": True, **given}
    return kind.Config.model_validate(values)


@asynccontextmanager
async def channel(settings: kind.Config, **alerts: kind.Options) -> AsyncIterator[kind.Postgres]:
    made = kind.build("audit", settings, {"late": settings, **alerts})
    try:
        yield made
    finally:
        await made.close()


async def sent(settings: kind.Config, *messages: Message) -> Sequence[Result]:
    async with channel(settings) as made:
        return await made.send(messages or [message()])


async def test_row_has_all_of_the_notification(database: Database) -> None:
    what = message(Kind.RESOLVED, at=1_795_242_600_123)
    assert await sent(config(database), what) == [Delivered()]
    [row] = await database.run(
        "SELECT id, alert, status, fingerprint, started_at, at, envelope, exact FROM notifications"
    )
    assert row[:4] == (what.id, "late", "resolved", what.envelope["fingerprint"])
    assert [moment.timestamp() for moment in row[4:6]] == [1_795_242_548.0, 1_795_242_600.123]
    assert row[6:] == (what.envelope, None)


async def test_repeat_inserts_nothing_and_notifies_no_one(database: Database) -> None:
    settings = config(database, notify="New Notifications")
    first, second = message(key="1"), message(key="2")
    async with (
        channel(settings) as made,
        await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as listener,
    ):
        await listener.execute('LISTEN "New Notifications"')
        assert await made.send([first, first]) == [Delivered()] * 2
        assert await made.send([first, second]) == [Delivered()] * 2
        payloads = [notify.payload async for notify in listener.notifies(timeout=SOON, stop_after=2)]
        await listener.execute("SELECT 1")
        assert payloads == [first.id, second.id]
    assert len(await database.run("SELECT 1 FROM notifications")) == 2


async def test_batch_is_written_in_one_transaction(database: Database) -> None:
    messages = [message(key=str(number)) for number in range(500)]
    async with channel(config(database)) as made:
        assert made.batch_size(10_000) == 500
        assert await made.send(messages) == [Delivered()] * 500
    [[transactions]] = await database.run("SELECT count(DISTINCT xmin::text) FROM notifications")
    assert transactions == 1


async def test_rows_that_fail_a_constraint_are_isolated(database: Database) -> None:
    """The others keep their order. Each row is encoded once, in a thread, however often a batch is halved."""
    encoded: list[int] = []

    class Watched(dict[str, Any]):
        """An envelope that records in which thread it is encoded."""

        def __getitem__(self, name: str) -> Any:
            if name == "fingerprint":
                encoded.append(threading.get_ident())
            return super().__getitem__(name)

    await database.run(kind.ddl(config(database)))
    await database.run("ALTER TABLE notifications ADD CHECK (envelope->'row'->>'order_id' NOT IN ('41', '222'))")
    messages = [message(key=str(number)) for number in range(300)]
    watched = [replace(one, envelope=cast("Envelope", Watched(one.envelope))) for one in messages]
    results = await sent(config(database), *watched)
    spoiled = {place: result for place, result in enumerate(results) if isinstance(result, Rejected)}
    assert [*spoiled] == [41, 222]
    assert results.count(Delivered()) == 298
    assert spoiled[41].reason is Reason.REJECTED
    assert "violates check constraint" in spoiled[41].detail
    assert "Failing row" not in spoiled[41].detail
    written = await database.run("SELECT id FROM notifications ORDER BY written_at, ctid")
    assert [id_ for (id_,) in written] == [one.id for place, one in enumerate(messages) if place not in spoiled]
    assert len(encoded) == len(messages)
    assert threading.get_ident() not in encoded


async def test_table_of_another_shape_pauses_the_channel(database: Database) -> None:
    await database.run("CREATE TABLE notifications (id text PRIMARY KEY, note text)")
    [result] = await sent(config(database))
    assert isinstance(result, Paused)
    assert result.reason is Reason.NOT_FOUND
    assert 'column "alert" of relation "notifications" does not exist' in result.detail
    assert result.detail.endswith("; compare the table with the SQL that `tocsin sql audit` prints")


async def test_text_that_jsonb_refuses_is_kept_exactly(database: Database) -> None:
    hostile = message(extra={"no\0te": ("text", "a\0b"), "half": ("text", "\ud83d"), "plain": ("text", r"\u0000")})
    harmless = message(key="2", extra={"plain": ("text", r"\u0000")})
    assert await sent(config(database), hostile, harmless) == [Delivered()] * 2
    rows = {row[0]: row[1:] for row in await database.run("SELECT id, envelope, exact FROM notifications")}
    envelope, exact = rows[hostile.id]
    assert (envelope["row"]["no\ufffdte"], envelope["row"]["half"]) == ("a\ufffdb", "\ufffd")
    assert json.loads(exact) == hostile.envelope
    assert rows[harmless.id] == (harmless.envelope, None)


async def test_time_out_of_range_is_null(database: Database) -> None:
    assert await sent(config(database), message(started_at=2**63, at=2**63)) == [Delivered()]
    assert await database.run("SELECT started_at, at FROM notifications") == [(None, None)]


async def test_alert_can_have_its_own_table(database: Database) -> None:
    own = kind.Options(table='public."Own ""%s"" {}"', notify="own %s")
    async with channel(config(database), other=own) as made:
        assert await made.send([message(), message(alert="other")]) == [Delivered()] * 2
    assert await database.run('SELECT alert FROM "Own ""%s"" {}"') == [("other",)]
    assert await database.run("SELECT alert FROM notifications") == [("late",)]


async def test_missing_table_pauses_channel_with_a_fix(database: Database) -> None:
    settings = config(database, create=False)
    [result] = await sent(settings)
    assert isinstance(result, Paused)
    assert result.reason is Reason.NOT_FOUND
    assert result.detail.endswith('relation "notifications" does not exist; run the SQL that `tocsin sql audit` prints')
    async with channel(settings) as made:
        assert await made.verify() == [result.detail]
        await database.run(kind.ddl(settings))
        await database.run(kind.ddl(settings))
        assert await made.verify() == []
        assert await made.send([message()]) == [Delivered()]


async def test_verify_tries_to_create_the_table(database: Database) -> None:
    """Without leaving it behind. A role without the right, and a missing schema: `run` would fail on both."""
    async with channel(config(database)) as made:
        assert await made.verify() == []
    assert await database.run("SELECT 1 FROM pg_class WHERE relname = 'notifications'") == []
    await database.run("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    await database.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    dsn = psycopg.conninfo.make_conninfo(database.dsn, user="reader")
    async with channel(config(database, dsn=dsn)) as made:
        [problem] = await made.verify()
        assert "permission denied for schema public" in problem
    async with channel(config(database, table="nowhere.notifications")) as made:
        [problem] = await made.verify()
        assert 'schema "nowhere" does not exist' in problem


async def test_read_only_connection_is_not_kept(database: Database) -> None:
    """The next connection may reach another server, or one that is writable again."""
    await database.run(kind.ddl(config(database)))
    [[name]] = await database.run("SELECT quote_ident(current_database())")
    await database.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with channel(config(database)) as made:
        [result] = await made.send([message()])
        assert isinstance(result, Retry)
        assert "connect to the primary" in result.detail
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as admin:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        assert await made.send([message()]) == [Delivered()]


async def test_channels_can_create_the_table_concurrently(database: Database) -> None:
    for number in range(5):
        settings = config(database, table=f"n{number}")
        results = await asyncio.gather(*(sent(settings, message(key=str(key))) for key in range(4)))
        assert results == [[Delivered()]] * 4


async def test_printed_sql_grants_only_needed_rights(database: Database) -> None:
    target = psycopg.conninfo.conninfo_to_dict(database.dsn)
    settings = kind.Config.model_validate(
        {
            "type": "postgres",
            "host": target["host"],
            "user": "audit_writer",
            "database": target["dbname"],
            "table": "audit.sent",
            "notify": "sent",
        }
    )
    await database.run("CREATE SCHEMA audit; CREATE TABLE audit.closed (LIKE pg_class)")
    await database.run(kind.ddl(settings))
    async with channel(settings) as made:
        assert await made.verify() == []
        assert await made.send([message()]) == [Delivered()]
    async with channel(settings.revised({"table": "audit.closed"})) as made:
        [result] = await made.send([message()])
    assert isinstance(result, Paused)
    assert result.reason in (Reason.UNAUTHORIZED, Reason.NOT_FOUND)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with await psycopg.AsyncConnection.connect(database.dsn, user="audit_writer") as connection:
            await connection.execute("DELETE FROM audit.sent")


async def test_refused_session_setting_is_retried(database: Database) -> None:
    """Notifications stay pending until the configuration is fixed."""
    [result] = await sent(config(database, options={"work_mem": "plenty"}))
    assert isinstance(result, Retry)
    assert "the session settings are refused" in result.detail
    assert 'invalid value for parameter "work_mem"' in result.detail


async def test_timeout_longer_than_the_server_takes_is_accepted(database: Database) -> None:
    assert await sent(config(database, timeout="30d")) == [Delivered()]


async def test_times_are_written_alike_under_all_settings(database: Database) -> None:
    """What a row says does not depend on how the session reads and writes dates."""
    odd = {"TimeZone": "Asia/Kathmandu", "DateStyle": "SQL, DMY", "standard_conforming_strings": "off"}
    what = message(Kind.RESOLVED, key=r"a\b 'c'", at=1_795_242_600_123)
    assert await sent(config(database, options=odd), what) == [Delivered()]
    [row] = await database.run("SELECT started_at, at, envelope FROM notifications")
    assert [moment.timestamp() for moment in row[:2]] == [1_795_242_548.0, 1_795_242_600.123]
    assert row[2] == what.envelope


@pytest.mark.parametrize(("role", "why"), [("powerless", "permission denied"), ("no_such_role", "no_such_role")])
async def test_role_without_rights_pauses_the_channel(database: Database, role: str, why: str) -> None:
    await database.run(kind.ddl(config(database)))
    await database.run("DROP ROLE IF EXISTS powerless; CREATE ROLE powerless LOGIN")
    [result] = await sent(config(database, dsn=psycopg.conninfo.make_conninfo(database.dsn, user=role)))
    assert isinstance(result, Paused)
    assert (result.reason, why in result.detail) == (Reason.UNAUTHORIZED, True)


async def test_connection_that_ended_while_idle_is_made_again(database: Database) -> None:
    """As `idle_session_timeout` or a pooler ends it. No attempt fails for it."""
    async with channel(config(database)) as made:
        assert await made.send([message(key="1")]) == [Delivered()]
        asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tocsin' AND datname = current_database()"
        [(pid,)] = await database.run(asked)
        session = psutil.Process(pid)
        await database.run("SELECT pg_terminate_backend(%s)", pid)
        await until(lambda: not session.is_running(), "the server has ended it")
        assert await made.send([message(key="2")]) == [Delivered()]


async def test_stopped_server_is_retried_until_it_returns(server: Postgres) -> None:
    async with server.database() as database, channel(config(database)) as made:
        assert await made.send([message(key="1")]) == [Delivered()]
        await database.close()
        await asyncio.to_thread(server.stop)
        for _ in range(2):
            [result] = await made.send([message(key="2")])
            assert isinstance(result, Retry)
            assert result.reason is Reason.CONNECTION
        await asyncio.to_thread(server.start)
        assert await made.send([message(key="2")]) == [Delivered()]
        assert len(await database.run("SELECT 1 FROM notifications")) == 2


async def test_locked_table_ends_with_a_timeout(database: Database) -> None:
    assert await sent(config(database), message(key="1")) == [Delivered()]
    settings = config(database, timeout="200ms")
    async with await psycopg.AsyncConnection.connect(database.dsn) as other, channel(settings) as made:
        await other.execute("LOCK TABLE notifications")
        [result] = await made.send([message(key="2")])
        assert isinstance(result, Retry)
        assert result.reason is Reason.TIMEOUT
        await other.rollback()
        await until_equal(lambda: made.send([message(key="2")]), [Delivered()], "the result")


async def test_silent_server_ends_with_a_timeout(database: Database) -> None:
    settings = config(database, timeout="1s")
    async with channel(settings) as made:
        assert await made.send([message(key="1")]) == [Delivered()]
        [[pid]] = await database.run(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tocsin' AND datname = current_database()"
        )
        os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(4.5):  # psycopg by itself would ask it to stop, and wait five seconds
                [result] = await made.send([message(key="2")])
            assert isinstance(result, Retry)
            assert result.reason is Reason.TIMEOUT
            await until_equal(lambda: made.send([message(key="2")]), [Delivered()], "the result")
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_password_is_shown_nowhere(database: Database) -> None:
    secret = "S3CR3T-and-quite-long"
    settings = config(database, dsn=psycopg.conninfo.make_conninfo(database.dsn, user="no_such_role", password=secret))
    made = kind.build("audit", settings, {})
    for shown in (await made.send([message()]), await made.verify(), made, settings, kind.ddl(settings)):
        assert secret not in repr(shown)
