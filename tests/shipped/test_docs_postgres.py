"""The pages about PostgreSQL as a source of events and as a channel: their SQL runs, and the first steps and the
example of the migration do what they say."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from support.postgres import Postgres
from support.receiver import Receiver
from support.tocsin import command, running, write
from support.waiting import SOON, until_some

pytestmark = pytest.mark.xdist_group("postgres")

DOCS = Path(__file__).parents[2] / "docs"
SHOP = {"type": "postgres", "host": "db", "user": "tocsin"}


def blocks(page: str, language: str) -> list[str]:
    """The code of a language on a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def completed(text: str) -> dict[str, Any]:
    """A configuration on a page, with what it leaves out."""
    written: dict[str, Any] = yaml.safe_load(text)
    written.setdefault("sources", {"shop": SHOP})
    written.setdefault("channels", {"people": {"type": "console"}})
    subject = {} if written["sources"]["shop"]["type"] == "postgres_events" else {"relation": "late", "labels": ["id"]}
    written.setdefault("alerts", {"late": {"source": "shop", **subject, "notify": list(written["channels"])}})
    return written


async def test_the_first_steps_of_the_page_do_what_they_say(server: Postgres, tmp_path: Path) -> None:
    page = "sources/postgres_events.md"
    async with server.database() as database:
        written = completed(blocks(page, "yaml")[0])
        written["sources"]["shop"] = {"type": "postgres_events", "dsn": database.dsn}
        write(tmp_path / "tocsin.yaml", written)
        await database.run((await command(tmp_path, "sql", "shop"))[1])
        assert (await command(tmp_path, "notify", "shop", "order_failed", "--data", '{"order": 17}'))[:2] == (0, "1\n")
        await database.run("CREATE TABLE orders (id int, state text)")
        trigger, redo = blocks(page, "sql")
        await database.run(trigger)
        await database.run("INSERT INTO orders VALUES (17, 'new'); DELETE FROM orders")
        [publishing] = blocks(page, "python")
        exec(publishing.replace("dbname=shop", database.dsn), {})
        await database.run("UPDATE events SET handled_at = now(), handled_as = 'unmatched' WHERE name = 'order_delete'")
        await database.run(redo)
        found = await database.run("SELECT name, data FROM events WHERE handled_at IS NULL ORDER BY id")
    assert found == [
        ("order_failed", {"order": 17}),
        ("order_insert", {"id": 17, "state": "new"}),
        ("order_delete", {"id": 17, "state": "new"}),
        ("order_failed", {"order": 17}),
    ]


async def test_the_role_of_the_page_publishes_once_it_was_granted_that(server: Postgres, tmp_path: Path) -> None:
    page = "sources/postgres_events.md"
    [grant] = re.findall(r"^psql shop -c '(.*?)'", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    [publish] = re.findall(r"^tocsin (notify .*?) +#", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    async with server.database() as database:
        written = completed(blocks(page, "yaml")[0])
        role = written["sources"]["shop"]["user"]
        written["sources"]["shop"] = {"type": "postgres_events", "dsn": make_conninfo(database.dsn, user=role)}
        write(tmp_path / "tocsin.yaml", written)
        await database.run((await command(tmp_path, "sql", "shop"))[1])
        status, _, errors = await command(tmp_path, *shlex.split(publish))
        assert status != 0
        assert "permission denied" in errors
        await database.run(grant)
        assert (await command(tmp_path, *shlex.split(publish)))[:2] == (0, "1\n")


async def test_the_query_on_the_page_reads_the_table_that_is_printed(server: Postgres, tmp_path: Path) -> None:
    page = "channels/postgres.md"
    async with server.database() as database:
        write(tmp_path / "tocsin.yaml", completed(blocks(page, "yaml")[0]))
        await database.run((await command(tmp_path, "sql", "audit"))[1])
        [query] = blocks(page, "sql")
        assert await database.run(query) == []


def heard(listener: psycopg.Connection) -> Iterator[str]:
    """What a connection that listens hears."""
    return (notify.payload for notify in listener.notifies(timeout=SOON))


async def test_what_notified_did_goes_on_with_the_same_table_and_handlers(server: Postgres, tmp_path: Path) -> None:
    page = "migrate-from-notified.md"
    (tmp_path / "handlers").mkdir()
    [handlers], [made], [written] = (blocks(page, language) for language in ("python", "sql", "yaml"))
    (tmp_path / "handlers" / "shop_handlers.py").write_text(handlers)
    config = {**completed(written), "web": {"listen": "127.0.0.1:0"}}
    write(tmp_path / "tocsin.yaml", config)
    async with server.database() as database, Receiver() as receiver:
        environment = {"DATABASE": database.dsn, "HOOK": receiver.url}
        await database.run(made)
        await database.run("INSERT INTO events (name, order_id) VALUES ('order_placed', 1)")
        await database.run((await command(tmp_path, "sql", "shop", "--existing", **environment))[1])
        with psycopg.connect(database.dsn, autocommit=True) as listener:
            listener.execute("LISTEN events")
            insert = "INSERT INTO events (name, order_id) VALUES ('order_placed', 17), ('order_failed', 18)"
            await database.run(insert)
            await database.run("NOTIFY events, 'the end'")
            told = list(itertools.takewhile(lambda payload: payload != "the end", heard(listener)))
            assert told == ["2", "3"], "a Notified that still listens hears of each event once"
        async with running(tmp_path, config, **environment) as tocsin:

            async def notes() -> bool:
                listed = (await command(tmp_path, "outbox", "list", "--delivered", "--json", **environment))[1]
                found = {(one["channel"], one["detail"]) for one in map(json.loads, listed.splitlines())}
                assert {("note", "order 17 noted"), ("old", "{'order': 17}")} <= found
                assert len(found) == 3
                return True

            await until_some(notes)
            await tocsin.stop()
    [request] = receiver.requests
    assert request.json == {"id": 3, "name": "order_failed", "order_id": 18}
