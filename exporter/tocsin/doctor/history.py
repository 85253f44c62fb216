"""How far back the history of a subscription in Materialize reaches, and what shortens it."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tocsin.alert import RowAlert
from tocsin.doctor.findings import Finding, Report
from tocsin.postgres import relation
from tocsin.settings import duration_text
from tocsin.sources.base import Subject
from tocsin.sources.query import operators_query
from tocsin.sources.settings import MaterializeConfig
from tocsin.sources.wire import Wire, asking, fields

_FOREVER = 2**64 - 1
"""The timestamp of a constant view."""
_ALMOST = 0.9
"""The history is cut in steps, so its length varies a little."""
_KINDS = ("MATERIALIZED VIEW", "TABLE", "SOURCE")
"""What has a setting RETAIN HISTORY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Something that a subscription reads."""

    name: str
    """With database and schema."""
    index: bool
    """An index, in memory, or else what is stored."""
    retained: float | None = None
    """Seconds of history that it is set to retain; None: not known."""
    kind: str = ""
    """One of `_KINDS`; empty: not known."""


async def reaches_back(alert: RowAlert, path: str, settings: MaterializeConfig, downtime: float) -> Sequence[Finding]:
    """Check the history of an alert against the longest downtime, in seconds.

    It begins the subscription that a restart would begin, as far back as the server goes: its first line is the oldest
    time that can be read.
    """
    report = Report(path, "history")
    async with asking(settings, settings.snapshot_timeout) as wire:
        oldest = await _oldest(wire, alert.subject)
    if oldest == _FOREVER:
        return [report.ok("the view is constant, so it needs no history")]
    back = time.time() - oldest / 1000
    if back >= downtime * _ALMOST:
        return [report.ok(f"reaches back {_length(back)}, for a downtime of up to {duration_text(downtime)}")]
    async with asking(settings, settings.snapshot_timeout) as wire:
        inputs = [await _input(wire, name, index=index) for name, index in await _inputs(wire, alert.subject)]
    return [judged(report, back, downtime, inputs)]


def judged(report: Report, back: float, downtime: float, inputs: Sequence[Input]) -> Finding:
    """Judge a history that reaches `back` for less than `downtime` (seconds)."""
    after = "after a longer downtime, rows that came and went meanwhile are not notified (a gap)"
    wanted = f"'{_interval(downtime)}'"
    indexes = [one.name for one in inputs if one.index]
    stored = [one for one in inputs if not one.index]
    if indexes:
        keeps = "an index keeps its own history, whatever the view retains"
        fix = f"drop the index ({'; '.join(f'DROP INDEX {name}' for name in indexes)}), or use a cluster without it"
        return report.warning(
            f"reaches back {_length(back)}, since the subscription reads {', '.join(indexes)}: {keeps}; {after}", fix
        )
    short = [one for one in stored if one.retained is not None and one.retained < downtime * _ALMOST]
    if not short and stored and all(one.retained is not None for one in stored):
        return report.ok(f"reaches back {_length(back)} by now, and is kept for {duration_text(downtime)} or longer")
    named = short or [one for one in stored if one.retained is None]
    kinds = [(one.kind or "MATERIALIZED VIEW", one.name) for one in named]
    fix = "; ".join(f"ALTER {kind} {name} SET (RETAIN HISTORY FOR {wanted})" for kind, name in kinds)
    if any(one.kind != "MATERIALIZED VIEW" for one in named):
        fix += ", or put a materialized view with RETAIN HISTORY over them and watch that"
    return report.warning(
        f"reaches back {_length(back)}, not {duration_text(downtime)}: {after}",
        fix or "watch a materialized view that has RETAIN HISTORY",
    )


async def _oldest(wire: Wire, subject: Subject) -> int:
    """The oldest time, in milliseconds, that a subscription can begin at."""
    statement = sql.SQL("COPY (SUBSCRIBE {} WITH (PROGRESS, SNAPSHOT = false) AS OF AT LEAST 1) TO STDOUT")
    async for chunk in wire.copy(statement.format(_target(subject)), limit=60.0):
        return int(fields(chunk[:1])[0][0] or 0)
    return _FOREVER


async def _inputs(wire: Wire, subject: Subject) -> list[tuple[str, bool]]:
    """The names of what a subscription reads, each with whether it is an index."""
    statement = sql.SQL("EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM {}").format(_target(subject))
    plan = json.loads((await wire.query(statement))[0][0] or "{}")
    return list(read_inputs(plan))


def read_inputs(plan: object) -> Iterator[tuple[str, bool]]:
    """Read `"name": "materialize.public.late (u7, storage)"` of each source in an EXPLAIN TIMESTAMP."""
    sources = plan.get("sources", []) if isinstance(plan, dict) else []
    for one in sources:
        name, _, place = str(one["name"]).rpartition(" (")
        yield name, place.endswith("compute)")


async def _input(wire: Wire, name: str, *, index: bool) -> Input:
    if index:
        return Input(name=name, index=True)
    for kind in _KINDS:
        # SHOW CREATE is answered from memory. A query of the catalog may wait for its cluster for minutes.
        try:
            rows = await wire.query(sql.SQL(f"SHOW CREATE {kind} {{}}").format(relation(name)))
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            continue
        return Input(name=name, index=False, kind=kind, retained=await _retained(wire, rows[0][1] or ""))
    return Input(name=name, index=False)


async def _retained(wire: Wire, created: str) -> float | None:
    """The seconds of RETAIN HISTORY in a statement that makes something; a second if it has none."""
    _, found, rest = created.partition("RETAIN HISTORY = FOR '")
    if not found:
        return 1.0
    interval = rest.partition("'")[0]
    rows = await wire.query(sql.SQL("SELECT extract(epoch FROM {}::interval)").format(sql.Literal(interval)))
    return float(rows[0][0] or 0)


def _target(subject: Subject) -> sql.Composable:
    if subject.relation is not None:
        return relation(subject.relation)
    return sql.SQL("({})").format(operators_query(subject.query or ""))


def _length(seconds: float) -> str:
    return duration_text(round(seconds)) if seconds >= 1 else "less than a second"


def _interval(seconds: float) -> str:
    """As SQL writes it."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            count = round(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"
