"""What `tocsin check` finds once a file is valid: offline on this machine, online at sources and channels."""
# ruff: noqa: E501 - a case of a table is one line, whatever is in it

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.channels import FakeChannel
from tocsin.alert import Alert
from tocsin.config import Config, load
from tocsin.config.check import check, check_online
from tocsin.errors import Problem, SourceError, SourceReason
from tocsin.model import Column, Columns, Row
from tocsin.sources.base import Subject

TEXT, INT8, JSONB, TIMESTAMPTZ, NUMERIC = 25, 20, 3802, 1184, 1700
COLUMNS = (
    Column(name="organization", oid=TEXT),
    Column(name="severity", oid=TEXT),
    Column(name="deployment_cnt", oid=INT8),
    Column(name="since", oid=TIMESTAMPTZ),
)
ROW = ("Acme", None, "12", "2026-01-02 03:04:05+00")
BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  out: {type: webhook, url: 'http://127.0.0.1/'}
  people: {type: novu, api_key: k, workflow: w, recipients: [{column: owner}], payload: [organization, cnt]}
alerts:
  spike:
    source: db
    relation: v
"""
"""Eight lines; what a case adds begins in line 9, inside the alert `spike`."""


def loaded(directory: Path, text: str) -> Config:
    file = directory / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, {})


def places(problems: Sequence[Problem]) -> list[tuple[int | None, str, str, str]]:
    return [(one.line, one.path, one.code, one.name) for one in problems]


async def found(directory: Path, added: str, columns: Columns = COLUMNS, row: Row | None = ROW) -> list[Problem]:
    async def describe(_: Alert) -> Columns:
        return columns

    async def sample(_: Alert) -> Row | None:
        return row

    return await check_online(loaded(directory, BEGIN + added), describe, sample)


async def test_alert_that_fits_has_no_problems(tmp_path: Path) -> None:
    added = """\
    labels: [organization]
    value: deployment_cnt
    ignore: [since]
    annotations:
      summary: "{{ labels.organization }} made {{ row.deployment_cnt + 1 }} since {{ row.since.hour }}"
      change: "{{ previous.deployment_cnt if previous else 0 }}"
    notify: [{channel: out, body: {text: "{{ annotations.summary }} {{ value }}"}, when: row.deployment_cnt > 5}]
"""
    assert await found(tmp_path, added) == []


@pytest.mark.parametrize(
    ("added", "path", "code", "name"),
    [
        ("    labels: [organisation]\n", "labels.organisation", "unknown_column", "organisation"),
        ("    key: [organization, x]\n", "key[1]", "unknown_column", "x"),
        ("    value: cnt\n", "value", "unknown_column", "cnt"),
        ("    ignore: [deployment_count]\n", "ignore[0]", "unknown_column", "deployment_count"),
        ("    value: severity\n", "value", "not_a_number", "severity"),
        ("    notify: [{channel: people, recipients: [a]}]\n", "notify[0].payload[1]", "unknown_column", "cnt"),
        ("    notify: [{channel: people, payload: {}}]\n", "notify[0].recipients[0].column", "unknown_column", "owner"),
        ("    notify: [{channel: out, interval: 5m, group_by: [tem]}]\n", "notify[0].group_by[0]", "unknown_column", "tem"),
        ("    notify: [{channel: out, when: row.tem == 1}]\n", "notify[0].when", "template_unknown_key", "tem"),
        ("    notify: [{channel: out, when: row.severity > 5}]\n", "notify[0].when", "template_failed", ""),
        ("    notify: [{channel: out, body: {x: ['{{ row.cnt }}']}}]\n", "notify[0].body.x[0]", "template_unknown_key", "cnt"),
        ("    notify: [out]\n    annotations: {a: '{{ row.cnt }}'}\n", "annotations.a", "template_unknown_key", "cnt"),
        ("    notify: [out]\n    annotations: {a: '{{ previous.since }}'}\n", "annotations.a", "template_null", "since"),
        ("    notify: [out]\n    annotations: {a: '{{ row.severity.x }}'}\n", "annotations.a", "template_null", "x"),
    ],
)  # fmt: skip
async def test_problem_is_found_at_its_setting(tmp_path: Path, added: str, path: str, code: str, name: str) -> None:
    """On a real row. A missing column comes with the columns that exist."""
    [problem] = await found(tmp_path, added)
    assert (problem.path, problem.code, problem.name) == (f"alerts.spike.{path}", code, name)
    assert problem.line == 8 + added.count("\n")
    if code == "unknown_column":
        assert problem.available == tuple(column.name for column in COLUMNS)


async def test_columns_with_one_name_are_refused(tmp_path: Path) -> None:
    assert places(await found(tmp_path, "", columns=(*COLUMNS, COLUMNS[0]), row=None)) == [
        (6, "alerts.spike", "ambiguous_column", "organization")
    ]


async def test_template_is_tried_only_for_what_is_sent(tmp_path: Path) -> None:
    added = '    annotations: {a: "{{ previous.since }}"}\n    notify: [{channel: out, on: [updated]}]\n'
    assert await found(tmp_path, added) == []


async def test_templates_are_checked_on_made_up_values(tmp_path: Path) -> None:
    """Missing keys of made-up JSON, comparisons of made-up values, and addresses made of them, are not reported."""
    added = """\
    annotations:
      a: "{{ row.cnt }}"
      b: "{{ row.since.year + row.deployment_cnt }}"
    notify: [{channel: out, when: row.organization > 3}]
"""
    [problem] = await found(tmp_path, added, row=None)
    assert (problem.path, problem.code) == ("alerts.spike.annotations.a", "template_unknown_key")
    assert "with made-up values" in problem.message
    columns = (*COLUMNS, Column(name="data", oid=JSONB))
    nested = '    notify: [out]\n    annotations: {a: "{{ row.data.user.name }}"}\n'
    assert await found(tmp_path, nested, columns=columns, row=None) == []


async def test_unreachable_source_is_reported_once(tmp_path: Path) -> None:
    seconds = iter((3, 4))

    async def describe(_: Alert) -> Columns:
        raise SourceError(f"u@h:5432/postgres: no answer within {next(seconds)} s", SourceReason.CONNECT)

    config = loaded(tmp_path, BEGIN + "  other: {source: db, relation: w}\n")
    assert places(await check_online(config, describe)) == [(1, "sources.db", "source", "")]


async def test_missing_relation_is_reported_at_the_alert(tmp_path: Path) -> None:
    async def describe(_: Alert) -> Columns:
        raise SourceError("unknown catalog item 'v'", SourceReason.MISSING)

    config = loaded(tmp_path, BEGIN)
    assert places(await check_online(config, describe)) == [(8, "alerts.spike.relation", "source", "")]
    rows = EVENTS.replace("['h:1']}", "['h:1'], state: true}").replace("  late: {source: broker, notify: [out]}\n", "")
    assert places(await check_online(loaded(tmp_path, rows), describe)) == [
        (6, "alerts.paid.topic", "source", ""),
        (7, "alerts.again.topic", "source", ""),
    ]


class Verified:
    """A source of events that was asked about `names`."""

    def __init__(self, *problems: str) -> None:
        self.names: Sequence[str] = ()
        self._problems = list(problems)

    async def verify(self, names: Sequence[str]) -> list[str]:
        self.names = names
        return self._problems


async def test_verdict_of_channel_is_reported(tmp_path: Path) -> None:
    class Strict(FakeChannel):
        async def verify(self) -> list[str]:
            return ["there is no workflow w"]

    async def describe(_: Alert) -> Columns:
        return COLUMNS

    channels = {"out": Strict(), "bare": FakeChannel()}
    [problem] = await check_online(loaded(tmp_path, BEGIN), describe, channels=channels)
    assert (problem.line, problem.path, problem.message) == (3, "channels.out", "there is no workflow w")


EVENTS = """\
sources:
  broker: {type: kafka, bootstrap_servers: ['h:1']}
  posted: {type: http, token: 0123456789abcdef}
channels: {out: {type: console}}
alerts:
  late: {source: broker, notify: [out]}
  paid: {source: broker, topic: shop.payments, notify: [out]}
  again: {source: broker, topic: shop.payments, notify: [out]}
  backup: {source: posted, event: backup_failed, notify: [out]}
"""


async def test_event_sources_are_asked_once_for_all_names(tmp_path: Path) -> None:
    async def never(alert: Alert) -> Columns:
        raise AssertionError(f"{alert.name} has no columns before its first event")

    broker, posted = Verified("no topic late", "no topic shop.payments"), Verified()
    config = loaded(tmp_path, EVENTS)
    problems = await check_online(config, never, sources={"broker": broker, "posted": posted, "x": object()})
    assert (broker.names, posted.names) == (["late", "shop.payments"], ["backup_failed"])
    assert places(problems) == [(2, "sources.broker", "refused", "")] * 2


class Described(Verified):
    """A source of events that knows their columns, and one event where `row` is given."""

    def __init__(self, columns: Columns | None, row: Row | None = None) -> None:
        super().__init__()
        self.columns = columns
        self.row = row

    async def describe(self, _: Subject) -> Columns | None:
        return self.columns

    async def sample(self, _: Subject) -> Row | None:
        return self.row


OF_EVENTS = (Column(name="id", oid=INT8), Column(name="severity", oid=TEXT), Column(name="data", oid=JSONB))
AN_EVENT = ("7", "page", '{"customer": "c1"}')
POSTGRES_EVENTS = """\
sources: {shop: {type: postgres_events, host: h, user: u}}
channels:
  line: {type: console}
  people: {type: novu, api_key: k, workflow: w, recipients: [{column: owner}], payload: [id, cnt], interval: 5m, group_by: [tem]}
  hook: {type: webhook, url: 'http://127.0.0.1/', body: {t: '{{ row.nope }}'}}
alerts:
  late:
    source: shop
"""


async def found_of_events(directory: Path, added: str, source: Described) -> list[tuple[str, str, str]]:
    async def describe(alert: Alert) -> Columns | None:
        return await source.describe(alert.subject)

    async def sample(alert: Alert) -> Row | None:
        return await source.sample(alert.subject)

    config = loaded(directory, POSTGRES_EVENTS + added)
    problems = await check_online(config, describe, sample, sources={"shop": source})
    return [(one.path.removeprefix("alerts.late."), one.code, one.name) for one in problems]


@pytest.mark.parametrize("row", [AN_EVENT, None], ids=["event", "no event"])
@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("    labels: [severty]\n    notify: [line]\n", ("labels.severty", "unknown_column", "severty")),
        ("    key: [cust]\n    notify: [line]\n", ("key[0]", "unknown_column", "cust")),
        ("    dedupe_by: [id, customer]\n    notify: [line]\n", ("dedupe_by[1]", "unknown_column", "customer")),
        ("    key: [severity.x]\n    notify: [line]\n", ("key[0]", "unknown_column", "severity.x")),
        ("    notify: [people]\n", ("notify[0].recipients[0].column", "unknown_column", "owner")),
        ("    notify: [people]\n", ("notify[0].payload[1]", "unknown_column", "cnt")),
        ("    notify: [people]\n", ("notify[0].group_by[0]", "unknown_column", "tem")),
        ("    notify: [{channel: line, when: 'row.severty == 1'}]\n", ("notify[0].when", "template_unknown_key", "severty")),
        ("    notify: [line]\n    annotations: {a: '{{ row.nope }}'}\n", ("annotations.a", "template_unknown_key", "nope")),
        ("    notify: [hook]\n", ("channels.hook.body.t", "template_unknown_key", "nope")),
    ],
)  # fmt: skip
async def test_columns_of_events_are_checked_where_known(
    tmp_path: Path, added: str, expected: Any, row: Row | None
) -> None:
    assert expected in await found_of_events(tmp_path, added, Described(OF_EVENTS, row))
    assert await found_of_events(tmp_path, "    key: [cust]\n    notify: [line]\n", Described(None)) == []


async def test_nested_names_of_events_are_checked(tmp_path: Path) -> None:
    """A field of a JSON column is checked against an event where there is one."""
    right = "    labels: {who: data.customer}\n    dedupe_by: [data.customer]\n    notify: [line]\n"
    wrong = right.replace("[data.customer]", "[data.custmer]")
    assert await found_of_events(tmp_path, right, Described(OF_EVENTS, AN_EVENT)) == []
    assert await found_of_events(tmp_path, wrong, Described(OF_EVENTS)) == []
    assert await found_of_events(tmp_path, wrong, Described(OF_EVENTS, AN_EVENT)) == [
        ("dedupe_by[0]", "unknown_field", "custmer")
    ]


async def test_nested_names_of_rows_are_refused(tmp_path: Path) -> None:
    """The query can select the field; a column whose own name has a dot is a column."""
    columns = (*COLUMNS, Column(name="data", oid=JSONB), Column(name="a.b", oid=TEXT))
    assert await found(tmp_path, "    labels: {x: a.b}\n", columns, row=None) == []
    problems = await found(tmp_path, "    key: [data.customer]\n", columns, row=None)
    assert places(problems) == [(9, "alerts.spike.key[0]", "nested_column", "data.customer")]


@pytest.mark.parametrize(("group", "warned"), [("[tem]", True), ("[tem, owner]", False), ("[who]", False)])
def test_digest_for_several_recipients_is_warned_of(tmp_path: Path, group: str, warned: bool) -> None:
    """The message goes to the recipients of one of its rows, so rows of others belong in another message."""
    begin = POSTGRES_EVENTS.replace("group_by: [tem]", f"group_by: {group}")
    config = loaded(tmp_path, begin + "    labels: {who: owner}\n    notify: [people]\n")
    at = (10, "alerts.late.notify[0].recipients[0].column", "mixed_recipients", "owner")
    assert (at in places(config.warnings)) is warned


@pytest.mark.parametrize("setting", ["to", "cc", "bcc"])
def test_merged_mail_to_row_recipients_warns(tmp_path: Path, setting: str) -> None:
    """A mail for several rows goes to the addresses of all of them."""
    text = f"""
sources: {{db: {{type: postgres, host: h, user: u, database: d}}}}
channels: {{mail: {{type: email, host: h, from: a@example.com, to: [ops@example.com], interval: 10m}}}}
alerts:
  late: {{source: db, relation: late, key: [id], notify: [{{channel: mail, {setting}: [{{column: owner}}]}}]}}
  fine: {{source: db, relation: late, key: [id], notify: [{{channel: mail, {setting}: [{{column: owner}}], group_by: [owner]}}]}}
"""
    at = f"alerts.late.notify[0].{setting}[0].column"
    assert places(loaded(tmp_path, text).warnings) == [(5, at, "mixed_recipients", "owner")]


def test_missing_files_and_directories_are_found_offline(tmp_path: Path) -> None:
    text = BEGIN.replace("user: u}", f"user: u, sslrootcert: system, sslcert: {tmp_path}/x.pem}}")
    config = loaded(tmp_path, text + f"ledger: {{path: {tmp_path}/none/t.db}}\nlog: {{output: {tmp_path}/c.log}}\n")
    assert places(check(config)) == [
        (9, "ledger.path", "no_directory", f"{tmp_path}/none"),
        (1, "sources.db.sslcert", "missing_file", f"{tmp_path}/x.pem"),
    ]


def test_missing_package_is_found_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.config.check.find_spec", lambda name: None if name in ("aio_pika", "apprise") else name)
    text = """\
sources: {letters: {type: rabbitmq, host: h, user: u, password: p, queue: q}}
channels:
  sms: {type: apprise, urls: ['json://h']}
  out: {type: console}
alerts: {late: {source: letters, notify: [sms, out]}}
"""
    assert places(check(loaded(tmp_path, text))) == [
        (1, "sources.letters.type", "missing_package", "rabbitmq"),
        (3, "channels.sms.type", "missing_package", "apprise"),
    ]
