"""Every kind of mistake in `tocsin.yaml`, and the words it is told in: `file:line: path: message`."""
# ruff: noqa: E501, ISC004 - a case of a table is one line, whatever it says

from pathlib import Path

import pytest

from tocsin.config import load
from tocsin.errors import ConfigError
from tocsin.registry import SOURCES

SOURCE = "sources: {db: {type: postgres, host: h, user: u}}\n"
CHANNEL = "channels: {out: {type: console}}\n"
KNOWN = ", ".join(SOURCES)
BEGIN = SOURCE + CHANNEL + "alerts:\n  late:\n    source: db\n    relation: v\n    notify: [out]\n"
"""Seven good lines; what a case adds begins in line 8, inside the alert `late`."""

WHOLE_FILE = [
    ("", "c.yaml: the file is empty"),
    ("# nothing but a comment\n", "c.yaml: the file is empty"),
    ("- a\n", "c.yaml: must be a mapping of ledger, web, log, sources, channels, alerts, alert_files, not a list"),
    ("a: [1\nb: 2\n", "c.yaml:2: not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"),
    (
        "web: {admin: ${ADMIN}}\n",
        "c.yaml:1: not YAML: while parsing a flow mapping, expected ',' or '}', but got '{'; "
        "within { } and [ ] put ${NAME} in quotes",
    ),
    ("a: \0\n", "c.yaml:1: not YAML: the character U+0000 is not allowed"),
    ("[" * 2000, "c.yaml: nested too deeply"),
    (BEGIN + "sources: {}\n", "c.yaml:8: sources: given twice; first in line 1"),
    (BEGIN + "    source: db\n", "c.yaml:8: alerts.late.source: given twice; first in line 5"),
    (BEGIN + "chanels: {}\n", "c.yaml:8: chanels: is not a known key; did you mean channels?"),
    (BEGIN + "? [a]\n: b\n", "c.yaml:8: a key must be plain text"),
    (BEGIN + "web: !!python/object {}\n", "c.yaml:8: web: the tag 'tag:yaml.org,2002:python/object' is not supported"),
    (BEGIN + "x-w: &w {x: *w}\n", "c.yaml:8: x-w.x: an alias that contains itself"),
    (BEGIN + "web: [1]\n", "c.yaml:8: web: must be a mapping, not a list"),
    (BEGIN + "sources_: 1\n", "c.yaml:8: sources_: is not a known key; did you mean sources?"),
    (SOURCE + CHANNEL, "c.yaml: there is nothing to watch; give alerts or alert_files"),
    (SOURCE + CHANNEL + "alerts: [a]\n", "c.yaml:3: alerts: must be a mapping of names, not a list"),
    (BEGIN + "alert_files: more.yaml\n", "c.yaml:8: alert_files: must be a list of file names or patterns"),
    (BEGIN + "alert_files: [more.yaml]\n", "c.yaml:8: alert_files[0]: no file matches 'more.yaml'"),
]

EXPANSION = [
    (BEGIN + "    value: ${NONE}\n", "c.yaml:8: alerts.late.value: the environment variable NONE is not set"),
    (
        BEGIN + "    annotations:\n      a: |\n        one\n        ${NONE}\n",
        "c.yaml:11: alerts.late.annotations.a: the environment variable NONE is not set",
    ),
    (
        BEGIN + "    value: ${a b}\n",
        "c.yaml:8: alerts.late.value: ${ begins a variable, as in ${NAME} or ${NAME:-default}; write $${ for a plain ${",
    ),
    # What came from the environment is not repeated: it may be a secret at the wrong place.
    (BEGIN + "    for: ${WORD}\n", "c.yaml:8: alerts.late.for: ${WORD} is not a duration; write for example 500ms, 30s, 5m or 1h30m"),
    (BEGIN + "log: {level: '${WORD}'}\n", "c.yaml:8: log.level: must be debug, info, warning or error, not ${WORD}"),
    (BEGIN.replace("postgres", '"${WORD}"'), f"c.yaml:1: sources.db.type: there is no type ${{WORD}}; known: {', '.join(sorted(SOURCES))}"),
]  # fmt: skip

SECTIONS = [
    (BEGIN + "web: {listen: 8627}\n", "c.yaml:8: web.listen: write an address and a port, as in 127.0.0.1:8627"),
    (BEGIN + "web: {listen: '::1:80'}\n", "c.yaml:8: web.listen: write an IPv6 address in brackets, as in [::1]:8627"),
    (BEGIN + "web: {listen: '[x]:80'}\n", "c.yaml:8: web.listen: [x] is no IPv6 address"),
    (BEGIN + "web: {listen: 'h:65536'}\n", "c.yaml:8: web.listen: write an address and a port, as in 127.0.0.1:8627"),
    (BEGIN + "web: {admin: maybe}\n", "c.yaml:8: web.admin: must be true or false, not text"),
    (BEGIN + "log: {level: loud}\n", "c.yaml:8: log.level: must be debug, info, warning or error, not 'loud'"),
    (BEGIN + "log: {output: ''}\n", "c.yaml:8: log.output: must not be empty"),
    (BEGIN + "ledger: {path:}\n", "c.yaml:8: ledger.path: must be text, not empty"),
    (
        BEGIN + "ledger: {history: 7}\n",
        "c.yaml:8: ledger.history: 7 is not a duration; write for example 500ms, 30s, 5m or 1h30m",
    ),
    (
        BEGIN + "ledger: {history: 7.5}\n",
        "c.yaml:8: ledger.history: '7.5' is not a duration; write for example 500ms, 30s, 5m or 1h30m",
    ),
    (BEGIN + "ledger: {paht: x}\n", "c.yaml:8: ledger.paht: is not a known key; did you mean path?"),
]

BAD_SOURCES = [
    ("type: postgrs, host: h", "sources.db.type: there is no type 'postgrs'; did you mean postgres?"),
    ("host: h, user: u", f"sources.db.type: is required: one of {KNOWN}"),
    ("type: 5", f"sources.db.type: must be one of {KNOWN}, not a number"),
    ("type: postgres, user: u", "sources.db: set host, or dsn"),
    ("type: postgres", "sources.db: set host and user, or dsn"),
    ("type: postgres, dsn: 'host=h', host: h", "sources.db: set dsn, or host, not both"),
    (
        "type: postgres, dsn: 'hunter2 hunter3'",
        "sources.db.dsn: not a connection string; write postgresql://user:password@host:port/database",
    ),
    ("type: postgres, host: h, user: u, prot: 1", "sources.db.prot: is not a known key; did you mean port?"),
    ("type: postgres, host: h, user: u, port: 0", "sources.db.port: must be at least 1"),
    ("type: postgres, host: h, user: u, port: 65536", "sources.db.port: must be at most 65535"),
    ("type: postgres, host: h, user: u, port: x", "sources.db.port: must be a whole number, not text"),
    ("type: postgres, host: h, user: u, port: 1.5", "sources.db.port: must be a whole number, not a decimal number"),
    ("type: postgres, host: [h], user: u", "sources.db.host: must be text, not a list"),
    ("type: postgres, host: '', user: u", "sources.db.host: must not be empty"),
    (
        "type: postgres, host: h, user: u, sslmode: on",
        "sources.db.sslmode: must be disable, allow, prefer, require, verify-ca or verify-full, not 'on'",
    ),
    (
        "type: postgres, host: h, user: u, password_file: nowhere/pw",
        "sources.db.password_file: cannot read nowhere/pw: No such file or directory",
    ),
    (
        "type: postgres, host: h, user: u, password: x, password_file: y",
        "sources.db: set password or password_file, not both",
    ),
    ("type: postgres, host: h, user: u, options: {a b: c}", "sources.db.options: 'a b' is not the name of a session setting"),
    ("type: postgres, host: h, user: u, connect_timeout: 0", "sources.db.connect_timeout: must be longer than 0"),
    (
        "type: postgres, host: h, user: u, backoff_initial: 1m, backoff_max: 1s",
        "sources.db: backoff_initial is longer than backoff_max",
    ),
    (
        "type: postgres, host: h, user: u, stale_after: 1s",
        "sources.db: stale_after is shorter than progress_timeout: series would be withdrawn while the source counts as up",
    ),
    (
        "type: postgres, host: h, user: u, interval: 1h",
        "sources.db: progress_timeout must be longer than interval and statement_timeout together",
    ),
    ("type: materialize, host: h, user: u, interval: 1s", "sources.db.interval: is not a known key"),
    (
        "type: materialize, host: h, user: u, isolation: none",
        "sources.db.isolation: must be serializable or strict serializable, not 'none'",
    ),
]  # fmt: skip

ALERTS = [
    ("    sorce: x\n", "c.yaml:8: alerts.late.sorce: is not a known key; did you mean source?"),
    ("    query: SELECT 1\n", "c.yaml:4: alerts.late: give either relation or query, not both"),
    ("    key: []\n", "c.yaml:8: alerts.late.key: must name a column; without it the label columns, or the whole row, identify a firing"),
    ("    key:\n    - a\n    - b\n    - a\n", "c.yaml:11: alerts.late.key[2]: a is listed twice"),
    ("    key: a\n", "c.yaml:8: alerts.late.key: must be a list, not text"),
    ("    key: [{}]\n", "c.yaml:8: alerts.late.key[0]: must be text, not a mapping"),
    ("    key: ['']\n", "c.yaml:8: alerts.late.key[0]: must not be empty"),
    ("    labels: 5\n", "c.yaml:8: alerts.late.labels: must be a list or a mapping, not a number"),
    ("    labels: {a: [x]}\n", "c.yaml:8: alerts.late.labels.a: must be text, not a list"),
    ("    labels: [a, a]\n", "c.yaml:8: alerts.late.labels[1]: a is listed twice"),
    ("    labels: [le]\n", "c.yaml:8: alerts.late.labels[0]: the label le is Prometheus's own; give labels as a mapping, as in {name: le}"),
    ("    labels: {__a: a}\n", "c.yaml:8: alerts.late.labels.__a: label names that begin with __ are Prometheus's own"),
    (
        "    labels: [Größe in m]\n",
        "c.yaml:8: alerts.late.labels[0]: 'Größe in m' is no label name (letters, digits and _); "
        "give labels as a mapping, as in {name: Größe in m}",
    ),
    ("    labels: [a]\n    static_labels: {a: x}\n", "c.yaml:9: alerts.late.static_labels.a: a is both a label and a static label"),
    ("    static_labels: {a-b: x}\n", "c.yaml:8: alerts.late.static_labels.a-b: 'a-b' is no label name (letters, digits and _)"),
    ("    static_labels: {a: ''}\n", "c.yaml:8: alerts.late.static_labels.a: must not be empty: to Prometheus an empty label is none"),
    ("    key: [a]\n    ignore: [b, a]\n", "c.yaml:9: alerts.late.ignore[1]: a is part of the key: when it changes, that is another firing"),
    (
        "    labels: [a]\n    ignore: [a]\n",
        "c.yaml:9: alerts.late.ignore[0]: a is part of the labels, which are the key here: when it changes, that is another firing",
    ),
    ("    ignore: [b, b]\n", "c.yaml:8: alerts.late.ignore[1]: b is listed twice"),
    ("    metric: a-b\n", "c.yaml:8: alerts.late.metric: 'a-b' is no metric name (letters, digits and _)"),
    ("    metric: tocsin_x\n", "c.yaml:8: alerts.late.metric: metric names that begin with tocsin_ are Tocsin's own"),
    ("    metric: process_x\n", "c.yaml:8: alerts.late.metric: metric names that begin with process_ are Tocsin's own"),
    ("    metric: a_total\n", "c.yaml:8: alerts.late.metric: a gauge's name must not end in _total, which belongs to counters and histograms"),
    ("    on_duplicate: mean\n", "c.yaml:8: alerts.late.on_duplicate: must be max, sum, min or first, not 'mean'"),
    ("    max_series: 0\n", "c.yaml:8: alerts.late.max_series: must be at least 1"),
    ("    for: soon\n", "c.yaml:8: alerts.late.for: 'soon' is not a duration; write for example 500ms, 30s, 5m or 1h30m"),
    ("    initial: loud\n", "c.yaml:8: alerts.late.initial: must be notify or silent, not 'loud'"),
    ("    annotations:\n      a: '{{ row.x'\n", "c.yaml:9: alerts.late.annotations.a: line 1: unexpected end of template, expected 'the end'."),
    ("    annotations: {a: '{{ rwo }}'}\n", "c.yaml:8: alerts.late.annotations.a: there is no variable 'rwo'; known are alert, at, fingerprint, id, labels, previous, row, started_at, status, value"),
    ("    annotations: [a]\n", "c.yaml:8: alerts.late.annotations: must be a mapping, not a list"),
    ("  a-b: {source: db, relation: v}\n", "c.yaml:8: alerts.a-b: 'a-b' is no metric name (letters, digits and _); give metric, or gauges: false"),
    ("  a b: {source: db, relation: v, metric: m}\n", "c.yaml:8: alerts.'a b': a name is made of at most 100 letters, digits, _ and -, and does not begin with -"),
    ("  x:\n", "c.yaml:8: alerts.x: must be a mapping, not empty"),
    ("  x: {relation: v}\n", "c.yaml:8: alerts.x.source: is required"),
    ("  x: {source: db}\n", "c.yaml:8: alerts.x: give either relation or query"),
    ("  x: {source: bd, relation: v}\n", "c.yaml:8: alerts.x.source: there is no source 'bd'; known: db"),
    (
        "  x: {source: db, relation: v; DROP TABLE v}\n",
        'c.yaml:8: alerts.x.relation: must be a name as SQL writes it: schema.name, with double quotes where needed: "My View"',
    ),
    ("  x: {source: db, query: ' '}\n", "c.yaml:8: alerts.x.query: must not be empty"),
    ("  x: {source: db, query: 'subscribe v'}\n", "c.yaml:8: alerts.x.query: write the SELECT alone; Tocsin subscribes to it"),
    ("  x: {source: db, relation: v, gauges: false}\n", "c.yaml:8: alerts.x: has neither gauges nor a channel to notify, so it does nothing"),
    ("  x: {source: db, relation: v, metric: late}\n", "c.yaml:8: alerts.x.metric: alert late has the metric late too: then static_labels must tell them apart"),
    (
        "  x: {source: db, relation: v, metric: late, labels: [b]}\n",
        "c.yaml:8: alerts.x.metric: alert late has the metric late too: then the names of all labels must be the same",
    ),
    (
        "    metric: m\n    help: one\n    static_labels: {s: a}\n"
        "  m: {source: db, relation: v, static_labels: {s: b}, help: two}\n",
        "c.yaml:11: alerts.m: alert late has the metric m too: then help must be the same",
    ),
]  # fmt: skip

ROUTES = [
    ("[nobody]", "alerts.x.notify[0]: there is no channel 'nobody'; known: out"),
    ("[ouut]", "alerts.x.notify[0]: there is no channel 'ouut'; did you mean out?"),
    ("[{channel: ouut}]", "alerts.x.notify[0].channel: there is no channel 'ouut'; did you mean out?"),
    ("[out, {channel: out}]", "alerts.x.notify[1].channel: out is notified twice"),
    ("[{chanel: out}]", "alerts.x.notify[0].channel: is required"),
    ("out", "alerts.x.notify: must be a list, not text"),
    ("[{channel: out, formt: json}]", "alerts.x.notify[0].formt: is not a known key; did you mean format?"),
    ("[{channel: out, format: jsn}]", "alerts.x.notify[0].format: must be text or json, not 'jsn'"),
]

CHANNELS = [
    ("channels: {out: {type: cnsole}}\n", "c.yaml:2: channels.out.type: there is no type 'cnsole'; did you mean console?"),
    ("channels: {out: {type: console, format: jsn}}\n", "c.yaml:2: channels.out.format: must be text or json, not 'jsn'"),
    ("channels: {out: {type: webhook}}\n", "c.yaml:2: channels.out.url: is required (or url_file)"),
    ("channels: {out: console}\n", "c.yaml:2: channels.out: must be a mapping with type, not text"),
    ("channels: [out]\n", "c.yaml:2: channels: must be a mapping of names, not a list"),
]  # fmt: skip


def problems(tmp_path: Path, text: str) -> list[str]:
    """What loading the text reports, with the directory cut off."""
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, {"WORD": "hunter2", "EMPTY": ""})
    assert caught.value.problems
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(("text", "expected"), [*WHOLE_FILE, *EXPANSION, *SECTIONS])
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize(("source", "expected"), BAD_SOURCES)
def test_a_mistake_in_a_source_is_told_with_its_place(tmp_path: Path, source: str, expected: str) -> None:
    text = BEGIN.replace(SOURCE, f"sources:\n  db: {{{source}}}\n")
    assert problems(tmp_path, text) == [f"c.yaml:2: {expected}"]


@pytest.mark.parametrize(("added", "expected"), ALERTS)
def test_a_mistake_in_an_alert_is_told_with_its_place(tmp_path: Path, added: str, expected: str) -> None:
    assert problems(tmp_path, BEGIN + added) == [expected]


@pytest.mark.parametrize(("notify", "expected"), ROUTES)
def test_a_mistake_in_a_route_is_told_at_the_alert(tmp_path: Path, notify: str, expected: str) -> None:
    text = BEGIN + f"  x: {{source: db, relation: v, notify: {notify}}}\n"
    assert problems(tmp_path, text) == [f"c.yaml:8: {expected}"]


@pytest.mark.parametrize(("channels", "expected"), CHANNELS)
def test_a_mistake_in_a_channel_is_told_once_however_many_alerts_use_it(
    tmp_path: Path, channels: str, expected: str
) -> None:
    assert expected in problems(
        tmp_path, BEGIN.replace(CHANNEL, channels) + "  x: {source: db, relation: v, notify: [out]}\n"
    )


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = (
        BEGIN.replace("type: console", "type: console, format: jsn")
        + "    for: 5\n    linger: x\nweb: {admin: 7}\nx: 1\n"
    )
    assert [problem.split(": ")[:2] for problem in problems(tmp_path, text)] == [
        ["c.yaml:2", "channels.out.format"],
        ["c.yaml:8", "alerts.late.for"],
        ["c.yaml:9", "alerts.late.linger"],
        ["c.yaml:10", "web.admin"],
        ["c.yaml:11", "x"],
    ]


def test_a_secret_file_that_cannot_be_read_does_not_hide_what_else_is_wrong(tmp_path: Path) -> None:
    source = "{type: postgres, host: [1], user: u, password_file: nowhere, dsn_file: nowhere}"
    found = problems(tmp_path, BEGIN.replace("{type: postgres, host: h, user: u}", source))
    assert [problem.split(": ")[1] for problem in found] == [
        "sources.db.password_file",
        "sources.db.dsn_file",
        "sources.db.host",
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot read the file: no such file or directory$"):
        load(tmp_path / "c.yaml", {})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the file: is a directory$"):
        load(tmp_path, {})


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot read the file: it is not UTF-8 text$"):
        load(tmp_path / "c.yaml", {})


def test_a_mistake_in_an_alert_file_is_told_with_that_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("# more\nlate: {source: db, relation: v}\nx:\n  source: db\n  relatoin: v\n")
    (tmp_path / "odd.yaml").write_text("- a\n")
    assert problems(tmp_path, BEGIN + "alert_files: ['*e.yaml', odd.yaml]\n") == [
        "more.yaml:2: alerts.late: given twice; first in c.yaml:4",
        "more.yaml:5: alerts.x.relatoin: is not a known key; did you mean relation?",
        "odd.yaml: must be a mapping of alerts, not a list",
    ]
