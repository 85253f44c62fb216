"""Rows of PostgreSQL that change at every reading, as with a column `now() - due_at`: each change is notified."""

import asyncio
from collections.abc import Sequence

from psycopg import sql

from tocsin.alert import RowAlert
from tocsin.doctor.findings import Finding, Report
from tocsin.model import Row
from tocsin.postgres import relation
from tocsin.sources.query import operators_query
from tocsin.sources.settings import PostgresConfig
from tocsin.sources.wire import Wire, asking

_ROWS = 1_000
_PAUSE = 1.5
"""Seconds between two readings: more than the second that most times are rounded to."""


async def restless(alert: RowAlert, settings: PostgresConfig) -> Sequence[Finding]:
    """Read the rows twice, and name the columns in which most of them have changed."""
    report = Report(f"alerts.{alert.name}", "changes")
    subject = alert.subject
    if subject.relation is not None:
        select: sql.Composable = sql.SQL("SELECT * FROM {}").format(relation(subject.relation))
    else:
        select = operators_query(subject.query or "")
    limited = sql.SQL("SELECT * FROM ({}) AS sample LIMIT {}").format(select, sql.Literal(_ROWS))
    async with asking(settings, settings.snapshot_timeout) as wire:
        columns = [column.name for column in await wire.describe(select)]
        first = await _read(wire, settings, limited)
        await asyncio.sleep(_PAUSE)
        second = await _read(wire, settings, limited)
    changed = changing(columns, alert.key, [name for name in columns if name not in alert.ignore], first, second)
    if changed:
        names = ", ".join(changed)
        words = f"{names} of most rows changed within {_PAUSE:g} s: each change is notified"
        return [report.warning(words, f"name what is no news in `ignore: [{names}]`, or take it out of the view")]
    if not first:
        return [report.skipped("there are no rows now, so it is not known whether they change by themselves")]
    return [report.ok("its rows do not change by themselves")]


async def _read(wire: Wire, settings: PostgresConfig, limited: sql.Composable) -> list[Row]:
    await wire.query(settings.begin())
    rows = await wire.query(limited)
    await wire.query(sql.SQL("COMMIT"))
    return rows


def changing(
    columns: Sequence[str], key: Sequence[str], watched: Sequence[str], before: Sequence[Row], after: Sequence[Row]
) -> list[str]:
    """The watched columns that changed in most of the rows that both readings have. Without a key, each row is its own
    key: then all rows are others when most are."""
    places = [columns.index(name) for name in key if name in columns]
    if not places:
        gone = len({*before} - {*after})
        return list(watched) if gone * 2 > len(before) else []
    known = {tuple(row[place] for place in places): row for row in before}
    pairs = [(known[now], row) for row in after if (now := tuple(row[place] for place in places)) in known]
    return [
        name
        for name in watched
        if sum(was[columns.index(name)] != row[columns.index(name)] for was, row in pairs) * 2 > len(pairs) > 0
    ]
