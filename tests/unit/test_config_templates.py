"""What the check of templates and conditions promises, beyond the cases of `golden/problems.txt`."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.config import load_text
from tocsin.envelope import CONDITION_VARIABLES, View, condition_variables
from tocsin.errors import ConfigError
from tocsin.model import Column, Kind, Row, Transition
from tocsin.templates import Condition, TemplateError

BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  out: {type: console}
  records: {type: kafka, bootstrap_servers: ['h:1'], topic: '{{ labels.taem }}'}
  own: {type: python, handler: 'pprint:pprint', arguments: {width: '{{ anything }}'}}
alerts:
  late:
    source: db
    relation: v
    key: [id]
    labels: {team: team, heard: seen}
    value: amount
    ignore: [seen, amount]
"""


def test_templates_of_every_channel_are_tried(tmp_path: Path) -> None:
    """The arguments of a handler may be anything. A fault in the options of an alert is reported there."""
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, BEGIN + "    notify: [own, {channel: records, topic: '{{ labels.tam }}'}]\n")
    assert [(one.line, one.path) for one in caught.value.problems] == [(14, "alerts.late.notify[1].topic")]
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, BEGIN + "    notify: [records, own]\n")
    [found] = caught.value.problems
    assert (found.line, found.path, found.code) == (4, "channels.records.topic", "template_unknown_name")
    assert (found.name, found.available) == ("taem", ("team", "heard"))


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
    with TemporaryDirectory() as directory, suppress(ConfigError):
        load_text(Path(directory), BEGIN + f'    notify: [{{channel: out, when: "{when}"}}]\n')
        assert len({_result(when, tuple(map(str, row))) for row in rows}) == 1


def _result(when: str, row: Row) -> bool | str:
    what = Transition(
        alert="late", fingerprint="f", kind=Kind.FIRED, started_at=0, at=0, columns=_COLUMNS, row=row, previous=None
    )
    try:
        return Condition(when, known=CONDITION_VARIABLES).holds(condition_variables(what, row, _VIEW))
    except TemplateError as error:
        return error.code
