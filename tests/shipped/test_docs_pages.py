"""Code on the pages of the documentation runs, with the documented effect."""

import itertools
import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from support.messages import message
from support.pages import DOCS, blocks
from support.postgres import Postgres
from support.receiver import Receiver
from support.sending import sent
from support.tocsin import command, running, write
from support.waiting import SOON, until, until_some
from tocsin.app.build import make_channel
from tocsin.channels.base import Delivered, Rejected, Result, Retry
from tocsin.config import load
from tocsin.errors import Reason

EVENTS = "sources/postgres_events.md"
HANDLERS = "channels/python.md"
MOVING = "migrate-from-notified.md"
TOKEN = "a-token-of-some-length"


def completed(text: str, **source: Any) -> dict[str, Any]:
    """A configuration on a page with what it leaves out. `source`: settings of its source to replace."""
    written: dict[str, Any] = yaml.safe_load(text)
    written.setdefault("sources", {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}})
    written.setdefault("channels", {"people": {"type": "console"}})
    written["sources"]["shop"] = source or written["sources"]["shop"]
    rows = {"relation": "late", "labels": ["id"]} if written["sources"]["shop"]["type"] == "postgres" else {}
    written.setdefault("alerts", {"late": {"source": "shop", **rows, "notify": list(written["channels"])}})
    return written


# Source http.


@pytest.mark.e2e
async def test_http_request_is_answered_and_sent_once(tmp_path: Path) -> None:
    page = "sources/http.md"
    config = yaml.safe_load(blocks(page, "yaml")[0])
    config |= {"web": {"listen": "127.0.0.1:0"}, "ledger": {"path": str(tmp_path / "tocsin.db")}}
    text = (DOCS / page).read_text(encoding="utf-8")
    request, answer = re.findall(r"^(curl .*?)\n(\{.*?\})$", text, re.DOTALL | re.MULTILINE)[0]
    name, *options, url = shlex.split(request.replace("\\\n", " ").replace("$EVENTS_TOKEN", TOKEN))
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert (name, {option for option, _ in pairs}) == ("curl", {"-H", "-d"}), "an option that this test does not know"
    headers = dict(value.split(": ", 1) for option, value in pairs if option == "-H")
    headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}  # curl's default for -d
    [body] = (value.encode() for option, value in pairs if option == "-d")
    async with running(tmp_path, config, EVENTS_TOKEN=TOKEN) as tocsin:
        await tocsin.until_ready()
        for _ in range(2):
            status, printed = await tocsin.post(urlsplit(url).path, body, **headers)
            assert (status, json.loads(printed)) == (202, json.loads(answer))
        await until(lambda: tocsin.output)
        await tocsin.stop()
    [line] = tocsin.output
    assert "event backup_failed" in line


# Channel python.


CALLED = """
import json
from pathlib import Path


def note(*what):
    with Path(__file__).with_name("calls").open("a") as calls:
        print(json.dumps(what), file=calls)


def open_ticket(summary, key):
    note(summary, key)
    return 17


class Answer:
    busy = BUSY


async def call(room, token, key):
    note(room, token, key)
    return Answer
"""
"""Calls of the handlers on the page."""


async def handled(directory: Path, number: int, *, customer: str = "Ann", busy: bool = False) -> tuple[str, Result]:
    """Call a handler of the page with the configuration beside it: the notification's id, and the result."""
    (directory / "pager.py").write_text(blocks(HANDLERS, "python")[number] + CALLED.replace("BUSY", str(busy)))
    config = completed(blocks(HANDLERS, "yaml")[number])
    config["channels"]["pager"]["path"] = str(directory)
    config["alerts"]["late_orders"] = config["alerts"].pop("late", None) or config["alerts"]["late_orders"]
    channel = make_channel(load(write(directory / "tocsin.yaml", config), {"PAGER_TOKEN": TOKEN}).channels["pager"])
    one = message(alert="late_orders")
    one = replace(one, envelope={**one.envelope, "labels": {"customer": customer}})
    try:
        return one.id, await sent(channel, one)
    finally:
        await channel.close()
        del sys.modules["pager"]


def calls(directory: Path) -> list[list[str]]:
    """The arguments of the calls of handlers."""
    return [json.loads(line) for line in (directory / "calls").read_text().splitlines()]


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module path that is restored afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("path")
async def test_first_handler_opens_a_ticket(tmp_path: Path) -> None:
    id_, result = await handled(tmp_path, 0)
    assert result == Delivered("ticket 17")
    assert calls(tmp_path) == [["Order 17 of Ann is late", id_]]


@pytest.mark.usefixtures("path")
async def test_second_handler_gets_arguments_and_logs(tmp_path: Path) -> None:
    with capture_logs() as logged:
        id_, result = await handled(tmp_path, 1)
    assert result == Delivered()
    assert calls(tmp_path) == [["deliveries", TOKEN, id_]]
    assert [(line["event"], line["attempts"], line["notification"]) for line in logged] == [("paged", 0, id_)]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"customer": "test"}, Rejected(Reason.REJECTED, "test customers have no pager")),
        ({"busy": True}, Retry(Reason.NOT_PROCESSED, "the pager is busy", after=30, free=True)),
    ],
)
async def test_second_handler_rejects_and_retries(tmp_path: Path, case: Mapping[str, Any], expected: Result) -> None:
    assert (await handled(tmp_path, 1, **case))[1] == expected


# PostgreSQL as a source of events, as a channel, and in the migration.


async def test_events_page_publishes_with_its_sql_and_python(server: Postgres, tmp_path: Path) -> None:
    text = (DOCS / EVENTS).read_text(encoding="utf-8")
    [grant] = re.findall(r"^psql shop -c '(.*?)'", text, re.MULTILINE)
    [publish] = re.findall(r"^tocsin (notify .*?) +#", text, re.MULTILINE)
    written = blocks(EVENTS, "yaml")[0]
    async with server.database() as database:
        dsn = make_conninfo(database.dsn, user=completed(written)["sources"]["shop"]["user"])
        write(tmp_path / "tocsin.yaml", completed(written, type="postgres_events", dsn=dsn))
        await database.run((await command(tmp_path, "sql", "shop"))[1])
        status, _, errors = await command(tmp_path, *shlex.split(publish))
        assert status != 0
        assert "permission denied" in errors
        await database.run(grant)
        assert (await command(tmp_path, *shlex.split(publish)))[:2] == (0, "1\n")
        await database.run("CREATE TABLE orders (id int, state text)")
        trigger, redo = blocks(EVENTS, "sql")
        await database.run(trigger)
        await database.run("INSERT INTO orders VALUES (17, 'new'); DELETE FROM orders")
        [publishing] = blocks(EVENTS, "python")
        exec(publishing.replace("dbname=shop", database.dsn), {})
        await database.run("UPDATE events SET handled_at = now(), handled_as = 'unmatched' WHERE name = 'order_delete'")
        await database.run(redo)
        _, *found = await database.run("SELECT name, data FROM events WHERE handled_at IS NULL ORDER BY id")
    assert found == [
        ("order_insert", {"id": 17, "state": "new"}),
        ("order_delete", {"id": 17, "state": "new"}),
        ("order_failed", {"order": 17}),
    ]


async def test_query_of_channel_page_reads_printed_table(server: Postgres, tmp_path: Path) -> None:
    page = "channels/postgres.md"
    async with server.database() as database:
        write(tmp_path / "tocsin.yaml", completed(blocks(page, "yaml")[0]))
        await database.run((await command(tmp_path, "sql", "audit"))[1])
        [query] = blocks(page, "sql")
        assert await database.run(query) == []


async def test_notified_migration_keeps_table_trigger_and_handlers(server: Postgres, tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    [handlers], [schema], [written] = (blocks(MOVING, language) for language in ("python", "sql", "yaml"))
    (tmp_path / "handlers" / "shop_handlers.py").write_text(handlers)
    config = {**yaml.safe_load(written), "web": {"listen": "127.0.0.1:0"}}
    write(tmp_path / "tocsin.yaml", config)
    async with server.database() as database, Receiver() as receiver:
        environment = {"DATABASE": database.dsn, "HOOK": receiver.url}
        await database.run(schema)
        await database.run("INSERT INTO events (name, order_id) VALUES ('order_placed', 1)")
        await database.run((await command(tmp_path, "sql", "shop", "--existing", **environment))[1])
        with psycopg.connect(database.dsn, autocommit=True) as listener:
            listener.execute("LISTEN events")
            insert = "INSERT INTO events (name, order_id) VALUES ('order_placed', 17), ('order_failed', 18)"
            await database.run(insert)
            await database.run("NOTIFY events, 'the end'")
            received = itertools.takewhile(lambda notify: notify.payload != "the end", listener.notifies(timeout=SOON))
            assert [notify.payload for notify in received] == ["2", "3"], "Notified still gets each event once"
            del received  # it holds the connection's lock
        async with running(tmp_path, config, **environment) as tocsin:

            async def delivered() -> bool:
                listed = (await command(tmp_path, "outbox", "list", "--delivered", "--json", **environment))[1]
                found = {(one["channel"], one["detail"]) for one in map(json.loads, listed.splitlines())}
                assert {("note", "order 17 noted"), ("old", "{'order': 17}")} <= found
                assert len(found) == 3
                return True

            await until_some(delivered)
            await tocsin.stop()
    [request] = receiver.requests
    assert request.json == {"id": 3, "name": "order_failed", "order_id": 18}
