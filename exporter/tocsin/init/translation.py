"""Gauges of another tool's configuration, and the configuration that has the same ones here. Pure."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from tocsin.init.document import scalar
from tocsin.settings import duration_text

_TAKEN_END = re.compile(r"_(sum|count|bucket)$")
_TAKEN_BEGIN = re.compile(r"^(?=tocsin_|process_|python_)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SET = re.compile(r"\s*SET\s+(?:SESSION\s+)?([A-Za-z_.]+)\s*(?:=|\s+TO\s+)\s*(.+?)\s*;?\s*", re.IGNORECASE)
_POSTGRES = re.compile(r"(postgres|postgresql)(\+\w+)?|pgx")
_URL = re.compile(
    r"(?P<scheme>[\w+.-]+)://(?:(?P<user>[^:@/]*)(?::(?P<password>[^/]*))?@)?"
    r"(?P<address>(?P<host>\[[^\]]*\]|[^:/?]*)(?::(?P<port>[^/?]*))?)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_SSL = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_PROGRESS, _STALE, _TIMEOUT = 60.0, 300.0, 30.0
"""Defaults of a PostgreSQL source."""
_WIDTH = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How to reach a database."""

    settings: Mapping[str, str]
    """Of a source. `${NAME}` is a variable of the environment."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Session settings."""
    connections: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One gauge of one query on one database."""

    database: str
    """Its name, for that of the source."""
    server: Server
    interval: float | None
    """Seconds between two readings; None: the tool has no interval of its own."""
    timeout: float | None = None
    name: str
    """Of the query."""
    metric: str
    help: str
    query: str
    labels: tuple[str, ...]
    """Columns that become labels under their own names."""
    static: Mapping[str, str]
    value: str | None


@dataclass(slots=True)
class Notes:
    """What is not translated, or differs, each once."""

    lost: list[str] = field(default_factory=list)
    """What is not translated."""
    different: list[str] = field(default_factory=list)
    """What behaves otherwise."""

    def lose(self, text: str) -> None:
        if text not in self.lost:
            self.lost.append(text)

    def differ(self, text: str) -> None:
        if text not in self.different:
            self.different.append(text)


def gauge_name(name: str, notes: Notes) -> str:
    """The metric's name here: a gauge must not have an end that belongs to counters, or Tocsin's own beginning."""
    new = _TAKEN_END.sub(r"_\1_now", _TAKEN_BEGIN.sub("of_", name.removesuffix("_total")))
    new = re.sub(r"[^A-Za-z0-9_:]", "_", new)
    if new != name:
        notes.differ(f"the metric {name} is {new} here: {_why_renamed(name)}")
    return new


def _why_renamed(name: str) -> str:
    if name.endswith(("_total", "_sum", "_count", "_bucket")):
        return "such an end belongs to counters and histograms, and this is a gauge"
    return "such a beginning is Tocsin's own" if _TAKEN_BEGIN.match(name) else "as a metric's name is written"


def server_of(url: str, variable: str, notes: Notes) -> Server | None:
    """Read the URL of a database. `variable`: for a password in it, which is not copied. None where it is no
    PostgreSQL."""
    if re.fullmatch(_VARIABLE, url):
        notes.differ(f"{url}: write it as postgresql://user:password@host/database, without a driver such as +psycopg")
        return Server(settings={"dsn": url})
    parts = url_parts(url)
    if not _POSTGRES.fullmatch(parts.get("scheme", "")):
        return None
    query = dict(parse_qsl(parts.get("query", "")))
    settings = {
        "host": query.get("host") or parts.get("host") or "127.0.0.1",
        "port": query.get("port") or parts.get("port") or "5432",
        "user": _decoded(parts.get("user") or query.get("user", "")) or "postgres",
    }
    if settings["port"] == "6875":
        notes.differ(f"{settings['host']}:6875 may be Materialize: `type: materialize` without `interval` is quicker")
    password = parts.get("password") or query.get("password")
    if password:
        settings["password"] = password if re.fullmatch(_VARIABLE, password) else "${" + variable + "}"
        if settings["password"] != password:
            notes.lose(f"the password of {settings['user']}@{settings['host']}: set the variable {variable}")
    settings["database"] = _decoded(parts.get("path", "")) or settings["user"]
    settings |= {name: query[name] for name in _SSL if name in query}
    for name in sorted(query.keys() - {*_SSL, "host", "port", "user", "password"}):
        notes.lose(f"the parameter {name} of {settings['host']}/{settings['database']}; `options` has session settings")
    return Server(settings=settings)


def url_parts(url: str) -> dict[str, str]:
    """The parts of a URL that are there, as they are written. Any of them may be a variable `${NAME}`."""
    match = _URL.fullmatch(url)
    return {name: text.strip("[]") for name, text in match.groupdict().items() if text} if match else {}


def _decoded(text: str) -> str:
    return text if "${" in text else unquote(text)


def session_settings(statements: Iterable[str], of: str, notes: Notes) -> dict[str, str]:
    """The settings that SQL at the beginning of a session makes."""
    found: dict[str, str] = {}
    for statement in statements:
        match = _SET.fullmatch(statement)
        if match is None:
            notes.lose(f"SQL at the beginning of a session of {of}: {one_line(statement)}")
        else:
            found[match[1]] = match[2].strip("'")
    return found


def one_line(text: str) -> str:
    """Text in one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def document(gauges: Sequence[Gauge], notes: Notes, title: str, scrape: float) -> str:
    """Write the configuration; empty without gauges. `scrape`: seconds between two readings where the tool reads at
    each scrape."""
    if not gauges:
        return ""
    told_apart = _told_apart(gauges, notes)
    if max(Counter((gauge.database, gauge.name) for gauge in gauges).values(), default=0) > 1:
        notes.differ("a query with several metrics is an alert for each, and is read once for each")
    sources: dict[str, Gauge] = {}
    lines: list[str] = []
    names: dict[str, int] = {}
    for gauge in told_apart:
        source = _source_name(gauge, sources)
        sources.setdefault(source, gauge)
        lines += _alert(_alert_name(gauge, names), gauge, source)
    head = [f"# {title}"]
    for heading, texts in (("Not translated:", notes.lost), ("Different here:", notes.different)):
        if texts:
            head += [f"# {heading}", *(line for text in texts for line in _wrapped(text))]
    made = [line for name, gauge in sources.items() for line in _source(name, gauge, scrape)]
    return "\n".join([*head, "sources:", *made, "alerts:", *lines]) + "\n"


def _wrapped(text: str) -> Iterator[str]:
    line = "#   -"
    for word in text.split():
        if len(line) + len(word) >= _WIDTH:
            yield line
            line = "#    "
        line += f" {word}"
    yield line


def _told_apart(gauges: Sequence[Gauge], notes: Notes) -> list[Gauge]:
    """Gauges of one metric have labels that tell them apart, and one help text."""
    series = Counter((gauge.metric, _static(gauge)) for gauge in gauges)
    twice = {metric for (metric, _), count in series.items() if count > 1}
    for metric in sorted(twice):
        notes.differ(f"several queries set {metric} on one database: here they have the label `query`")
    helps: dict[str, str] = {}
    result = []
    for gauge in gauges:
        static = {**gauge.static, "query": gauge.name} if gauge.metric in twice else gauge.static
        result.append(replace(gauge, static=static, help=helps.setdefault(gauge.metric, gauge.help)))
    return result


def _static(gauge: Gauge) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(gauge.static.items()))


def _alert_name(gauge: Gauge, names: dict[str, int]) -> str:
    name = gauge.metric.replace(":", "_")[:90]
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}_{names[name]}"


def _source_name(gauge: Gauge, sources: Mapping[str, Gauge]) -> str:
    base = re.sub(r"[^A-Za-z0-9_-]", "_", gauge.database)[:80] or "database"
    base = base if re.match(r"[A-Za-z0-9_]", base) else f"of{base}"
    interval = f"_{duration_text(gauge.interval)}" if gauge.interval else ""
    for name in (base, base + interval, *(f"{base}{interval}_{number}" for number in range(2, 1000))):
        other = sources.get(name)
        if other is None or (other.server, other.interval, other.timeout) == (
            gauge.server,
            gauge.interval,
            gauge.timeout,
        ):
            return name
    raise AssertionError(gauge.database)


def _source(name: str, gauge: Gauge, scrape: float) -> Iterator[str]:
    yield f"  {name}:"
    yield "    type: postgres"
    for key, text in gauge.server.settings.items():
        yield f"    {key}: {_with_variables(text)}"
    interval = gauge.interval or scrape
    comment = "" if gauge.interval else "  # that of your scrapes"
    yield f"    interval: {duration_text(interval)}{comment}"
    timeout = gauge.timeout or _TIMEOUT
    if gauge.timeout:
        yield f"    statement_timeout: {duration_text(timeout)}"
    if interval + timeout >= _PROGRESS:
        progress = 2 * interval + timeout
        yield f"    progress_timeout: {duration_text(progress)}"
        yield f"    stale_after: {duration_text(max(_STALE, progress))}"
    if gauge.server.connections:
        yield f"    max_connections: {gauge.server.connections}"
    if gauge.server.options:
        yield f"    options: {_mapping(gauge.server.options)}"


def _alert(name: str, gauge: Gauge, source: str) -> Iterator[str]:
    yield f"  {name}:"
    yield f"    source: {scalar(source)}"
    yield from _query(gauge.query)
    if gauge.labels:
        yield f"    labels: [{', '.join(map(scalar, gauge.labels))}]"
    if gauge.static:
        yield f"    static_labels: {_mapping(gauge.static)}"
    if gauge.value is not None:
        yield f"    value: {scalar(gauge.value)}"
    if gauge.metric != name:
        yield f"    metric: {scalar(gauge.metric)}"
    if gauge.help:
        yield f"    help: {scalar(gauge.help)}"


def _query(query: str) -> Iterator[str]:
    lines = [line.rstrip() for line in query.replace("${", "$${").expandtabs().strip("\n").splitlines()]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    if any(not char.isprintable() for line in lines for char in line) or not lines:
        yield f"    query: {scalar(query)}"
        return
    yield "    query: |"
    for line in lines:
        yield f"      {line[margin:]}" if line else ""


def _mapping(texts: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{scalar(name)}: {_quoted(text)}" for name, text in texts.items()) + "}"


def _with_variables(text: str) -> str:
    """Text in which `${NAME}` is a variable."""
    plain = _VARIABLE.sub("", text)
    return json.dumps(text, ensure_ascii=False) if plain != text and plain else text if plain != text else scalar(text)


def _quoted(text: str) -> str:
    """Text that stays text in YAML, also where it is a number."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False) if text[:1].isdigit() else scalar(text)
