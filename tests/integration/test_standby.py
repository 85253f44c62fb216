"""A read-only PostgreSQL as a source with `notify` and for a channel: the messages of `check --online` and `run`, and
their behaviour after its promotion. Against a streaming standby."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.postgres import Database, Postgres, standby
from support.tocsin import command, running, write
from support.waiting import until_some
from tocsin.channels import postgres as channel_kind
from tocsin.sources import postgres as source_kind
from tocsin.sources.base import Subject
from tocsin.sources.settings import PostgresConfig

pytestmark = pytest.mark.xdist_group("standby")


@pytest.fixture
def primary(server: Postgres) -> Iterator[Postgres]:
    """The server of all tests, with one table more."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        admin.execute("INSERT INTO orders VALUES (1)")
        admin.execute(channel_kind.ddl(channel_kind.Config(type="postgres", dsn=server.dsn())).encode())
        yield server
        admin.execute("DROP TABLE orders, notifications")


@pytest.fixture
def replica(primary: Postgres) -> Iterator[Postgres]:
    with standby(primary) as made:
        yield made


def config(server: Postgres) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {
            "replica": {"type": "postgres", "dsn": server.dsn(), "notify": ["orders_changed"], "interval": "1s"}
        },
        "channels": {"audit": {"type": "postgres", "dsn": server.dsn(), "backoff_max": "1s"}},
        "alerts": {"late": {"source": "replica", "relation": "orders", "key": ["id"], "notify": ["audit"]}},
    }


async def checked(directory: Path, whole: dict[str, Any]) -> dict[str, str]:
    """What `check --online` finds: path -> message."""
    file = write(directory / "tocsin.yaml", whole)
    status, output, errors = await command(directory, "check", "--online", "--json", "--config", str(file))
    found = {problem["path"]: problem["message"] for problem in json.loads(output)["problems"]}
    assert (status, errors) == (1 if found else 0, "")
    return found


async def test_standby_is_named_and_used_until_promoted(primary: Postgres, replica: Postgres, tmp_path: Path) -> None:
    """The check names it under `notify` and under the channel. While it is read on the interval, one line says that no
    NOTIFY wakes it. After the promotion NOTIFY does, and pending rows are written."""
    assert await checked(tmp_path, config(primary)) == {}
    found = await checked(tmp_path, config(replica))
    assert sorted(found) == ["channels.audit", "sources.replica"]
    assert "a standby accepts no LISTEN" in found["sources.replica"]
    assert "rows are read every 1 s" in found["sources.replica"]
    assert "cannot write on a standby" in found["channels.audit"]
    assert "target_session_attrs=read-write" in found["channels.audit"]

    async with running(tmp_path, config(replica)) as tocsin:
        await tocsin.until_ready()
        await tocsin.until_metric("tocsin_alert_firing", 1, alert="late")
        with psycopg.connect(primary.dsn(), autocommit=True) as admin:
            admin.execute("INSERT INTO orders VALUES (2)")
        await tocsin.until_metric("tocsin_alert_firing", 2, alert="late")
        assert len(tocsin.logged("a standby accepts no LISTEN")) == 1
        status = await tocsin.json("/api/v1/status")
        assert any("a standby accepts no LISTEN" in warning for warning in status["warnings"])
        assert "a standby accepts no LISTEN" in status["alerts"][0]["message"]
        assert status["alerts"][0]["state"] == "up"
        assert "a standby accepts no LISTEN" in (await tocsin.get("/readyz"))[1]

        with psycopg.connect(replica.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")

            async def written() -> bool:
                rows = admin.execute("SELECT envelope->'row'->>'id' FROM notifications ORDER BY 1").fetchall()
                return rows == [("1",), ("2",)]

            await until_some(written, "what waited is written")

        async def well() -> bool:
            return not any("LISTEN" in warning for warning in (await tocsin.json("/api/v1/status"))["warnings"])

        await until_some(well, "it listens")


async def test_promoted_standby_wakes_its_source(replica: Postgres) -> None:
    """Read so seldom that only a NOTIFY explains the reading after it."""
    given = {"dsn": replica.dsn(), "notify": ["orders_changed"], "interval": "1s"}
    at = source_kind.build("replica", PostgresConfig.model_validate(given))
    loop = asyncio.get_running_loop()
    async with at.open(Subject(relation="orders"), as_of=None) as stream:
        batches = stream.batches()
        assert (await anext(batches)).note
        with psycopg.connect(replica.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")
            async with asyncio.timeout(20):
                while (await anext(batches)).note:
                    pass
            readings: Any = stream.batches.__self__  # type: ignore[attr-defined]
            readings.config = readings.config.model_copy(update={"interval": 3600.0})
            began, following = loop.time(), asyncio.ensure_future(anext(batches))
            admin.execute("INSERT INTO orders VALUES (3)")
            admin.execute("NOTIFY orders_changed")
            batch = await asyncio.wait_for(following, 20)
        assert ("3",) in [row for _, _, row in batch.updates]
        assert loop.time() - began < 20


async def test_read_only_role_is_named(primary: Postgres, tmp_path: Path) -> None:
    """A server that accepts writes, but not from this role."""
    async with primary.database() as database:
        await _in_read_only(database)
        whole = config(primary)
        whole["sources"]["replica"]["dsn"] = whole["channels"]["audit"]["dsn"] = database.dsn
        found = await checked(tmp_path, whole)
        assert sorted(found) == ["channels.audit"]
        assert "cannot write in a read-only session" in found["channels.audit"]
        assert "default_transaction_read_only" in found["channels.audit"]


async def _in_read_only(database: Database) -> None:
    await database.run("CREATE TABLE orders (id int PRIMARY KEY)")
    await database.run(channel_kind.ddl(channel_kind.Config(type="postgres", dsn=database.dsn)))
    [[name]] = await database.run("SELECT current_database()")
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as admin:
        await admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(name))
        )
