"""A configuration of justwatch's sql_exporter as one of Tocsin."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pydantic import Field

from tocsin.init import others, schedule
from tocsin.init.others import Section
from tocsin.init.translation import Gauge, Notes, Server, document, gauge_name, server_of, session_settings, url_parts
from tocsin.settings import duration_text

_TITLE = (
    "Translated from a configuration of justwatch's sql_exporter. docs/migrate-from-sql-exporter.md has what differs."
)
_DEFAULT_INTERVAL = 300.0
_LABELS = ("driver", "host", "database", "user")
_GENERAL = (
    "a series ends with its row; there an empty or failing result keeps the last rows, unless allow_zero_rows is set",
    "of rows with the same labels the largest value is shown, there the whole scrape failed with status 500",
    "a failing query withdraws its series after stale_after, and /readyz names it",
    "sql_exporter_last_scrape_failed is tocsin_alert_up and tocsin_alert_source_errors_total",
    "a NULL value is NaN, there the row is left out; a NULL label is left out, there it is empty",
)


class _Query(Section):
    name: str
    help: str = ""
    labels: list[str] = Field(default_factory=list)
    values: list[str] = Field(default_factory=list)
    timestamp: str = ""
    query: str = ""
    query_ref: str = ""
    allow_zero_rows: bool = False


class _Job(Section):
    name: str
    interval: Any = None
    cron_schedule: str = ""
    keepalive: bool = False
    connections: list[str] = Field(default_factory=list)
    startup_sql: list[str] = Field(default_factory=list)
    queries: list[_Query] = Field(default_factory=list)
    iterator: Any = None


class _File(Section):
    jobs: list[_Job]
    queries: dict[str, str] = Field(default_factory=dict)
    configuration: Any = None


def translated(data: object, file: str) -> tuple[str, Notes]:
    """Return the configuration, and what is not translated or differs. Raises TocsinError."""
    found = others.validated(_File, data, file)
    notes = Notes()
    others.unknown_keys(found, "", notes)
    gauges = [gauge for job in found.jobs for gauge in _of_job(job, found.queries, notes)]
    for text in _GENERAL:
        notes.differ(text)
    return document(gauges, notes, _TITLE, _DEFAULT_INTERVAL), notes


def _of_job(job: _Job, queries: dict[str, str], notes: Notes) -> Iterator[Gauge]:
    if job.iterator:
        notes.lose(f"the iterator of the job {job.name}: let one query join what it iterates over")
        return
    interval = schedule.go_duration(job.interval) if job.interval is not None else None
    if job.cron_schedule:
        interval = schedule.nearest_interval(job.cron_schedule)
        every = duration_text(interval)
        notes.lose(f"cron_schedule {job.cron_schedule!r} of the job {job.name}: it is read every {every}")
    options = session_settings(job.startup_sql, f"the job {job.name}", notes)
    for number, connection in enumerate(job.connections):
        url = re.sub(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", lambda found: "${" + found[1].upper() + "}", connection)
        name = job.name if len(job.connections) == 1 else f"{job.name}_{number + 1}"
        server = server_of(url, re.sub(r"\W", "_", name, flags=re.ASCII).upper() + "_PASSWORD", notes)
        whole_url = url.startswith("${")
        if server is None or not (whole_url or url_parts(url).get("scheme") in ("postgres", "postgresql")):
            notes.lose(f"the connection {number + 1} of the job {job.name}: it is {url.partition(':')[0]}")
            continue
        labels = {} if whole_url else _labels(url)
        if missing := [name for name in _LABELS if name not in labels]:
            notes.lose(f"labels of the job {job.name} that are in variables: {', '.join(missing)}; add static_labels")
        static = {"sql_job": job.name, **labels}
        whole = Server(settings=server.settings, options=options)
        for query in job.queries:
            yield from _of_query(query, queries, name, whole, interval, static, notes)


def _labels(url: str) -> dict[str, str]:
    """The labels that each series has of its connection."""
    parts = url_parts(url)
    texts = (parts.get(name, "") for name in ("scheme", "address", "path", "user"))
    found = dict(zip(_LABELS, texts, strict=True))
    return {name: unquote(text) for name, text in found.items() if text and "${" not in text}


def _of_query(
    query: _Query,
    queries: dict[str, str],
    database: str,
    server: Server,
    interval: float | None,
    static: dict[str, str],
    notes: Notes,
) -> Iterator[Gauge]:
    sql = query.query or queries.get(query.query_ref, "")
    if not sql:
        notes.lose(f"the query {query.name}: {query.query_ref!r} is not under `queries`")
        return
    if query.timestamp:
        notes.lose(f"timestamp of {query.name}: a series has the time of the scrape")
    for value in query.values:
        labels = tuple(label for label in query.labels if label not in static and label != "col")
        for label in query.labels:
            if label not in labels:
                notes.lose(f"the label {label} of {query.name}: the connection has one of that name")
        yield Gauge(
            database=database,
            server=server,
            interval=interval,
            name=query.name,
            metric=gauge_name(re.sub(r"[^a-zA-Z0-9_:]", "", f"sql_{query.name}"), notes),
            help=query.help,
            query=sql,
            labels=labels,
            static={**static, "col": value},
            value=value,
        )
