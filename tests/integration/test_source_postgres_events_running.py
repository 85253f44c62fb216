"""Whole processes on an events table: restarts, crashes, shared work, and the commands around it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.events_table import made
from support.postgres import Database, Postgres
from support.tocsin import running, running_with, write
from support.waiting import until_some
from tocsin.cli import main

pytestmark = pytest.mark.e2e

Call = Callable[..., Awaitable[tuple[int, str, str]]]
"""Runs a command on the configuration of the test: exit status, output and errors."""


def config(database: Database, name: str = "one", **source: Any) -> dict[str, Any]:
    """Events go into the table `sent_<name>`, in the same database, so that a test sees both ends."""
    quick = {"poll": "5s", "backoff_initial": "50ms", "backoff_max": "200ms"}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": f"ledger-{name}.db"},
        "sources": {"shop": {"type": "postgres_events", "dsn": database.dsn, **quick, **source}},
        "channels": {
            "out": {
                "type": "postgres",
                "dsn": database.dsn,
                "table": f"sent_{name}",
                "create": True,
                "backoff_initial": "50ms",
                "backoff_max": "200ms",
            }
        },
        "alerts": {"order": {"source": "shop", "key": ["name"], "notify": ["out"]}},
    }


async def publish(database: Database, count: int, name: str = "order") -> None:
    await database.run("INSERT INTO events (name) SELECT %s FROM generate_series(1, %s)", name, count)


async def sent(database: Database, name: str = "one") -> list[int]:
    """The ids of the events that were sent, in the order of their rows."""
    rows = await database.run(f"SELECT envelope->'row'->>'id' FROM sent_{name} ORDER BY written_at, ctid")
    return [int(row[0]) for row in rows]


async def until_sent(database: Database, *ids: int, name: str = "one") -> None:
    async def check() -> bool:
        try:
            found = await sent(database, name)
        except psycopg.errors.UndefinedTable:
            found = []
        assert sorted(found) == list(ids), f"sent {found}"
        return True

    await until_some(check)


async def test_events_are_sent_in_order_invalid_counted(database: Database, tmp_path: Path) -> None:
    await made(database)
    await database.run("ALTER TABLE events ALTER COLUMN name DROP NOT NULL")
    await publish(database, 300)
    async with running(tmp_path, config(database)) as tocsin:
        await until_sent(database, *range(1, 301))
        assert await sent(database) == list(range(1, 301))
        await database.run("INSERT INTO events (name) VALUES ('unknown'), (NULL), ('order')")
        await until_sent(database, *range(1, 301), 303)
        await tocsin.until_metric("tocsin_source_unmatched_events_total", 1, source="shop")
        await tocsin.until_metric("tocsin_source_refused_events_total", 1, source="shop", reason="malformed")
        await tocsin.until_logged("not a valid event", "events/302", "its name is NULL")
        assert await tocsin.stop() == 0
    kept = await database.run("SELECT id, handled_as FROM events WHERE id > 299 ORDER BY id")
    assert kept == [(300, "taken"), (301, "unmatched"), (302, "refused"), (303, "taken")]


async def test_reconnects_and_reads_the_backlog(server: Postgres, tmp_path: Path) -> None:
    async with server.database() as database:
        await made(database)
        async with running(tmp_path, config(database)) as tocsin:
            await publish(database, 1)
            await until_sent(database, 1)
            await database.close()
            await asyncio.to_thread(server.stop)
            await tocsin.until_logged("source down", "shop")
            await tocsin.until_metric("tocsin_alert_up", 0, alert="order")
            await asyncio.to_thread(server.start)
            await publish(database, 2)
            await until_sent(database, 1, 2, 3)
            await tocsin.until_metric("tocsin_alert_up", 1, alert="order")


async def test_repeated_kills_lose_and_rename_nothing(database: Database, tmp_path: Path) -> None:
    await made(database, after="delete")
    settings = config(database, after="delete", batch=50)
    for round_ in range(1, 4):
        await publish(database, 200)
        async with running(tmp_path, settings) as tocsin:

            async def some_are_sent(round_: int = round_) -> bool:
                try:
                    return len(await sent(database)) >= 200 * round_ - 150
                except psycopg.errors.UndefinedTable:
                    return False

            await until_some(some_are_sent)
            await tocsin.kill()
    async with running(tmp_path, settings):
        await until_sent(database, *range(1, 601))
        await until_some(lambda: _none_left(database))


async def _none_left(database: Database) -> bool:
    return not await database.run("SELECT 1 FROM events")


async def test_survivor_takes_over_from_a_killed_process(database: Database, tmp_path: Path) -> None:
    await made(database)
    one, two = config(database, "one", batch=20), config(database, "two", batch=20)
    async with running(tmp_path, two, file="two.yaml") as survivor:
        async with running(tmp_path, one, file="one.yaml") as killed:
            await asyncio.gather(survivor.until_ready(), killed.until_ready())
            for _ in range(20):
                await publish(database, 50)
            await until_some(lambda: _both_have_some(database))
            await killed.kill()
        await until_some(lambda: _all_taken(database, 1000))
        async with running(tmp_path, one, file="one.yaml"):
            # The killed process sends what is in its ledger when it is back.
            await until_some(lambda: _all_sent(database, 1000), "all are sent", within=60)
    twice = Counter(await sent(database, "one") + await sent(database, "two"))
    assert sum(twice.values()) - 1000 <= 20, "both send at most the unacknowledged batch"


async def _both_have_some(database: Database) -> bool:
    try:
        return bool(await sent(database, "one") and await sent(database, "two"))
    except psycopg.errors.UndefinedTable:
        return False


async def _all_taken(database: Database, count: int) -> bool:
    return await database.run("SELECT count(*) FROM events WHERE handled_as = 'taken'") == [(count,)]


async def _all_sent(database: Database, count: int) -> bool:
    return {*await sent(database, "one"), *await sent(database, "two")} == {*range(1, count + 1)}


async def test_dry_run_prints_events_and_leaves_them(database: Database, tmp_path: Path) -> None:
    await made(database)
    await publish(database, 2)
    path = write(tmp_path / "tocsin.yaml", config(database))
    async with running_with(tmp_path, "--config", str(path), "--dry-run", file=path) as tocsin:
        await until_some(lambda: _printed(tocsin, 2))
        await publish(database, 1)
        await until_some(lambda: _printed(tocsin, 3))
        await tocsin.stop()
    assert await database.run("SELECT count(*) FROM events WHERE handled_at IS NULL") == [(3,)]


async def _printed(tocsin: Any, count: int) -> bool:
    return len(tocsin.output) == count


# The commands, called in this process.


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    async def called(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, [*arguments, "--config", str(tmp_path / "tocsin.yaml")])
        return status, *capsys.readouterr()

    return called


async def test_printed_sql_is_sufficient(database: Database, tmp_path: Path, call: Call) -> None:
    settings = config(database, key="customer")
    settings["channels"]["out"]["create"] = False
    write(tmp_path / "tocsin.yaml", settings)
    status, script, errors = await call("sql")
    assert (status, errors) == (0, "")
    assert [line for line in script.splitlines() if line.startswith("-- For")] == [
        "-- For the source shop. Safe to run again.",
        "-- For the channel out. Safe to run again.",
    ]
    for _ in range(2):
        await database.run(script)
    assert (await call("check", "--online"))[0] == 0
    given = ("--data", '{"n": 1}', "--key", "Ann", "--set", "name=order")
    assert await call("notify", "shop", "order", *given) == (0, "1\n", "")
    assert await database.run("SELECT name, customer, data FROM events") == [("order", "Ann", {"n": 1})]


async def test_printed_sql_for_existing_table_keeps_its_rows(database: Database, tmp_path: Path, call: Call) -> None:
    write(tmp_path / "tocsin.yaml", config(database))
    await database.run(
        "CREATE TABLE events (id serial PRIMARY KEY, name text); INSERT INTO events (name) VALUES ('old')"
    )
    for option, pending in (("--existing", 0), ("--backlog", 1)):
        status, script, _ = await call("sql", "shop", option)
        assert status == 0
        await database.run(script)
        assert await database.run("SELECT count(*) FROM events WHERE handled_at IS NULL") == [(pending,)]
        await database.run("ALTER TABLE events DROP COLUMN handled_at")


IMPOSSIBLE = [
    (["sql", "nope"], "called nope"),
    (["sql", "printer"], "printer needs no SQL"),
    (["notify", "nope", "x"], "there is no source of type postgres_events called nope"),
    (["notify", "shop", "x", "--data", "{"], "--data: it is not JSON"),
    (["notify", "shop", "x", "--data", "[1]"], "--data: it is not a JSON object but a list"),
    (["notify", "shop", "x", "--set", "=1"], "is not COLUMN=TEXT"),
    (["notify", "shop", "x", "--key", "1"], "names no column"),
    (["notify", "shop", "x", "--set", "nope=1"], 'column "nope" of relation "events" does not exist'),
    (["notify", "shop", "x", "--set", "name=\udcff"], "--set: it is not UTF-8 text"),
    (["notify", "shop", "\udcff"], "NAME: it is not UTF-8 text"),
    (
        ["notify", "away", "x"],
        '1/postgres: connection to server at "127.0.0.1", port 1 failed: Connection refused; check host',
    ),
]


async def test_impossible_commands_say_why(database: Database, tmp_path: Path, call: Call) -> None:
    """In one line, without the password."""
    await made(database)
    settings = config(database)
    away = "host=127.0.0.1 port=1 user=u password=S3CR3T-and-quite-long"
    settings["sources"]["away"] = {"type": "postgres_events", "dsn": away}
    settings["channels"]["printer"] = {"type": "console"}
    write(tmp_path / "tocsin.yaml", settings)
    for arguments, words in IMPOSSIBLE:
        status, output, errors = await call(*arguments)
        assert (status, output) == (1, "")
        assert words in errors
        assert "Traceback" not in errors
        assert "S3CR3T" not in errors
        assert errors.count("\n") == 1


KEEPS_OUT = """
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep_out BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION keep_out()
"""
REFUSES_THE_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END';
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION refuse()
"""
FAILURES = [
    (REFUSES_THE_COMMIT, ": not today"),
    (
        KEEPS_OUT,
        ": no event was written: a trigger or rule of events dropped it; check its BEFORE INSERT triggers",
    ),
    (
        "REVOKE INSERT ON events FROM publisher",
        "permission denied for table events; a publisher needs INSERT on the table, and SELECT on its id",
    ),
    ("DROP TABLE events", 'relation "events" does not exist; `tocsin check --online` says what the database lacks'),
]
"""Changes of the table, each on top of those before it, and how the error ends then."""


async def test_publish_errors_are_specific(database: Database, tmp_path: Path, call: Call) -> None:
    await made(database)
    await database.run("DROP ROLE IF EXISTS publisher; CREATE ROLE publisher LOGIN")
    await database.run("GRANT INSERT, SELECT (id) ON events TO publisher")
    dsn = psycopg.conninfo.make_conninfo(database.dsn, user="publisher")
    write(tmp_path / "tocsin.yaml", config(database, dsn=dsn))
    assert (await call("notify", "shop", "order")) == (0, "1\n", "")
    for change, words in FAILURES:
        await database.run(change)
        status, output, errors = await call("notify", "shop", "order")
        assert (status, output) == (1, "")
        assert errors.endswith(f"{words}\n")
        assert "connection lost" not in errors


async def test_environment_counts_only_where_the_file_names_it(
    database: Database, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.run("CREATE SCHEMA shop")
    await made(database, table="shop.orders", channel="Orders")
    given = {"table": "${EVENTS_TABLE:-events}", "channel": "Orders"}
    write(tmp_path / "tocsin.yaml", config(database, **given))
    monkeypatch.setenv("EVENTS_TABLE", "shop.orders")
    monkeypatch.setenv("EVENTS_CHANNEL", "x")
    assert (await call("notify", "shop", "x"))[0] == 0
    assert await database.run("SELECT name FROM shop.orders") == [("x",)]
    monkeypatch.setenv("EVENTS_TABLE", "shop.")
    status, _, errors = await call("check")
    assert status == 1
    assert "sources.shop.table: ${EVENTS_TABLE:-events} is not a relation name; write schema.name" in errors
