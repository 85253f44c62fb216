"""Every kind of mistake in `tocsin.yaml`: its place and its code. `golden/problems.txt` keeps the texts."""
# ruff: noqa: E501 - a case of a table is one line, whatever is in it

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tocsin.config import load
from tocsin.config.problems import TEXTS, problem
from tocsin.errors import ConfigError, Problem

GOLDEN = Path(__file__).parent / "golden" / "problems.txt"
SOURCES = "sources:\n  db: {type: postgres, host: h, user: u}\n  posted: {type: http, token: 0123456789abcdef}\n"
CHANNELS = "channels: {out: {type: console}}\n"
BEGIN = SOURCES + CHANNELS + "alerts:\n  late:\n    source: db\n    relation: v\n    notify: [out]\n"
"""Nine good lines; what a case adds begins in line 10, inside the alert `late`."""
EVENTS = "  order: {source: posted, notify: [out]%s}\n"
ENVIRON = {"WORD": "hunter2", "LETTER": "e"}


class Case(NamedTuple):
    """A file, and the only problem in it."""

    text: str
    code: str
    path: str = ""
    line: int | None = None


def added(text: str, code: str, path: str = "", line: int = 10) -> Case:
    """Nine good lines and these."""
    return Case(BEGIN + text, code, path, line)


def of_alert(text: str, code: str, path: str = "", line: int = 10) -> Case:
    """Nine good lines and one of the alert `late`."""
    return added(f"    {text}\n", code, f"alerts.late{path}", line)


def of_source(settings: str, code: str, path: str = "") -> Case:
    text = BEGIN.replace("db: {type: postgres, host: h, user: u}", f"db: {{{settings}}}")
    return Case(text, code, f"sources.db{path}", 2)


def of_route(notify: str, code: str, path: str) -> Case:
    return added(f"  x: {{source: db, relation: v, notify: {notify}}}\n", code, f"alerts.x.notify{path}")


def of_channel(settings: str, code: str, path: str = "") -> Case:
    return Case(BEGIN.replace("{type: console}", settings), code, f"channels.out{path}", 4)


FILES = [
    Case("# nothing but a comment\n", "empty_file"),
    Case("- a\n", "wrong_type"),
    Case("a: [1\nb: 2\n", "not_yaml", line=2),
    Case("web: {admin: ${ADMIN}}\n", "not_yaml", line=1),
    Case("a: \0\n", "not_yaml", line=1),
    Case("[" * 2000, "too_deep"),
    added("sources: {}\n", "duplicate_key", "sources"),
    added("    source: db\n", "duplicate_key", "alerts.late.source"),
    added("chanels: {}\n", "unknown_key", "chanels"),
    added("? [a]\n: b\n", "complex_key"),
    added("web: !!python/object {}\n", "unsupported_tag", "web"),
    added("x-w: &w {x: *w}\n", "recursive_alias", "x-w.x"),
    added("x-w: {<<: 1}\n", "bad_merge", "x-w"),
    added("web: [1]\n", "wrong_type", "web"),
    Case(SOURCES + CHANNELS, "nothing_to_watch"),
    Case(SOURCES + CHANNELS + "alerts: [a]\n", "wrong_type", "alerts", 5),
    added("alert_files: more.yaml\n", "wrong_type", "alert_files"),
    added("alert_files: [more.yaml]\n", "no_match", "alert_files[0]"),
]
EXPANSION = [
    of_alert("value: ${NONE}", "unset_variable", ".value"),
    of_alert("annotations:\n      a: |\n        one\n        ${NONE}", "unset_variable", ".annotations.a", 13),
    of_alert("value: ${a b}", "bad_reference", ".value"),
    # A value from the environment is not repeated: it may be a secret at the wrong place.
    of_alert("for: ${WORD}", "duration", ".for"),
    of_alert("max_series: ${WORD}", "wrong_type", ".max_series"),
    of_alert("max_series: ${LETTER}", "wrong_type", ".max_series"),
    added("log: {level: '${WORD}'}\n", "unknown_choice", "log.level"),
    of_source("type: '${WORD}'", "unknown_type", ".type"),
]
SECTIONS = [
    added("web: {listen: 8627}\n", "listen", "web.listen"),
    added("web: {listen: 'h:65536'}\n", "listen", "web.listen"),
    added("web: {listen: '::1:80'}\n", "brackets", "web.listen"),
    added("web: {listen: '[x]:80'}\n", "ipv6", "web.listen"),
    added("web: {admin: maybe}\n", "wrong_type", "web.admin"),
    added("log: {output: ''}\n", "empty", "log.output"),
    added("ledger: {path:}\n", "wrong_type", "ledger.path"),
    added("ledger: {history: 7}\n", "duration", "ledger.history"),
    added("ledger: {history: 7.5}\n", "duration", "ledger.history"),
    added("ledger: {paht: x}\n", "unknown_key", "ledger.paht"),
]
MEMBERS = [
    of_source("type: postgrs, host: h", "unknown_type", ".type"),
    of_source("host: h, user: u", "no_type", ".type"),
    of_source("type: 5", "wrong_type", ".type"),
    of_source("type: postgres, host: h, user: u, prot: 1", "unknown_key", ".prot"),
    of_source("type: postgres, host: h, user: u, port: 0", "out_of_range", ".port"),
    of_source("type: postgres, host: h, user: u, port: x", "wrong_type", ".port"),
    of_source("type: postgres, host: h, user: u, port: 1.5", "wrong_type", ".port"),
    of_source("type: postgres, host: [h], user: u", "wrong_type", ".host"),
    of_source("type: postgres, host: h, user: u, sslmode: on", "unknown_choice", ".sslmode"),
    of_source("type: postgres, host: h, user: u, password_file: nowhere/pw", "unreadable_file", ".password_file"),
    of_source("type: postgres, host: h, user: u, password: x, password_file: y", "not_both"),
    of_source("type: materialize, host: h, user: u, interval: 1s", "unknown_key", ".interval"),
    of_channel("{type: cnsole}", "unknown_type", ".type"),
    of_channel("{type: console, format: jsn}", "unknown_choice", ".format"),
    of_channel("{type: webhook}", "required", ".url"),
    of_channel("console", "wrong_type"),
    Case(
        BEGIN.replace("{out: {type: console}}", "[out]").replace("    notify: [out]\n", ""), "wrong_type", "channels", 4
    ),
    of_channel("{type: webhook, url: 'http://h', success: []}", "too_few", ".success"),
    of_channel(
        "{type: webhook, url: 'http://h', headers: {X: \"{{ rwo }}\"}}", "template_unknown_variable", ".headers.X"
    ),
    of_channel(
        "{type: webhook, url: 'http://h', body: {a: [\"{{ rwo }}\"]}}", "template_unknown_variable", ".body.a[0]"
    ),
]
ALERTS = [
    of_alert("sorce: x", "unknown_key", ".sorce"),
    Case(BEGIN + "    query: SELECT 1\n", "several_subjects", "alerts.late", 6),
    of_alert("key: []", "empty_key", ".key"),
    of_alert("key:\n    - a\n    - b\n    - a", "listed_twice", ".key[2]", 13),
    of_alert("key: a", "wrong_type", ".key"),
    of_alert("key: [{}]", "wrong_type", ".key[0]"),
    of_alert("key: ['']", "empty", ".key[0]"),
    of_alert("labels: 5", "wrong_type", ".labels"),
    of_alert("labels: {a: [x]}", "wrong_type", ".labels.a"),
    of_alert("labels: [le]", "own_label", ".labels[0]"),
    of_alert("labels: {__a: a}", "own_label", ".labels.__a"),
    of_alert("labels: [Größe in m]", "bad_label", ".labels[0]"),
    of_alert("labels: [a]\n    static_labels: {a: x}", "label_twice", ".static_labels.a", 11),
    of_alert("static_labels: {a-b: x}", "bad_label", ".static_labels.a-b"),
    of_alert("static_labels: {a: ''}", "empty_label", ".static_labels.a"),
    of_alert("key: [a]\n    ignore: [b, a]", "ignored_key", ".ignore[1]", 11),
    of_alert("labels: [a]\n    ignore: [a]", "ignored_key", ".ignore[0]", 11),
    of_alert("metric: a-b", "bad_metric", ".metric"),
    of_alert("metric: tocsin_x", "own_metric", ".metric"),
    of_alert("metric: a_total", "counter_metric", ".metric"),
    of_alert("max_series: 0", "out_of_range", ".max_series"),
    of_alert("for: soon", "duration", ".for"),
    of_alert("initial: loud", "unknown_choice", ".initial"),
    of_alert("annotations:\n      a: '{{ row.x'", "template_syntax", ".annotations.a", 11),
    of_alert("annotations: {a: '{{ rwo }}'}", "template_unknown_variable", ".annotations.a"),
    of_alert("annotations: {a: '{{ labels.tem }}'}", "template_unknown_name", ".annotations.a"),
    added("  a-b: {source: db, relation: v}\n", "bad_metric", "alerts.a-b"),
    added("  a b: {source: db, relation: v, metric: m}\n", "bad_name", "alerts.'a b'"),
    added("  x:\n", "wrong_type", "alerts.x"),
    added("  x: {relation: v}\n", "required", "alerts.x.source"),
    added("  x: {source: db}\n", "no_subject", "alerts.x"),
    added("  x: {source: bd, relation: v}\n", "unknown_source", "alerts.x.source"),
    added("  x: {source: db, relation: v; DROP TABLE v}\n", "relation", "alerts.x.relation"),
    added("  x: {source: db, query: ' '}\n", "empty", "alerts.x.query"),
    added("  x: {source: db, query: 'subscribe v'}\n", "subscribe", "alerts.x.query"),
    added("  x: {source: db, relation: v, gauges: false}\n", "no_effect", "alerts.x"),
    added("  x: {source: db, relation: v, metric: late}\n", "shared_metric_series", "alerts.x.metric"),
    added("  x: {source: db, relation: v, metric: late, labels: [b]}\n", "shared_metric_labels", "alerts.x.metric"),
    added("    metric: m\n    help: one\n    static_labels: {s: a}\n  m: {source: db, relation: v, static_labels: {s: b}, help: two}\n", "shared_metric_help", "alerts.m", 13),
    of_alert("dedupe_by: [id]", "not_for_rows", ".dedupe_by"),
    added(EVENTS % ", for: 5m", "not_for_events", "alerts.order.for"),
    added(EVENTS % ", relation: v", "unknown_subject", "alerts.order.relation"),
    added(EVENTS % ", dedupe_window: 5m", "window_without_dedupe", "alerts.order.dedupe_window"),
    added("  order: {source: posted}\n", "event_without_channel", "alerts.order.notify"),
]  # fmt: skip
ROUTES = [
    of_route("[missing]", "unknown_channel", "[0]"),
    of_route("[{channel: ouut}]", "unknown_channel", "[0].channel"),
    of_route("[out, {channel: out}]", "notified_twice", "[1].channel"),
    of_route("[{chanel: out}]", "required", "[0].channel"),
    of_route("out", "wrong_type", ""),
    of_route("[{channel: out, formt: json}]", "unknown_key", "[0].formt"),
    of_route("[{channel: out, format: jsn}]", "unknown_choice", "[0].format"),
    of_route("[{channel: out, when: 'row.a ='}]", "template_syntax", "[0].when"),
    of_route("[{channel: out, when: 'status == 1'}]", "template_unknown_variable", "[0].when"),
    of_route("[{channel: out, when: 'row }}{{ row'}]", "template_not_one_expression", "[0].when"),
    of_route("[{channel: out, when: 'labels.tem == 1'}]", "template_unknown_name", "[0].when"),
    of_route("[{channel: out, on: [event]}]", "never_sent", "[0]"),
    Case(BEGIN.replace("{out: {type: console}}", "{out: {type: console}, people: {type: novu, api_key: k}}") + "  x: {source: db, relation: v, notify: [people]}\n", "incomplete_channel", "alerts.x.notify[0]", 10),
    Case(BEGIN.replace("{out: {type: console}}", "{out: {type: console}, ams: {type: alertmanager, urls: ['http://h']}}") + EVENTS.replace("out", "ams") % "", "event_to_level", "alerts.order.notify[0]", 10),
]  # fmt: skip
CASES = [*FILES, *EXPANSION, *SECTIONS, *MEMBERS, *ALERTS, *ROUTES]

LATER = [
    problem("unreadable", why="permission denied"),
    problem("no_file", name="tocsin.yaml"),
    problem("too_many_values", limit=100_000),
    problem("unused", "sources.db"),
    problem("no_alerts"),
    problem("no_effect_here", "channels.out.max_redirects", why="redirects are refused"),
    problem("open_admin", "web.admin", name="0.0.0.0:80"),
    problem("value_in_key", "alerts.a.value", name="v", part="the key"),
    problem("ignored_column", "alerts.a.notify[0].when", name="seen", channel="out", setting="when"),
    problem("mixed_recipients", "alerts.a.notify[0].to[0].column", name="owner", end="shows all of them to each owner"),
    problem("no_directory", "ledger.path", name="none"),
    problem("missing_file", "sources.db.sslcert", name="x.pem"),
    problem("missing_package", "channels.out.type", name="apprise"),
    problem("unchecked", "sources.db", why="unexpected KeyError"),
    problem("source", "sources.db", why="u@h:5432/postgres: no answer within 3 s"),
    problem("refused", "channels.out", why="there is no workflow w"),
    problem("unknown_column", "alerts.a.value", name="tem", available=("team", "id"), where=""),
    problem("nested_column", "alerts.a.key[0]", name="data.who", column="data", field="who"),
    problem("unknown_field", "alerts.a.key[0]", name="who", column="data", available=("whom",)),
    problem("ambiguous_column", "alerts.a", name="id"),
    problem("not_a_number", "alerts.a.value", name="team", found="text"),
    problem("not_a_flag", "TEST_MODE"),
    problem("not_positive", "PROGRESS_TIMEOUT_MINUTES"),
    problem("not_a_column", "MTZ_ALERT_PAYLOAD", name="coalesce(a"),
    problem("not_in_payload", "RECIPIENTS_IN_PAYLOAD", name="True"),
    problem("no_recipients", "NOVU_RECIPIENTS"),
    problem("column_not_set", "RECIPIENTS_IN_PAYLOAD", name="False"),
    problem("no_history", "RETAIN_HISTORY"),
    problem("not_url", "channels.out.url"),
    problem("incomplete_channel", "alerts.a.notify[0]", name="out", why="no workflow is set"),
]
"""Problems of other files, of the machine, of servers and of the environment; other tests have their causes."""


def problems(directory: Path, text: str) -> list[Problem]:
    file = directory / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, ENVIRON)
    return list(caught.value.problems)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.path}")
def test_mistake_has_its_code_and_place(tmp_path: Path, case: Case) -> None:
    [found] = problems(tmp_path, case.text)
    assert (found.code, found.path, found.line) == (case.code, case.path, case.line)
    assert found.file.endswith("c.yaml")
    assert "hunter" not in str(found)


def test_texts_of_problems_stay_as_they_are(tmp_path: Path) -> None:
    """Write the file again with TOCSIN_WRITE_GOLDEN=1, and read the difference."""
    found = [
        one for case in CASES for one in problems(tmp_path, case.text) if case.code != "incomplete_channel"
    ] + LATER
    text = "".join(f"{one.code} | {one}\n".replace(f"{tmp_path}/", "") for one in found)
    if os.environ.get("TOCSIN_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
    assert TEXTS.keys() - {one.code for one in found} == {"template"}


def test_all_problems_are_reported_in_file_order(tmp_path: Path) -> None:
    text = BEGIN.replace("console", "console, format: jsn") + "    for: 5\n    linger: x\nweb: {admin: 7}\nx: 1\n"
    assert [(one.line, one.path) for one in problems(tmp_path, text)] == [
        (4, "channels.out.format"),
        (10, "alerts.late.for"),
        (11, "alerts.late.linger"),
        (12, "web.admin"),
        (13, "x"),
    ]


def test_invalid_alert_hides_no_unknown_name(tmp_path: Path) -> None:
    alert = "  x: {source: bd, relation: v, keyy: [a], notify: [missing, {channel: ouut}, 5]}\n"
    assert {(one.code, one.path) for one in problems(tmp_path, BEGIN + alert)} >= {
        ("unknown_key", "alerts.x.keyy"),
        ("unknown_source", "alerts.x.source"),
        ("unknown_channel", "alerts.x.notify[0]"),
        ("unknown_channel", "alerts.x.notify[1].channel"),
    }


def test_channel_problem_is_reported_once_for_all_alerts(tmp_path: Path) -> None:
    text = BEGIN.replace("console", "console, format: jsn") + "  x: {source: db, relation: v, notify: [out]}\n"
    assert [one.path for one in problems(tmp_path, text)] == ["channels.out.format"]


def test_unreadable_secret_file_hides_no_other_problem(tmp_path: Path) -> None:
    source = "{type: postgres, host: [1], user: u, password_file: nowhere, dsn_file: nowhere}"
    found = problems(tmp_path, BEGIN.replace("{type: postgres, host: h, user: u}", source))
    assert [one.path for one in found] == ["sources.db.password_file", "sources.db.dsn_file", "sources.db.host"]


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes(b"a: \xff")
    for name in ("missing.yaml", ".", "latin1.yaml", "\0"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, {})
        assert [one.code for one in caught.value.problems] == ["unreadable"]
        assert str(tmp_path) in caught.value.problems[0].file


def test_problem_in_alert_file_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("# more\nlate: {source: db, relation: v}\nx:\n  source: db\n  relatoin: v\n")
    (tmp_path / "odd.yaml").write_text("- a\n")
    found = problems(tmp_path, BEGIN + "alert_files: ['*e.yaml', odd.yaml]\n")
    assert [(Path(one.file).name, one.line, one.code) for one in found] == [
        ("more.yaml", 2, "duplicate_key"),
        ("more.yaml", 5, "unknown_key"),
        ("odd.yaml", None, "wrong_type"),
    ]
