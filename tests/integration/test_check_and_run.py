"""What `tocsin check --online` refuses, `tocsin run` reports in the same words, once for each alert."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Database, Postgres
from support.tocsin import command, running, write
from tocsin.ledger.schema import MIGRATIONS

OBJECTS = """
CREATE SCHEMA shop;
CREATE TYPE shop.urgency AS ENUM ('low', 'high');
CREATE VIEW orders AS SELECT 1 AS id, 'low'::shop.urgency AS urgency, '12.5' AS total, '{}'::jsonb AS data,
  ARRAY['low']::shop.urgency[] AS all_of_them, interval '5 min' AS age, true AS late;
"""
REFUSED = {
    "an enum": ({"value": "urgency"}, "urgency is of type shop.urgency, which is not a number; cast it in the view"),
    "an array": ({"value": "all_of_them"}, "all_of_them is of type shop.urgency[], which is not a number; cast it in"),
    "text": ({"value": "total"}, "total is of type text, which is not a number; cast it in the view"),
    "json": ({"value": "data"}, "data is of type jsonb, which is not a number; cast it in the view"),
    "doubled": ({"query": "SELECT 1 AS a, 2 AS a"}, "there are several columns 'a'; give each its own name"),
}


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as made:
        await made.run(OBJECTS)
        yield made


def whole(database: Database, **alerts: dict[str, Any]) -> dict[str, Any]:
    source = {"type": "postgres", "dsn": database.dsn, "interval": "100ms"}
    base = {"source": "db", "relation": "orders"}
    return {
        "sources": {"db": source},
        "alerts": {name: (one if "query" in one else base) | {"source": "db", **one} for name, one in alerts.items()},
        "web": {"listen": "127.0.0.1:0"},
    }


async def test_check_and_run_refuse_in_the_same_words(database: Database, tmp_path: Path) -> None:
    alerts = {name.replace(" ", "_"): settings for name, (settings, _) in REFUSED.items()}
    config = whole(database, **alerts)
    file = write(tmp_path / "tocsin.yaml", config)
    status, _, problems = await command(tmp_path, "check", "--online", "-c", str(file))
    assert status == 1
    async with running(tmp_path, config) as tocsin:
        reasons = await tocsin.until_not_ready(*(text for _, text in REFUSED.values()))
    for name, (_, text) in REFUSED.items():
        [reported] = [line for line in problems.splitlines() if f"alerts.{name.replace(' ', '_')}" in line]
        [reason] = [line for line in reasons.splitlines() if line.startswith(f"alert {name.replace(' ', '_')}: ")]
        assert text in reported
        assert reason.startswith(f"alert {name.replace(' ', '_')}: {text}"), "the name of the alert is there once"


async def test_check_reads_the_file_of_the_ledger(database: Database, tmp_path: Path) -> None:
    """It finds a ledger that `tocsin run` would refuse. One that it would bring up to date is none of those."""
    hook = {"type": "webhook", "url": "http://127.0.0.1:9/"}
    alert = {"key": ["id"], "labels": ["id"], "notify": ["hook"]}
    config = whole(database, order=alert) | {"channels": {"hook": hook}, "ledger": {"path": "state.db"}}
    file = write(tmp_path / "tocsin.yaml", config)
    for version, words in (
        (1, ""),
        (len(MIGRATIONS) + 1, "ledger.path: state.db: written by a newer version of Tocsin"),
    ):
        with closing(sqlite3.connect(tmp_path / "state.db")) as ledger:
            ledger.execute(f"PRAGMA user_version = {version}")
        status, _, problems = await command(tmp_path, "check", "--online", "-c", str(file))
        assert ("ledger" in problems, words in problems) == (bool(words), True), problems
        if words:
            assert status == 1
            assert words in problems
            async with running(tmp_path, config) as tocsin:
                assert await tocsin.exited() == 3


async def test_check_and_run_accept_what_a_gauge_can_show(database: Database, tmp_path: Path) -> None:
    config = whole(database, age={"value": "age", "key": ["id"]}, late={"value": "late", "key": ["id"]})
    file = write(tmp_path / "tocsin.yaml", config)
    assert (await command(tmp_path, "check", "--online", "-c", str(file)))[0] == 0
    async with running(tmp_path, config) as tocsin:
        await tocsin.until_ready()
        assert [*(await tocsin.gauge("age")).values(), *(await tocsin.gauge("late")).values()] == [300, 1]
