"""Checks of servers that speak PostgreSQL's protocol: whether they answer, their clock, a pooler in between, and how
safely PostgreSQL keeps the ledger."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from psycopg import sql

from tocsin.doctor.findings import Finding, Report
from tocsin.errors import SourceError
from tocsin.postgres import Server
from tocsin.sources.wire import Wire, asking

SKEW = 2.0
"""Seconds by which two clocks may differ without a warning. Machines with NTP differ by milliseconds."""
SLOW_COMMIT = 0.05
"""Seconds of a commit from which on it is slow: a batch takes at least one."""
_COMMITS = 10
_CLOCK = {
    "materialize": sql.SQL("SELECT extract(epoch FROM now())"),
    "postgres": sql.SQL("SELECT extract(epoch FROM clock_timestamp())"),
}
_VERSION = {
    "materialize": sql.SQL("SELECT 'Materialize ' || mz_version()"),
    "postgres": sql.SQL("SELECT 'PostgreSQL ' || current_setting('server_version')"),
}
_UNSAFE = {
    "fsync": "a power failure or a crash of its machine can damage the whole database",
    "full_page_writes": "a power failure or a crash of its machine can damage the whole database",
    "synchronous_commit": "a crash of the database loses its last commits, so notifications are sent again or never",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server that a part of the configuration names."""

    path: str
    """That part, as in `sources.warehouse`."""
    settings: Server
    kind: Literal["materialize", "postgres"]
    max_ahead: float | None = None
    """Seconds by which its clock may be ahead before its rows are refused."""
    direct: str = ""
    """Why a pooler may not be in between; empty: one may, or another check finds that it may not."""


async def reached(place: Place) -> Sequence[Finding]:
    """Check that the server answers, its clock, and the way to it."""
    began = time.monotonic()
    try:
        async with asking(place.settings, place.settings.connect_timeout) as wire:
            connected = time.monotonic() - began
            version = (await wire.query(_VERSION[place.kind]))[0][0]
            answered = f"{version} answers; a connection takes {_milliseconds(connected)}"
            return [
                Report(place.path, "connection").ok(answered),
                await _clock(place, wire),
                *await _pooler(place, wire),
            ]
    except SourceError as error:
        fix = error.fix or "check the address, the login and the network between"
        return [Report(place.path, "connection").error(f"{error.server}: {error.message}", fix)]


async def _clock(place: Place, wire: Wire) -> Finding:
    before = time.time()
    server = float((await wire.query(_CLOCK[place.kind]))[0][0] or 0)
    after = time.time()
    return skewed(place, ahead=server - (before + after) / 2, uncertain=(after - before) / 2)


def skewed(place: Place, *, ahead: float, uncertain: float) -> Finding:
    """Judge by how many seconds the server's clock is ahead of this machine's."""
    report = Report(place.path, "clock")
    beyond = abs(ahead) - uncertain
    if beyond <= SKEW:
        return report.ok(f"its clock and this machine's differ by less than {max(abs(ahead) + uncertain, 0.1):.1f} s")
    words = f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    fix = "run NTP on both machines (chronyc tracking, timedatectl)"
    if place.max_ahead is not None and ahead - uncertain > place.max_ahead:
        return report.error(f"{words}, which is more than max_ahead: its rows are refused", fix)
    return report.warning(f"{words}: ages, delays and `for` are wrong by that", fix)


async def _pooler(place: Place, wire: Wire) -> Sequence[Finding]:
    if not await wire.through_pooler():
        return []
    report = Report(place.path, "pooler")
    if place.direct:
        fix = "connect to the server itself, not to PgBouncer or another pooler"
        return [report.warning(f"a pooler is between Tocsin and the server: {place.direct}", fix)]
    return [report.ok("a pooler is between Tocsin and the server, which does no harm here")]


async def keeps_ledger(place: Place) -> Sequence[Finding]:
    """Check that the ledger's database keeps what it commits, and how long a commit takes."""
    async with asking(place.settings, place.settings.connect_timeout) as wire:
        found = [await _durable(place.path, wire)]
        took = []
        for _ in range(_COMMITS):
            began = time.monotonic()
            await wire.query(sql.SQL("SELECT pg_catalog.pg_logical_emit_message(true, 'tocsin doctor', '')"))
            took.append(time.monotonic() - began)
    fix = "put the database nearer, on a faster disk, or without a slow synchronous standby"
    return [*found, slowness(Report(place.path, "commit"), median(took), max(took), fix)]


async def _durable(path: str, wire: Wire) -> Finding:
    names = sql.SQL(", ").join(map(sql.Literal, _UNSAFE))
    rows = await wire.query(
        sql.SQL("SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({}) AND setting = 'off'").format(names)
    )
    off = [str(name) for name, _ in rows]
    report = Report(path, "durability")
    if not off:
        return report.ok("commits are on disk when they return")
    return report.error(f"{', '.join(off)} is off: {_UNSAFE[off[0]]}", f"set {', '.join(off)} to on")


def slowness(report: Report, usual: float, longest: float, fix: str) -> Finding:
    """Judge how long something takes that each batch of a source waits for."""
    words = f"takes {_milliseconds(usual)}, at most {_milliseconds(longest)}"
    if usual < SLOW_COMMIT:
        return report.ok(words)
    return report.warning(f"{words}: one alert gets through at most {1 / usual:.0f} batches a second", fix)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.{0 if seconds >= 0.01 else 2}f} ms"
