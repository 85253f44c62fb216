"""Mistakes in `tocsin.yaml`, their places and texts (`golden/problems.txt`), and in settings (`mistakes.yaml`)."""

import asyncio
import os
import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from support.config import FakeSource, load_text
from support.sending import codes
from tocsin.config import load
from tocsin.config.check import check, check_online
from tocsin.config.problems import TEXTS, problem
from tocsin.envelope import CONDITION_VARIABLES, View, condition_variables
from tocsin.errors import ConfigError, Problem, SourceError, SourceReason
from tocsin.model import Column, Kind, Row, Transition
from tocsin.registry import channel_models, source_model
from tocsin.templates import Condition, TemplateError

GOLDEN = Path(__file__).parent / "golden" / "problems.txt"
BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels: {out: {type: console}}
alerts:
  late: {source: db, relation: v, notify: [out]}
"""
ENVIRON = {"WORD": "hunter2", "LETTER": "e"}
OIDS = {"text": 25, "int8": 20, "jsonb": 3802, "timestamptz": 1184}
ALERTING = "organization text, severity text, deployment_cnt int8, since timestamptz, data jsonb, a.b text"
SPIKE: tuple[str, Row] = ("team text, count int8, note text", ("a", "3", 'a "quote"\n'))
ONLINE: dict[str, tuple[str, Row]] = {
    "rows": (ALERTING, ("Acme", None, "12", "2026-01-02 03:04:05+00", "{}", "")),
    "events": ("id int8, severity text, data jsonb", ("7", "page", '{"customer": "c1"}')),
    **dict.fromkeys(("webhook", "bare_webhook"), SPIKE),
}
"""Configuration -> columns of its source, and the row that it has."""


def problems(directory: Path, text: str) -> Sequence[Problem]:
    try:
        load_text(directory, text, **ENVIRON)
    except ConfigError as error:
        return error.problems
    return ()


def in_place(base: str, text: str) -> str:
    """The configuration with a text in the place of `@`: as lines where `@` is alone in its line."""
    indent = re.search(r"^( *)@$", base, re.MULTILINE)
    return base.replace(indent[0], textwrap.indent(text, indent[1])) if indent else base.replace("@", text)


def test_each_mistake_has_its_place_and_text(tmp_path: Path) -> None:
    """Write the texts again with TOCSIN_WRITE_GOLDEN=1, and read the difference."""
    golden = GOLDEN.read_text(encoding="utf-8")
    codes: set[str] = set()
    bases = dict(re.findall(r"^=== (\w+)\n(.*?\n)\n", golden, re.DOTALL | re.MULTILINE))

    def found(kind: str, online: str | None, text: str) -> Sequence[Problem]:
        if kind == "problem":
            return [problem(**yaml.safe_load(text))]
        if kind == "warning":
            return load_text(tmp_path, text).warnings
        config = in_place(bases[kind], text)
        if online is None:
            return problems(tmp_path, config)
        columns, row = ONLINE[kind]
        names = [column.split() for column in columns.split(", ")]
        known = tuple(Column(name=name, oid=OIDS[type_name]) for name, type_name in names)
        source = FakeSource(known, row if online == "one" else None)
        return asyncio.run(check_online(load_text(tmp_path, config), {"db": source}, {}))

    def answered(case: re.Match[str]) -> str:
        several = found(case["kind"], case["online"], case["text"].replace("\\0", "\0"))
        codes.update(one.code for one in several)
        lines = "".join(f"=> {one.code} | {one}\n".replace(f"{tmp_path}/", "") for one in several)
        return case["head"] + (lines or "=> valid\n")

    pattern = r"(?P<head>^--- (?P<kind>\w+)(?:, (?P<online>one|no) row)?\n(?P<text>.*?)\n)(?:=> .*?\n)+"
    text = re.sub(pattern, answered, golden, flags=re.DOTALL | re.MULTILINE)
    assert "hunter" not in text
    assert text.count("HUSH") == golden.count("{key: HUSH-0001}")
    if os.environ.get("TOCSIN_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == golden
    assert TEXTS.keys() - codes == {"plugin", "template", "too_deep", "waits"}


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert [one.code for one in problems(tmp_path, "[" * 500)] == ["too_deep"]


def test_incomplete_channel_is_found_at_the_alert(tmp_path: Path) -> None:
    """The rest of its text is the channel's own."""
    text = BEGIN.replace("{type: console}", "{type: novu, api_key: k}")
    [found] = problems(tmp_path, text)
    assert (found.code, found.path, found.line) == ("incomplete_channel", "alerts.late.notify[0]", 4)


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


# What `tocsin check` finds once a file is valid: offline on this machine, online at sources and channels.

ONE_ALERT = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  out: {type: webhook, url: 'http://127.0.0.1/'}
alerts:
  spike:
    source: db
    relation: v
"""


def places(problems: Sequence[Problem]) -> list[tuple[int | None, str, str, str]]:
    return [(one.line, one.path, one.code, one.name) for one in problems]


async def test_problems_of_columns_have_names(tmp_path: Path) -> None:
    """Whatever the text is. Two columns with one name are refused."""
    column = Column(name="organization", oid=25)
    config = load_text(tmp_path, ONE_ALERT + "    key: [organisation]\n")
    unknown, ambiguous = await check_online(config, {"db": FakeSource((column, column))}, {})
    assert places([unknown, ambiguous]) == [
        (8, "alerts.spike.key[0]", "unknown_column", "organisation"),
        (5, "alerts.spike", "ambiguous_column", "organization"),
    ]
    assert unknown.available == ("organization", "organization")


async def test_unreachable_source_is_reported_once(tmp_path: Path) -> None:
    away = [SourceError(f"u@h:5432/postgres: no answer within {n} s", SourceReason.CONNECT) for n in (3, 4)]
    config = load_text(tmp_path, ONE_ALERT + "  other: {source: db, relation: w}\n")
    problems = await check_online(config, {"db": FakeSource(errors=away)}, {})
    assert places(problems) == [(1, "sources.db", "source", "")]


async def test_missing_relation_is_reported_at_the_alert(tmp_path: Path) -> None:
    missing = FakeSource(errors=[SourceError("unknown catalog item 'v'", SourceReason.MISSING)] * 2)
    config = load_text(tmp_path, ONE_ALERT)
    assert places(await check_online(config, {"db": missing}, {})) == [(7, "alerts.spike.relation", "source", "")]
    rows = EVENTS.replace("['h:1']}", "['h:1'], state: true}").replace("  late: {source: broker, notify: [out]}\n", "")
    assert places(await check_online(load_text(tmp_path, rows), {"broker": missing}, {})) == [
        (6, "alerts.paid.topic", "source", ""),
    ]


EVENTS = """\
sources:
  broker: {type: kafka, bootstrap_servers: ['h:1']}
  posted: {type: http, token: 0123456789abcdef}
channels: {out: {type: console}}
alerts:
  late: {source: broker, notify: [out]}
  paid: {source: broker, topic: shop.payments, notify: [out]}
  backup: {source: posted, event: backup_failed, notify: [out]}
"""


async def test_event_source_is_asked_once_for_all_names(tmp_path: Path) -> None:
    """Its alerts cannot be checked where its columns are not known."""
    broker, posted = FakeSource(problems=["no topic late", "no topic shop.payments"]), FakeSource()
    problems = await check_online(load_text(tmp_path, EVENTS), {"broker": broker, "posted": posted, "x": object()}, {})
    assert (broker.names, posted.names) == (["late", "shop.payments"], ["backup_failed"])
    assert places(problems) == [(2, "sources.broker", "refused", "")] * 2


def test_what_this_machine_lacks_is_found_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories, files, packages and handlers."""
    monkeypatch.setattr("tocsin.config.check.find_spec", lambda name: None if name in ("aio_pika", "apprise") else name)
    text = f"""\
sources:
  db: {{type: postgres, host: h, user: u, sslrootcert: system, sslcert: {tmp_path}/x.pem}}
  letters: {{type: rabbitmq, host: h, user: u, password: p, queue: q}}
channels: {{sms: {{type: apprise, urls: ['json://h']}}, own: {{type: python, handler: 'no_such_module:f'}}}}
alerts: {{late: {{source: letters, notify: [sms, own, mail, records]}}}}
ledger: {{path: {tmp_path}/none/t.db}}
log: {{output: {tmp_path}}}
"""
    mail = f"mail: {{type: email, host: h, from: a@b, to: [a@b], tls_ca: {tmp_path}/ca.pem}}"
    records = "records: {type: kafka, bootstrap_servers: ['h:1'], topic: t, librdkafka: {nosuch: 1}}"
    text = text.replace("channels: {", f"channels: {{{mail}, {records}, ")
    assert places(check(load_text(tmp_path, text))) == [
        (6, "ledger.path", "no_directory", f"{tmp_path}/none"),
        (7, "log.output", "is_directory", f"{tmp_path}"),
        (2, "sources.db.sslcert", "missing_file", f"{tmp_path}/x.pem"),
        (3, "sources.letters.type", "missing_package", "rabbitmq"),
        (4, "channels.mail.tls_ca", "missing_file", f"{tmp_path}/ca.pem"),
        (4, "channels.sms.type", "missing_package", "apprise"),
        (4, "channels.records", "librdkafka", ""),
        (4, "channels.own.handler", "handler", ""),
    ]


# Templates and conditions, beyond the cases of `golden/problems.txt`.

TEMPLATED = """\
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
        load_text(tmp_path, TEMPLATED + "    notify: [own, {channel: records, topic: '{{ labels.tam }}'}]\n")
    assert [(one.line, one.path) for one in caught.value.problems] == [(14, "alerts.late.notify[1].topic")]
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, TEMPLATED + "    notify: [records, own]\n")
    [found] = caught.value.problems
    assert (found.line, found.path, found.code) == (4, "channels.records.topic", "template_unknown_name")
    assert (found.name, found.available) == ("taem", ("team", "heard"))


def test_templates_that_differ_in_a_secret_are_each_tried(tmp_path: Path) -> None:
    urls = "[{{channel: sms, urls: ['json://hunter2/{{{{ labels.{} }}}}']}}]"
    text = f"""\
sources: {{db: {{type: postgres, host: h, user: u}}}}
channels: {{sms: {{type: apprise}}}}
alerts:
  late: {{source: db, relation: v, labels: [team], notify: {urls.format("team")}}}
  early: {{source: db, relation: v, labels: [team], notify: {urls.format("taem")}}}
"""
    [found] = problems(tmp_path, text)
    assert (found.path, found.name) == ("alerts.early.notify[0].urls[0]", "taem")
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("row", "paths"), [(("New York",), ["channels.mail.to[0]", "channels.records.topic"]), (None, [])]
)
async def test_address_and_topic_of_a_row_are_tried(row: Row | None, paths: list[str], tmp_path: Path) -> None:
    """What a row makes of them is known only with a row."""
    text = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  mail: {type: email, host: h, from: a@b, to: ['{{ row.city }}@b', a@b]}
  records: {type: kafka, bootstrap_servers: ['h:1'], topic: 'alerts.{{ row.city }}'}
alerts: {late: {source: db, relation: v, key: [city], notify: [mail, records]}}
"""
    source = FakeSource((Column(name="city", oid=25),), row)
    found = await check_online(load_text(tmp_path, text), {"db": source}, {})
    assert [(one.code, one.path) for one in found] == [("template_unfit", path) for path in paths]


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
        load_text(Path(directory), TEMPLATED + f'    notify: [{{channel: out, when: "{when}"}}]\n')
        assert len({_result(when, tuple(map(str, row))) for row in rows}) == 1


def _result(when: str, row: Row) -> bool | str:
    what = Transition(
        alert="late", fingerprint="f", kind=Kind.FIRED, started_at=0, at=0, columns=_COLUMNS, row=row, previous=None
    )
    try:
        return Condition(when, known=CONDITION_VARIABLES).holds(condition_variables(what, row, _VIEW))
    except TemplateError as error:
        return error.code


# Settings of channels and sources.


MISTAKES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text("utf-8"))


def mistakes(family: str) -> list[Any]:
    """The kind, what is expected, and the valid and the other settings of each."""
    of_kinds = MISTAKES[family].items()
    return [(kind, expected, of["valid"], settings) for kind, of in of_kinds for expected, settings in of["mistakes"]]


def refusal(model: type[BaseModel], valid: dict[str, Any], settings: dict[str, Any]) -> ValidationError:
    """The error of a model that accepts the valid settings; it shows no secret."""
    model.model_validate(valid)
    with pytest.raises(ValidationError) as caught:
        model.model_validate({name: value for name, value in {**valid, **settings}.items() if value is not None})
    assert "S3CR3T" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("kind", "code", "valid", "settings"), mistakes("channels"))
def test_mistake_in_channel_has_its_code(kind: str, code: str, valid: dict[str, Any], settings: dict[str, Any]) -> None:
    assert code in codes(refusal(channel_models(kind)[0], {"type": kind, **valid}, settings))


@pytest.mark.parametrize(("kind", "words", "valid", "settings"), mistakes("sources"))
def test_mistake_in_source_is_explained(kind: str, words: str, valid: dict[str, Any], settings: dict[str, Any]) -> None:
    assert words in str(refusal(source_model(kind), valid, settings))
