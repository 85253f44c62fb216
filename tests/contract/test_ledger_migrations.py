"""Ledger files of former versions: everything in them is delivered by this one."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from support.ledger import COLUMNS, OpenLedger, commit, firing, sendable, stored, transition
from tocsin.ledger import opening
from tocsin.ledger.postgres import schema
from tocsin.ledger.schema import INTEGERS, MIGRATIONS
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Column

OUTBOX = [
    (1, "a", "delivered", 0.0),
    (2, "a", "pending", 0.0),
    (3, "a", "pending", 0.0),
    (4, "b", "pending", 50.0),
    (5, "c", "dead", 0.0),
    (6, "d", "pending", 0.0),
    (7, "e", "pending", 0.0),
    (8, "f", "dropped", 0.0),
]
"""seq, fingerprint, status, not_before."""


def write(path: Path, version: int) -> None:
    """A ledger as a former version left it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for migration in MIGRATIONS[:version]:
            db.executescript(migration)
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("INSERT INTO shapes VALUES (1, '[[\"order_id\",23,-1]]')")
        db.execute("INSERT INTO alerts VALUES ('late', 'definition', 1, 1001)")
        db.execute("INSERT INTO firings VALUES ('late', 'a', 'firing', 1000, 1000, '[\"1\"]', '')")
        for seq, fingerprint, status, not_before in OUTBOX:
            at = 1000 + seq
            db.execute(
                "INSERT INTO transitions VALUES (?, 'late', ?, 'fired', ?, ?, 1, '[\"1\"]', NULL)",
                (seq, fingerprint, at, at),
            )
            db.execute(
                "INSERT INTO notifications (seq, id, transition, channel, status, created_at, not_before)"
                " VALUES (?, ?, ?, 'hook', ?, 1.0, ?)",
                (seq, f"n{seq}", seq, status, not_before),
            )
        if version >= 4:
            db.execute(
                "UPDATE notifications SET ordering_key = 'key ' || seq, ready_at = iif(seq IN (2, 4), not_before, NULL)"
            )
        if version >= 2:
            key = "lane" if version < 4 else "ready_at = iif(seq = 6, 0, NULL), ordering_key"
            db.execute(f"UPDATE notifications SET digest = 6, {key} = 'group' WHERE seq IN (6, 7)")
            db.execute("INSERT INTO windows VALUES ('hook', 'group', 30.0, 10.0, 6)")
        if version == 3:
            db.execute("INSERT INTO bulks VALUES (2, 'hook', '[2, 4]')")


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_former_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "tocsin.db"
    write(path, version)
    ledger = open_ledger(path)
    try:
        stored = await ledger.load("late")
        assert stored is not None
        assert (stored.frontier, len(stored.firings)) == (1001, 1)
        found = await ledger.claim("hook", 100)
        await ledger.recover("hook", 0.0, 0.0)
        heads, requests = [one.seq for one in found.heads], [[one.seq for one in members] for members in found.repeats]
        assert (heads, requests) == {1: ([2, 4, 6, 7], []), 2: ([2, 4, 6], []), 3: ([6], [[2, 4]])}.get(
            version, ([2, 4, 6], [])
        )
        if version >= 2:
            [digest] = [one for one in found.heads if one.seq == 6]
            assert [one.seq for one in await ledger.digest(digest)] == [6, 7]
        assert await ledger.retry(["n1", "n5", "n8"]) == 2
        assert {5, 8} <= {one.seq for one in await sendable(ledger)}
        assert (await ledger.backlog())["hook"].pending == 7
    finally:
        await ledger.close()
    await open_ledger(path).close()


async def test_integers_of_materialize_stay_what_was_sent(
    opener: OpenLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat has the same body, and the columns of the next subscription are those that are stored. Columns that
    would be the same as others stay as they are."""
    former = (Column(name="order_id", oid=16_464), Column(name="note", oid=16_553, typmod=7))
    twins = [tuple(Column(name="n", oid=oid) for _ in range(2)) for oid in (20, 16_460, 16_462)]
    for module in (opening, schema):
        others = tuple(one for one in module.MIGRATIONS if one is not INTEGERS)  # what today's code needs
        monkeypatch.setattr(module, "MIGRATIONS", others)
    ledger = await opener(tmp_path / "ledger")
    pending = [transition(str(number), columns=columns) for number, columns in enumerate((former, *twins, COLUMNS))]
    await ledger.commit(commit(pending, saved=[firing("1")], columns=former))
    await ledger.close()
    for module in (opening, schema):
        monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, INTEGERS))
    ledger = await opener(tmp_path / "ledger")
    now = (Column(name="order_id", oid=20), Column(name="note", oid=1016, typmod=7))
    assert (await stored(ledger)).columns == now
    assert [one.transition.columns for one in await sendable(ledger)] == [now, *twins, COLUMNS]
    await ledger.close()
