"""A row keeps its identity when a server of another version writes it differently."""

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.materialize import MaterializeDouble, Relation
from support.tocsin import running
from support.waiting import until

pytestmark = pytest.mark.e2e


def config(directory: Path, source: Mapping[str, Any], **alert: Any) -> dict[str, Any]:
    """One alert, `late`, whose key is the whole row."""
    return {
        "ledger": {"path": str(directory / "ledger.db")},
        "web": {"listen": "127.0.0.1:0"},
        "sources": {"db": dict(source)},
        "channels": {"line": {"type": "console"}},
        "alerts": {"late": {"source": "db", "relation": "late", "notify": ["line"], **alert}},
    }


def replaced(
    double: MaterializeDouble, older: Relation, columns: Sequence[tuple[str, str]], *rows: Sequence[str]
) -> Relation:
    """The view, on a server of another version: there is no moment in which it is empty."""
    double.drop(older)
    newer = double.create("public.late", columns, retain=None, rows=rows)
    double.compact(newer)
    return newer


async def transitions(directory: Path, configured: Mapping[str, Any]) -> dict[str, float]:
    """Run Tocsin until it has read the relation once, and count the transitions by kind."""
    async with running(directory, configured) as tocsin:
        await tocsin.until_ready()
        page = await tocsin.metrics()
        assert await tocsin.stop() == 0
    counted = {
        dict(labels)["kind"]: n for (name, labels), n in page.items() if name == "tocsin_alert_transitions_total"
    }
    return {kind: number for kind, number in counted.items() if number}


BEFORE = ("1 month 2 days 03:04:05.5", "1 year 11 months", "-1 month -1 day")
AFTER = ("1 mon 2 days 03:04:05.5", "1 year 11 mons", "-1 mons -1 days")
"""The same intervals as v26.8 and as v26.39 write them."""


async def test_interval_of_another_materialize_version_fires_nothing(tmp_path: Path) -> None:
    """It resolves once. Also within an array."""
    columns = [("waited", "interval"), ("all", "interval[]")]
    before = [(text, f'{{"{text}"}}') for text in BEFORE]
    after = [(text, f'{{"{text}"}}') for text in AFTER]
    async with MaterializeDouble() as double:
        source = {"type": "materialize", "host": "127.0.0.1", "port": double.port, "user": "tocsin"}
        names = [name for name, _ in columns]
        configured = config(tmp_path, source, relation="public.late", key=names, labels=names)
        older = double.create("public.late", columns, rows=before)
        assert await transitions(tmp_path, configured) == {"fired": 3}

        newer = replaced(double, older, columns, *after)
        assert await transitions(tmp_path, configured) == {}

        newer.delete(*after)
        assert await transitions(tmp_path, configured) == {"resolved": 3}
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        stored = ledger.execute("SELECT fingerprint, count(*) FROM transitions GROUP BY fingerprint").fetchall()
    assert [count for _, count in stored] == [2, 2, 2], "a row resolves under the id with which it fired"


async def test_upgraded_materialize_fires_nothing_in_running_process(tmp_path: Path) -> None:
    """The server is restarted in another version while Tocsin runs."""
    async with MaterializeDouble() as double:
        source = {"type": "materialize", "host": "127.0.0.1", "port": double.port, "user": "tocsin"}
        configured = config(tmp_path, source, relation="public.late", key=["waited"], labels=["waited"])
        older = double.create("public.late", [("waited", "interval")], rows=[("1 month",)])
        async with running(tmp_path, configured) as tocsin:
            await tocsin.until_ready()
            newer = replaced(double, older, [("waited", "interval")], ("1 mon",))
            await until(lambda: newer.streams, "subscribed again")
            newer.insert(("2 mons",))
            await until(lambda: len(tocsin.output) >= 2, "the second row is printed")
            assert await tocsin.stop() == 0
    assert [line.split()[1] for line in tocsin.output] == ["fired", "fired"]
