"""Templates of a configuration tried when it is read, and columns on which a route must not depend."""
# ruff: noqa: E501 - a case of a table is one line, whatever is in it

import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.alert import Alert
from tocsin.config import Config, load
from tocsin.config.check import check_online
from tocsin.envelope import CONDITION_VARIABLES, View, condition_variables
from tocsin.errors import ConfigError, Problem
from tocsin.model import Column, Columns, Kind, Row, Transition
from tocsin.templates import Condition, TemplateError

ALERT = """\
sources: {db: {type: postgres, host: h, user: u}}
alerts:
  spike:
    source: db
    relation: v
    labels: [team]
    value: count
    annotations: {summary: "{{ row.note }}"}
    notify: [{channel: out%s}]
channels:
  out:
    type: webhook
"""
"""Twelve lines; what a case adds begins in line 13, inside the channel `out`."""


def loaded(directory: Path, text: str) -> Config:
    file = directory / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, {})


def with_channel(channel: str, route: str = "") -> str:
    text = channel if "url:" in channel else f"url: http://h/\n{channel}"
    return ALERT % route + textwrap.indent(text, "    ")


def wrong(directory: Path, text: str) -> list[Problem]:
    try:
        loaded(directory, text)
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("channel", "path", "code", "name"),
    [
        ('body: {text: ["{{ labels.taem }}"]}', "body.text[0]", "unknown_name", "taem"),
        ("body_text: '{\"a\": {{ annotations.sum | json }}}'", "body_text", "unknown_name", "sum"),
        ('url: "http://h/{{ labels.taem }}"', "url", "unknown_name", "taem"),
        ('headers: {X-A: "{{ labels.taem }}"}', "headers.X-A", "unknown_name", "taem"),
        ('query: {q: "{{ labels.taem }}"}', "query.q", "unknown_name", "taem"),
        ('method: "{{ labels.taem }}"', "method", "unknown_name", "taem"),
        ('secrets: {key: HUSH-0001}\nbody: {a: "{{ secrets.kee }}"}', "body.a", "unknown_name", "kee"),
        ("body: {a: \"{{ {'fired': 1, 'resolved': 2}[status] }}\"}", "body.a", "unknown_key", "updated"),
        ('body: {a: "{{ secrets.key }}"}', "body.a", "unset_variable", "secrets"),
        ("body_text: '{\"a\": {{ id }}}'", "body_text", "not_json", ""),
        ("body_text: 'late: {{ row.note }}'", "body_text", "not_json", ""),
        ('batch: array\ncontent_type: text/plain\nbody_text: "late"', "body_text", "not_json", ""),
    ],
)  # fmt: skip
def test_template_that_fails_for_every_row_is_refused(
    tmp_path: Path, channel: str, path: str, code: str, name: str
) -> None:
    [problem] = wrong(tmp_path, with_channel(channel))
    assert (problem.path, problem.code, problem.name) == (f"channels.out.{path}", f"template_{code}", name)
    assert problem.line == 13 + (with_channel(channel).count("\n") - 12)
    assert "alert spike" in problem.message
    assert "HUSH" not in str(problem)


def test_setting_without_effect_is_a_warning(tmp_path: Path) -> None:
    [warning] = loaded(tmp_path, with_channel("max_redirects: 3")).warnings
    assert (warning.line, warning.path, warning.code) == (14, "channels.out.max_redirects", "no_effect_here")


def test_fault_in_alert_options_has_its_place(tmp_path: Path) -> None:
    [problem] = wrong(tmp_path, with_channel("", ", body: {a: '{{ labels.taem }}'}"))
    assert (problem.line, problem.path) == (9, "alerts.spike.notify[0].body.a")


def test_all_faulty_parts_of_a_request_are_reported(tmp_path: Path) -> None:
    channel = 'url: "http://h/{{ labels.a }}"\nheaders: {X: "{{ labels.b }}", Y: "{{ labels.c }}"}\nbody: {z: "{{ labels.d }}"}'
    assert [problem.name for problem in wrong(tmp_path, with_channel(channel))] == ["a", "b", "c", "d"]


def test_templates_of_every_channel_are_tried(tmp_path: Path) -> None:
    text = ALERT % "" + "    url: http://h/\n"
    text = text.replace(
        "type: webhook\n    url: http://h/",
        "type: kafka\n    bootstrap_servers: ['h:1']\n    topic: '{{ labels.taem }}'",
    )
    assert [problem.path for problem in wrong(tmp_path, text)] == ["channels.out.topic"]


def test_handler_arguments_are_not_templates(tmp_path: Path) -> None:
    """The arguments of a handler may be anything."""
    own = "type: python\n    handler: pprint:pprint\n    arguments: {width: '{{ anything }}'}"
    assert not wrong(tmp_path, (ALERT % "").replace("type: webhook", own))


@pytest.mark.parametrize(
    "channel",
    [
        'body: {a: "{{ row.anything.at.all[0] | float }}", b: "{{ row.x + 1 }}", c: "{{ row.tags | join(\',\') }}"}',
        "body: {a: \"{{ labels.other | default('none') }}\"}",
        "body: {a: \"{{ {'1': 'one', 'x': 'y'}[labels.team] }}\"}",
        'body: {a: "{{ labels[row.note] }}"}',
        'body: {a: "{{ previous.count if previous else 0 }}", b: "{{ merged | map(attribute=\'row.note\') | list }}"}',
        'body_text: \'{"n": {{ row.count }}, "s": "{{ row.note }}", "j": {{ row | json }}, "v": {{ value }}}\'',
        "body_text: '[{% for one in merged %}{{ one.row.note | json }}{{ \",\" if not loop.last }}{% endfor %}]'",
        'body_text: "late: {{ row.note }}"\ncontent_type: text/plain',
        'url: "{{ row.callback }}"\nmethod: "{{ row.method }}"\nheaders: {X: "{{ row.note.strip()[:10] }}"}',
        'url: "{{ secrets.url }}"\nsecrets: {url: "http://h/x"}',
        'body: {a: "{{ row.when.strftime(\'%H\') }}", b: "{% for k, v in row.items() %}{{ k }}{% endfor %}"}',
    ],
)
def test_template_that_may_be_right_is_accepted(tmp_path: Path, channel: str) -> None:
    assert not wrong(tmp_path, with_channel(channel))


COLUMNS = (Column(name="team", oid=25), Column(name="count", oid=20), Column(name="note", oid=25))


async def found(directory: Path, channel: str, row: Row | None) -> list[Problem]:
    async def describe(_: Alert) -> Columns:
        return COLUMNS

    async def sample(_: Alert) -> Row | None:
        return row

    return await check_online(loaded(directory, with_channel(channel)), describe, sample)


async def test_request_is_tried_on_a_real_row_online(tmp_path: Path) -> None:
    channel = (
        'url: "http://h/{{ row.nonesuch }}"\nheaders: {X: "{{ row.note }}"}\nbody_text: \'{"a": "{{ row.note }}"}\''
    )
    row = ("a", "3", 'a "quote"\n')
    assert [(one.line, one.path, one.code) for one in await found(tmp_path, channel, row)] == [
        (13, "channels.out.url", "template_unknown_key"),
        (14, "channels.out.headers.X", "template_unfit"),
        (15, "channels.out.body_text", "template_not_json"),
    ]
    assert await found(tmp_path, 'body: {a: "{{ row.note }}", n: "{{ merged | length }}"}', row) == []
    assert await found(tmp_path, 'url: "{{ row.note }}"', None) == [], "a made-up text is no address"


async def test_secret_in_an_error_is_hidden(tmp_path: Path) -> None:
    channel = 'secrets: {key: HUSH-0001}\nbody: {a: "{{ row[secrets.key] }}"}'
    [problem] = await found(tmp_path, channel, ("a", "3", "x"))
    assert problem.code == "template_unknown_key"
    assert "HUSH" not in str(problem) + problem.name


# Columns whose changes are ignored.

BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  out: {type: console}
  strict: {type: console, when: row.seen > 5}
  now: {type: alertmanager, urls: ['http://127.0.0.1:9093']}
alerts:
  late:
    source: db
    relation: v
    key: [id]
    labels: {team: team, heard: seen}
    value: amount
    ignore: [seen, amount]
"""


def ignored(directory: Path, notify: str) -> list[tuple[str, str]]:
    problems = wrong(directory, BEGIN + f"    notify: {notify}\n")
    assert {problem.code for problem in problems} <= {"ignored_column"}
    assert {problem.line for problem in problems} <= {14}
    return [(problem.path.removeprefix("alerts.late."), problem.name) for problem in problems]


@pytest.mark.parametrize(
    ("when", "columns"),
    [
        ("row.seen > 5", ["seen"]),
        ("row['seen'] > 5", ["seen"]),
        ("row.get('seen') is none", ["seen"]),
        ("labels.heard == 5", ["seen"]),
        ("value > 5", ["amount"]),
        ("row.team == 'a' and not (row.id in [row.seen])", ["seen"]),
        ("row.team.startswith(row.seen)", ["seen"]),
        ("row.seen > 5 or value > 5", ["seen", "amount"]),
        ("row.values() | list", ["seen", "amount"]),
        ("row[labels.team] == 1", ["seen", "amount"]),
        ("(labels | length) > 5", ["seen"]),
        ("row.team == 'a'", []),
        ("alert == 'late' and labels.team != 'b'", []),
    ],
)
def test_condition_on_an_ignored_column_is_refused(tmp_path: Path, when: str, columns: list[str]) -> None:
    found = [("notify[0].when", column) for column in columns]
    assert ignored(tmp_path, f'[{{channel: out, when: "{when}"}}]') == found
    assert ignored(tmp_path, f'[{{channel: now, when: "{when}"}}]') == found


@pytest.mark.parametrize(("group_by", "number"), [("team, seen", 1), ("heard", 0), ("team, id", None)])
def test_group_by_an_ignored_column_is_refused(tmp_path: Path, group_by: str, number: int | None) -> None:
    found = ignored(tmp_path, f"[{{channel: out, interval: 5m, group_by: [{group_by}]}}]")
    assert found == ([] if number is None else [(f"notify[0].group_by[{number}]", "seen")])


def test_condition_of_the_channel_is_named(tmp_path: Path) -> None:
    [problem] = wrong(tmp_path, BEGIN + "    notify: [out, strict]\n")
    assert problem.path == "alerts.late.notify[1].when"
    assert "channels.strict.when" in problem.message
    assert not wrong(tmp_path, BEGIN.replace("    ignore: [seen, amount]\n", "") + "    notify: [out, strict]\n")


_COLUMNS = tuple(Column(name=name, oid=20) for name in ("id", "team", "seen", "amount"))
_VIEW = View(labels=(("team", "team"), ("heard", "seen")), value="amount")
_LEAVES = [
    *("row.id", "row.team", "row['seen']", "row.get('amount', 2)", "labels.team", "labels.heard", "labels.get('x')"),
    *("value", "3", "row.values() | sum", "row | length", "row[labels.team | string]", "'seen' in row"),
]


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(parts, st.sampled_from(["and", "or", "==", "!="]), parts).map(lambda it: f"({' '.join(it)})")
    lists = st.lists(parts, max_size=3).map(lambda of: f"[{', '.join(of)}]")
    return st.one_of(pairs, parts.map("(not {})".format), lists)


@given(
    when=st.recursive(st.sampled_from(_LEAVES), _joined, max_leaves=5),
    rows=st.tuples(*[st.integers(0, 3)] * 2).flatmap(
        lambda kept: st.lists(st.tuples(*map(st.just, kept), *[st.integers(0, 3)] * 2), min_size=2, max_size=2)
    ),
)
def test_accepted_condition_ignores_ignored_columns(when: str, rows: list[tuple[int, ...]]) -> None:
    """It comes to the same for rows that differ only in these."""
    with TemporaryDirectory() as directory:
        refused = wrong(Path(directory), BEGIN + f'    notify: [{{channel: out, when: "{when}"}}]\n')
    if not refused:
        assert len({_result(when, tuple(map(str, row))) for row in rows}) == 1


def _result(when: str, row: Row) -> bool | str:
    what = Transition(
        alert="late", fingerprint="f", kind=Kind.FIRED, started_at=0, at=0, columns=_COLUMNS, row=row, previous=None
    )
    try:
        return Condition(when, known=CONDITION_VARIABLES).holds(condition_variables(what, row, _VIEW))
    except TemplateError as error:
        return error.code
