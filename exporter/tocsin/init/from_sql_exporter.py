"""A configuration of sql_exporter as one of Tocsin: burningalchemist's (0.24), or justwatch's."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tocsin.errors import TocsinError
from tocsin.init import others, schedule
from tocsin.init.justwatch import translated as of_justwatch
from tocsin.init.others import Section
from tocsin.init.translation import Gauge, Notes, Server, document, gauge_name, server_of
from tocsin.settings import seconds

_TITLE = "Translated from a configuration of sql_exporter. docs/migrate-from-sql-exporter.md has what differs."
_SCRAPE = 15.0
_SCRAPE_TIMEOUT = 10.0
_GENERAL = (
    "queries run at each `interval` of their source, however many scrapes there are; there at each scrape",
    "a failing query withdraws its series after stale_after, and /readyz names it; such scrapes were 200",
    "with min_interval, an error was kept as long as a result; here the next reading asks again",
    "a NULL value is NaN, there it has no series; a NULL label is left out, there it is empty",
    "of rows with the same labels the largest value is shown, there the first",
    "`up` and scrape_errors_total are tocsin_alert_up and tocsin_alert_source_errors_total",
)


class _Query(Section):
    query_name: str
    query: str
    no_prepared_statement: bool = False


class _Metric(Section):
    metric_name: str
    type: str
    help: str = ""
    key_labels: list[str] = Field(default_factory=list)
    static_labels: dict[str, str] = Field(default_factory=dict)
    value_label: str = ""
    values: list[str] = Field(default_factory=list)
    static_value: float | None = None
    timestamp_value: str = ""
    query: str = ""
    query_ref: str = ""
    no_prepared_statement: bool = False


class _Collector(Section):
    collector_name: str
    min_interval: Any = None
    metrics: list[_Metric]
    queries: list[_Query] = Field(default_factory=list)


class _Target(Section):
    name: str = ""
    data_source_name: str
    collectors: list[str]
    enable_ping: bool = True


class _Static(Section):
    targets: dict[str, str]
    labels: dict[str, str] = Field(default_factory=dict)


class _Job(Section):
    job_name: str
    collectors: list[str]
    static_configs: list[_Static]
    enable_ping: bool = True


class _Global(Section):
    scrape_timeout: Any = None
    scrape_timeout_offset: Any = None
    min_interval: Any = None
    max_connections: int = 3
    max_idle_connections: Any = None
    max_connection_lifetime: Any = None


class _File(Section):
    settings: _Global = Field(default_factory=_Global, alias="global")
    target: _Target | None = None
    jobs: list[_Job] = Field(default_factory=list)
    collectors: list[_Collector] = Field(default_factory=list)
    collector_files: list[str] = Field(default_factory=list)


def translated(file: str) -> tuple[str, Notes]:
    """Return the configuration, and what is not translated or differs. Raises TocsinError."""
    data = others.read(file)
    jobs = data.get("jobs") if isinstance(data, dict) else None
    if isinstance(jobs, list) and any(isinstance(job, dict) and "connections" in job for job in jobs):
        return of_justwatch(data, file)
    found = others.validated(_File, data, file)
    if found.target is None and not found.jobs:
        raise TocsinError(f"{file}: has neither `target` nor `jobs`; name the main file of sql_exporter")
    notes = Notes()
    others.unknown_keys(found, "", notes)
    collectors = {one.collector_name: one for one in [*found.collectors, *_of_files(found, file, notes)]}
    gauges = [gauge for place in _places(found, notes) for gauge in _of_place(place, collectors, found.settings, notes)]
    for text in _GENERAL:
        notes.differ(text)
    return document(gauges, notes, _TITLE, _SCRAPE), notes


def _of_files(found: _File, file: str, notes: Notes) -> Iterator[_Collector]:
    for pattern in found.collector_files:
        base = Path(pattern).parent if Path(pattern).is_absolute() else Path(file).parent
        names = sorted(base.glob(Path(pattern).name if Path(pattern).is_absolute() else pattern))
        if not names:
            notes.lose(f"collector_files {pattern}: no file matches")
        for name in names:
            one = others.validated(_Collector, others.read(str(name)), str(name))
            others.unknown_keys(one, name.name, notes)
            yield one


class _Place:
    """A target with the labels of its series."""

    def __init__(self, name: str, dsn: str, collectors: list[str], labels: Mapping[str, str]) -> None:
        self.name, self.dsn, self.collectors, self.labels = name, dsn, collectors, labels


def _places(found: _File, notes: Notes) -> Iterator[_Place]:
    if found.target is not None:
        target = found.target
        labels = {"target": target.name} if target.name else {}
        yield _Place(target.name or "database", target.data_source_name, target.collectors, labels)
    for job in found.jobs:
        for static in job.static_configs:
            for name, dsn in static.targets.items():
                yield _Place(name, dsn, job.collectors, {"job": job.job_name, "target": name, **static.labels})
    if found.jobs:
        notes.differ("the label `job` is that of the file only with honor_labels: true in the scrape, as there")


def _of_place(place: _Place, collectors: Mapping[str, _Collector], settings: _Global, notes: Notes) -> Iterator[Gauge]:
    variable = re.sub(r"\W", "_", place.name, flags=re.ASCII).upper() + "_PASSWORD"
    dsn = re.sub(r"\$([A-Za-z_]\w*)", r"${\1}", place.dsn)
    server = server_of(dsn, variable, notes)
    if server is None:
        notes.lose(f"the target {place.name}: it is {dsn.partition(':')[0]}, not PostgreSQL")
        return
    limited = Server(settings=server.settings, connections=max(settings.max_connections, 2))
    for name in place.collectors:
        matching = [one for key, one in collectors.items() if key == name or re.fullmatch(_pattern(name), key)]
        if not matching:
            notes.lose(f"the collector {name} of {place.name}: it is not in the file")
        for collector in matching:
            yield from _of_collector(collector, place, limited, settings, notes)


def _pattern(name: str) -> str:
    return "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in name)


def _of_collector(
    collector: _Collector, place: _Place, server: Server, settings: _Global, notes: Notes
) -> Iterator[Gauge]:
    queries = {one.query_name: one.query for one in collector.queries}
    least = collector.min_interval if collector.min_interval is not None else settings.min_interval
    for metric in collector.metrics:
        query = metric.query or queries.get(metric.query_ref, "")
        if not query:
            notes.lose(f"the metric {metric.metric_name}: its query {metric.query_ref!r} is not in the collector")
            continue
        if metric.timestamp_value:
            notes.lose(f"timestamp_value of {metric.metric_name}: a series has the time of the scrape")
        if metric.type.lower() == "counter":
            notes.differ(f"the counter {metric.metric_name} is a gauge; rate() works on it as before")
        for value, static, sql in _values(metric, query):
            yield Gauge(
                database=place.name,
                server=server,
                interval=_duration(least) or None,
                timeout=_duration(settings.scrape_timeout) or _SCRAPE_TIMEOUT,
                name=metric.query_ref or metric.metric_name,
                metric=gauge_name(metric.metric_name, notes),
                help=metric.help,
                query=sql,
                labels=tuple(metric.key_labels),
                static={**place.labels, **metric.static_labels, **static},
                value=value,
            )


def _values(metric: _Metric, query: str) -> Iterator[tuple[str | None, dict[str, str], str]]:
    """(value column, the labels that it adds, query) of each gauge of a metric."""
    if metric.static_value is not None:
        if metric.static_value == 1:
            yield None, {}, query
        else:
            whole = query.strip().rstrip(";")
            # The query is the user's own.
            yield "value", {}, f"SELECT found.*, {metric.static_value!r} AS value FROM (\n{whole}\n) AS found"  # noqa: S608
    for value in metric.values:
        yield value, {metric.value_label: value} if metric.value_label else {}, query


def _duration(text: Any) -> float:
    try:
        return seconds(str(text)) if text is not None else 0.0
    except ValueError:
        return schedule.go_duration(text) or 0.0
