"""A configuration of query-exporter (5.x; also the keys of older ones) as one of Tocsin."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from tocsin.init import others, parameters, schedule
from tocsin.init.others import Section
from tocsin.init.translation import Gauge, Notes, Server, document, gauge_name, one_line, server_of, session_settings
from tocsin.settings import duration_text

_TITLE = "Translated from a configuration of query-exporter. docs/migrate-from-query-exporter.md has what differs."
_SCRAPE = 15.0
_GENERAL = (
    "a series ends with its row; there it stays with its last value, or for `expiration`",
    "a NULL value is NaN, there it is 0; a NULL label is left out, there it is None; true and false are t and f",
    "of rows with the same labels, also of several parameters, the largest value is shown, there the last",
    "a failing query withdraws its series after stale_after, and /readyz names it; there the last values stay",
)


class _Database(Section):
    dsn: str | dict[str, Any]
    labels: dict[str, str] = Field(default_factory=dict)
    pool: dict[str, Any] = Field(default_factory=dict, alias="connection-pool")
    connect_sql: list[str] = Field(default_factory=list, alias="connect-sql")


class _Metric(Section):
    type: str
    description: str = ""
    labels: list[str] = Field(default_factory=list)
    expiration: Any = None
    increment: bool = False
    buckets: Any = None
    states: Any = None


class _Query(Section):
    databases: list[str]
    metrics: list[str]
    sql: str
    interval: Any = None
    schedule: str | None = None
    timeout: float | None = None
    parameters: Any = None

    @field_validator("parameters")
    @classmethod
    def _are_sets(cls, given: Any) -> Any:
        if not parameters.valid(given):
            raise PydanticCustomError("parameters", "Input should be a list of mappings, or a mapping of such lists")
        return given


class _File(Section):
    databases: dict[str, _Database]
    metrics: dict[str, _Metric]
    queries: dict[str, _Query]
    builtin: Any = Field(default=None, alias="builtin-metrics")


def translated(file: str) -> tuple[str, Notes]:
    """Return the configuration, and what is not translated or differs. Raises TocsinError."""
    found = others.validated(_File, _dashed(others.read(file)), file)
    notes = Notes()
    others.unknown_keys(found, "", notes)
    gauges = list(_gauges(found, notes))
    for text in _GENERAL:
        notes.differ(text)
    return document(gauges, notes, _TITLE, _SCRAPE), notes


def _dashed(data: Any) -> Any:
    """Keys as 5.x writes them: until 3.x they had underscores."""
    if not isinstance(data, dict) or not isinstance(data.get("databases"), dict):
        return data
    databases = {
        name: {_OLD_KEYS.get(key, key): value for key, value in one.items()} if isinstance(one, dict) else one
        for name, one in data["databases"].items()
    }
    return {**data, "databases": databases}


_OLD_KEYS = {"connect_sql": "connect-sql", "connection_pool": "connection-pool"}


def _gauges(found: _File, notes: Notes) -> Iterator[Gauge]:
    servers = {name: _server(name, one, notes) for name, one in found.databases.items()}
    for name, query in found.queries.items():
        metrics = {one: found.metrics[one] for one in query.metrics if one in found.metrics}
        for one in query.metrics:
            if one not in metrics:
                notes.lose(f"the metric {one} of the query {name}: it is not under `metrics`")
        kept_metrics = _kept(metrics, notes)
        interval = _interval(name, query, notes) if kept_metrics else None
        sql = parameters.query(query.sql, parameters.sets(query.parameters))
        for metric, kept in kept_metrics.items():
            for database in query.databases:
                server = servers.get(database)
                if server is None:
                    notes.lose(f"the query {name} on the database {database}")
                    continue
                yield Gauge(
                    database=database,
                    server=server,
                    interval=interval,
                    timeout=query.timeout,
                    name=name,
                    metric=gauge_name(_series_name(metric, kept), notes),
                    help=kept.description,
                    query=sql,
                    labels=tuple(kept.labels),
                    static={"database": database, **found.databases[database].labels},
                    value=metric,
                )


def _series_name(metric: str, of: _Metric) -> str:
    return f"{metric.removesuffix('_total')}_total" if of.type == "counter" else metric


def _kept(metrics: Mapping[str, _Metric], notes: Notes) -> dict[str, _Metric]:
    """The metrics that can be gauges."""
    kept = {}
    for name, metric in metrics.items():
        if metric.type in ("histogram", "summary"):
            notes.lose(f"the {metric.type} {name}: let the database count, in a query with one row for each bucket")
        elif metric.type == "enum":
            notes.lose(f"the enum {name}: select the state as a column, and name it in `labels`")
        elif metric.increment:
            notes.lose(f"the counter {name} with increment: Tocsin shows what the query returns; let it return the sum")
        else:
            kept[name] = metric
            if metric.type == "counter":
                notes.differ(f"the counter {name} is a gauge; rate() works on it as before")
    return kept


def _interval(name: str, query: _Query, notes: Notes) -> float | None:
    if query.schedule is None:
        if query.interval is None:
            notes.differ(f"the query {name} ran at each scrape; here at each `interval` of its source")
            return None
        seconds = schedule.simple_seconds(query.interval)
        if seconds is None:
            notes.lose(f"the interval of the query {name}: {one_line(str(query.interval))}")
        return seconds
    seconds = schedule.nearest_interval(query.schedule)
    text = duration_text(seconds)
    notes.lose(f"the schedule {query.schedule!r} of the query {name}: it is read every {text}, and at the start")
    days = schedule.weekdays(query.schedule, monday=0)
    if days:
        before = schedule.weekdays(query.schedule, monday=1)
        notes.differ(
            f"the weekday of {query.schedule!r} ({name}): query-exporter 5 counts from Monday = 0 and runs it on {days}"
            f"; up to 4.x, and in cron, it is {before}"
        )
    return seconds


def _server(name: str, database: _Database, notes: Notes) -> Server | None:
    variable = re.sub(r"\W", "_", name, flags=re.ASCII).upper() + "_PASSWORD"
    server = _reached(name, database.dsn, variable, notes)
    if server is None:
        return None
    settings = session_settings(database.connect_sql, f"the database {name}", notes)
    size = database.pool.get("size", 1)
    overflow = database.pool.get("max-overflow", database.pool.get("max_overflow", 0))
    connections = (
        size + overflow if isinstance(size, int) and isinstance(overflow, int) and size + overflow > 1 else None
    )
    return Server(settings=server.settings, options={**server.options, **settings}, connections=connections)


def _reached(name: str, dsn: str | dict[str, Any], variable: str, notes: Notes) -> Server | None:
    if isinstance(dsn, str) and dsn.startswith(others.FILE):
        notes.differ(f"{dsn.removeprefix(others.FILE)}: write it as postgresql://user:password@host/database")
        return Server(settings={"dsn_file": dsn.removeprefix(others.FILE)})
    if isinstance(dsn, str):
        server = server_of(dsn, variable, notes)
        if server is None:
            notes.lose(f"the database {name}: it is {dsn.partition(':')[0]}, not PostgreSQL")
        return server
    if not str(dsn.get("dialect", "")).startswith("postgres"):
        notes.lose(f"the database {name}: it is {dsn.get('dialect')}, not PostgreSQL")
        return None
    settings = {key: str(dsn[key]) for key in ("host", "port", "user") if dsn.get(key) is not None}
    settings.setdefault("host", "127.0.0.1")
    settings.setdefault("user", "postgres")
    password = str(dsn.get("password") or "")
    if password.startswith(others.FILE):
        settings["password_file"] = password.removeprefix(others.FILE)
    elif password.startswith("${"):
        settings["password"] = password
    elif password:
        settings["password"] = "${" + variable + "}"
        notes.lose(f"the password of the database {name}: set the variable {variable}")
    if dsn.get("database"):
        settings["database"] = str(dsn["database"])
    for key, value in (dsn.get("options") or {}).items():
        if key in ("sslmode", "sslrootcert", "sslcert", "sslkey"):
            settings[key] = str(value)
        else:
            notes.lose(f"the option {key} of the database {name}; `options` has session settings")
    return Server(settings=settings)
