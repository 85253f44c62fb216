"""Routes that go by columns whose changes are ignored are refused, and those that are taken never do."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config import Config, load
from tocsin.envelope import CONDITION_VARIABLES, View, seen
from tocsin.errors import ConfigError
from tocsin.model import Column, Kind, Row, Transition
from tocsin.templates import Condition, TemplateError

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
"""Thirteen lines; what a case adds is line 14."""


def loaded(directory: Path, text: str) -> Config:
    file = directory / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, {})


def problems(directory: Path, text: str) -> list[str]:
    try:
        loaded(directory, text)
    except ConfigError as error:
        return [str(problem).replace(f"{directory}/", "") for problem in error.problems]
    return []


def refusal(place: str, channel: str, column: str, setting: str) -> str:
    return (
        f"c.yaml:{place}: {channel} would go by the column {column}, whose changes this alert ignores;"
        f" take {column} out of {setting}, or out of ignore"
    )


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
    ],
)
def test_a_condition_that_reads_an_ignored_column_is_refused(tmp_path: Path, when: str, columns: list[str]) -> None:
    assert problems(tmp_path, BEGIN + f'    notify: [{{channel: out, when: "{when}"}}]\n') == [
        refusal("14: alerts.late.notify[0].when", "out", column, "when") for column in columns
    ]


@pytest.mark.parametrize(("group_by", "number"), [("team, seen", 1), ("heard", 0)])
def test_groups_by_an_ignored_column_are_refused(tmp_path: Path, group_by: str, number: int) -> None:
    text = BEGIN + f"    notify: [{{channel: out, interval: 5m, group_by: [{group_by}]}}]\n"
    assert problems(tmp_path, text) == [
        refusal(f"14: alerts.late.notify[0].group_by[{number}]", "out", "seen", "group_by")
    ]


def test_a_condition_of_the_channel_is_named_where_it_stands(tmp_path: Path) -> None:
    assert problems(tmp_path, BEGIN + "    notify:\n    - out\n    - strict\n") == [
        refusal("16: alerts.late.notify[1].when", "strict", "seen", "channels.strict.when")
    ]


def test_a_channel_that_is_told_what_fires_goes_by_no_ignored_column_either(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, BEGIN + "    notify: [{channel: now, when: row.seen > 5}]\n")
    assert "take seen out of when" in problem


@pytest.mark.parametrize(
    "options",
    ["when: row.team == 'a'", "when: alert == 'late' and labels.team != 'b'", "interval: 5m, group_by: [team, id]"],
)
def test_a_route_that_goes_by_other_columns_is_taken(tmp_path: Path, options: str) -> None:
    assert problems(tmp_path, BEGIN + f"    notify: [{{channel: out, {options}}}]\n") == []


def test_where_nothing_is_ignored_a_route_goes_by_any_column(tmp_path: Path) -> None:
    text = BEGIN.replace("    ignore: [seen, amount]\n", "")
    assert problems(tmp_path, text + "    notify: [{channel: out, when: row.seen > 5 and value > 1}]\n") == []


_COLUMNS = tuple(Column(name=name, oid=20) for name in ("id", "team", "seen", "amount"))
_VIEW = View(labels=(("team", "team"), ("heard", "seen")), value="amount")
_LEAVES = [
    "row.id",
    "row.team",
    "row['seen']",
    "row.get('amount', 2)",
    "labels.team",
    "labels.heard",
    "labels.get('x')",
]
_LEAVES += ["value", "3", "row.values() | sum", "row | length", "row[labels.team | string]", "'seen' in row"]


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(parts, st.sampled_from(["and", "or", "==", "!="]), parts).map(
        lambda three: f"({' '.join(three)})"
    )
    return st.one_of(
        pairs, parts.map("(not {})".format), st.lists(parts, max_size=3).map(lambda of: f"[{', '.join(of)}]")
    )


@given(
    when=st.recursive(st.sampled_from(_LEAVES), _joined, max_leaves=5),
    rows=st.tuples(*[st.integers(0, 3)] * 2).flatmap(
        lambda kept: st.lists(st.tuples(*map(st.just, kept), *[st.integers(0, 3)] * 2), min_size=2, max_size=2)
    ),
)
def test_what_is_taken_says_the_same_of_rows_that_differ_only_in_ignored_columns(
    when: str, rows: list[tuple[int, ...]]
) -> None:
    with TemporaryDirectory() as directory:
        refused = problems(Path(directory), BEGIN + f'    notify: [{{channel: out, when: "{when}"}}]\n')
    if not refused:
        assert len({_said(when, tuple(map(str, row))) for row in rows}) == 1


def _said(when: str, row: Row) -> bool | str:
    """What a condition comes to, or why to nothing."""
    what = Transition(
        alert="late", fingerprint="f", kind=Kind.FIRED, started_at=0, at=0, columns=_COLUMNS, row=row, previous=None
    )
    try:
        return Condition(when, known=CONDITION_VARIABLES).holds(seen(what, row, _VIEW))
    except TemplateError as error:
        return str(error)
