"""Copying a ledger from a file to PostgreSQL and back: everything, once, and whole or not at all."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from support.clock import Clock
from support.ledger import HOSTILE, commit, delivered, fired, firing, sendable, settlement, transition
from support.postgres import Database
from support.tocsin import command, running
from tocsin.errors import LedgerError
from tocsin.ledger import postgres, sqlite, sqlite_tables
from tocsin.ledger.base import EventCommit, Filter, Ledger, Occurrence, Status
from tocsin.ledger.silencing import Judged
from tocsin.ledger.tables import TABLES, Row, Table, copy
from tocsin.model import Address
from tocsin.silences import Silence, parse


@dataclass
class Places:
    """A file and a database, each for one ledger."""

    file: Path
    server: postgres.LedgerServer

    async def ledger(self, kind: str) -> Ledger:
        clock = Clock()
        return sqlite.open_ledger(self.file, clock=clock) if kind == "file" else await self._ledger(clock)

    async def _ledger(self, clock: Clock) -> Ledger:
        return await postgres.open_ledger(self.server, clock=clock)

    async def tables(self, kind: str) -> Any:
        return sqlite_tables.open_tables(self.file) if kind == "file" else await postgres.open_tables(self.server)


@pytest.fixture
def places(tmp_path: Path, database: Database) -> Places:
    return Places(tmp_path / "ledger.db", postgres.LedgerServer(dsn=SecretStr(database.dsn), lease=1.0))


async def fill(ledger: Ledger) -> None:
    """Something in every table, and in every status."""
    group = Address(channel="hook", ordering_key="group", interval=30.0)
    for number, text in enumerate(HOSTILE):
        await ledger.commit(commit([transition(text, at=number)], alert=f"alert {number}", saved=[firing(text)]))
    one, two, three, _ = await fired(ledger, "1", "2", "3", "4", at=100)
    waiting = settlement(three, Status.PENDING, not_before=9e9)
    await ledger.settle([delivered(one), settlement(two, Status.DEAD), waiting])
    for key in "ab":
        grouped = (transition(key, alert="grouped"), [group])
        await ledger.commit(replace(commit(alert="grouped"), transitions=[grouped]))
    event = Occurrence(routed=(transition("e", alert="events"), [Address(channel="hook")]), key="k\0", until=5000)
    ends_at = ledger.now() + 60
    await ledger.silence(Silence(id="s", matchers=parse("a=b"), starts_at=0.0, ends_at=ends_at, reason="a\0b"))
    await ledger.withhold("hook", Judged(held={one.seq: "s" for one in await fired(ledger, "held")}, passing=()))
    await ledger.commit_events(EventCommit(source="queue", occurrences=[event], position={"topic/0": 2**60}))


async def content(ledger: Ledger) -> object:
    """What can be read of a ledger."""
    records = await ledger.find(Filter(limit=1000))
    attempts = [await ledger.attempts(record.id) for record in records]
    alerts = sorted({record.alert for record in records})
    stored = [await ledger.load(alert) for alert in alerts]
    firings = [sorted(one.firings, key=repr) if one else None for one in stored]
    heads = sorted((head.seq, head.id) for head in await sendable(ledger))
    episodes = [await ledger.episodes(alert, 10) for alert in alerts]
    return (
        records,
        attempts,
        firings,
        heads,
        episodes,
        await ledger.position("queue"),
        await ledger.backlog(),
        [
            await ledger.list_silences(),
            await ledger.held(),
        ],
    )


@pytest.mark.parametrize(("source", "target"), [("file", "server"), ("server", "file")])
async def test_copy_has_everything_and_goes_on(places: Places, source: str, target: str) -> None:
    ledger = await places.ledger(source)
    await fill(ledger)
    expected = await content(ledger)
    await ledger.close()
    before, after = await places.tables(source), await places.tables(target)
    counts = {table.name: await before.count(table) for table in TABLES}
    assert 0 not in counts.values()
    assert await copy(before, after, "the source") == sum(counts.values())
    await before.close()
    await after.close()
    ledger = await places.ledger(target)
    assert await content(ledger) == expected
    [new] = await fired(ledger, "new", at=500)  # numbered after what was copied
    assert new.seq == max(record.seq for record in await ledger.find(Filter()))
    await ledger.close()


class InterruptedCopyError(Exception):
    """The process ends here."""


async def test_interrupted_copy_is_refused_and_goes_on(places: Places) -> None:
    ledger = await places.ledger("file")
    await fill(ledger)
    await ledger.close()
    source, target = await places.tables("file"), await places.tables("server")

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "notifications":
            raise InterruptedCopyError

    with pytest.raises(InterruptedCopyError):
        await copy(source, target, "the file", interrupt)
    with pytest.raises(LedgerError, match="holds a part of the file"):
        await copy(source, target, "another file")
    await target.close()
    with pytest.raises(LedgerError, match="an unfinished copy of the file; run `tocsin ledger copy` again"):
        await places.ledger("server")
    target = await places.tables("server")
    assert await copy(source, target, "the file") > 0
    await target.close()
    await source.close()
    await (await places.ledger("server")).close()


async def test_target_with_anything_in_it_is_refused(places: Places) -> None:
    for kind in ("file", "server"):
        ledger = await places.ledger(kind)
        await fired(ledger, "1")
        await ledger.close()
    source, target = await places.tables("file"), await places.tables("server")
    with pytest.raises(LedgerError, match="the target is not empty"):
        await copy(source, target, "the file")
    await source.close()
    await target.close()


async def test_copy_that_differs_is_not_complete(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = await places.ledger("file")
    await fill(ledger)
    await ledger.close()
    source, target = await places.tables("file"), await places.tables("server")
    insert = target.insert

    async def careless(table: Table, rows: list[Row]) -> None:
        await insert(table, rows[1:] if table.name == "attempts" else rows)

    monkeypatch.setattr(target, "insert", careless)
    with pytest.raises(LedgerError, match="the table attempts is not the same"):
        await copy(source, target, "the file")
    await target.close()
    with pytest.raises(LedgerError, match="unfinished copy"):
        await places.ledger("server")
    await source.close()


async def test_command_copies_and_refuses_what_runs(places: Places, tmp_path: Path, database: Database) -> None:
    ledger = await places.ledger("file")
    await fill(ledger)
    await ledger.close()
    config = {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"url": database.dsn, "lease": "1s"},
        "sources": {"db": {"type": "postgres", "dsn": database.dsn}},
        "channels": {"hook": {"type": "console"}},
        "alerts": {"one": {"source": "db", "query": "SELECT 1 AS id", "key": ["id"], "notify": ["hook"]}},
    }
    async with running(tmp_path, config) as tocsin:
        status, _, errors = await command(tmp_path, "ledger", "copy", "ledger.db", "tocsin.yaml")
        assert status == 3
        assert f"process {tocsin.pid} on {os.uname().nodename} runs the alerts; stop it first" in errors
    await database.run("DROP SCHEMA tocsin CASCADE")
    status, output, errors = await command(tmp_path, "ledger", "copy", "ledger.db", "tocsin.yaml")
    assert (status, "notifications: 16 of 16" in errors) == (0, True), errors
    assert "rows are the same in" in output
    status, _, errors = await command(tmp_path, "ledger", "copy", "nowhere.db", "tocsin.yaml")
    assert (status, "there is no such file" in errors) == (3, True)
