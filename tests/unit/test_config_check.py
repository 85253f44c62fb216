"""What `tocsin check` finds once a file reads well: offline on this machine, online at sources and channels."""
# ruff: noqa: E501, ISC004 - a case of a table is one line, whatever it says

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.channels import FakeChannel
from tocsin.alert import Alert
from tocsin.config import Config, load
from tocsin.config.check import check, check_online
from tocsin.errors import Problem, SourceError, SourceReason
from tocsin.model import Column, Columns, Row
from tocsin.sources.base import Subject

TEXT, INT8, JSONB, TIMESTAMPTZ = 25, 20, 3802, 1184
COLUMNS = (
    Column(name="organization", oid=TEXT),
    Column(name="severity", oid=TEXT),
    Column(name="deployment_cnt", oid=INT8),
    Column(name="since", oid=TIMESTAMPTZ),
)
ROW = ("Acme", None, "12", "2026-01-02 03:04:05+00")
BEGIN = "sources: {db: {type: postgres, host: h, user: u}}\nchannels:\n  out: {type: webhook, url: 'http://127.0.0.1/'}\nalerts:\n  spike:\n    source: db\n    relation: v\n"
"""Seven lines; what a case adds begins in line 8, inside the alert `spike`."""


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, {})


async def found(
    tmp_path: Path, added: str, columns: Columns = COLUMNS, row: Row | None = ROW, begin: str = BEGIN
) -> list[str]:
    async def describe(alert: Alert) -> Columns:
        return columns

    async def sample(alert: Alert) -> Row | None:
        return row

    return shown(tmp_path, await check_online(loaded(tmp_path, begin + added), describe, sample))


def shown(tmp_path: Path, problems: list[Problem]) -> list[str]:
    return [str(problem).replace(f"{tmp_path}/", "") for problem in problems]


async def test_an_alert_whose_columns_and_templates_fit_has_no_problems(tmp_path: Path) -> None:
    added = """\
    labels: [organization]
    value: deployment_cnt
    ignore: [since]
    annotations:
      summary: "{{ labels.organization }} made {{ row.deployment_cnt + 1 }} since {{ row.since.hour }}"
      change: "{{ previous.deployment_cnt if previous else 0 }}"
    notify: [{channel: out, body: {text: "{{ annotations.summary }} {{ value }}"}}]
"""
    assert await found(tmp_path, added) == []


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("    labels: [organisation]\n", "c.yaml:8: alerts.spike.labels.organisation: there is no column 'organisation'; did you mean organization?"),
        ("    key: [organization, x]\n", "c.yaml:8: alerts.spike.key[1]: there is no column 'x'"),
        ("    value: cnt\n", "c.yaml:8: alerts.spike.value: there is no column 'cnt'"),
        ("    ignore: [deployment_count]\n", "c.yaml:8: alerts.spike.ignore[0]: there is no column 'deployment_count'; did you mean deployment_cnt?"),
    ],
)  # fmt: skip
async def test_a_missing_column_is_told_with_the_nearest_and_with_those_there_are(
    tmp_path: Path, added: str, expected: str
) -> None:
    there = "; there are organization, severity, deployment_cnt, since"
    assert await found(tmp_path, added) == [expected + there]


async def test_a_column_that_a_channels_payload_names_must_exist(tmp_path: Path) -> None:
    begin = BEGIN.replace(
        "{type: webhook, url: 'http://127.0.0.1/'}",
        "{type: novu, api_key: k, workflow: w, recipients: [{column: owner}], payload: [organization, cnt]}",
    )
    there = "; there are organization, severity, deployment_cnt, since"
    assert await found(tmp_path, "    notify: [out]\n", begin=begin) == [
        f"c.yaml:8: alerts.spike.notify[0].payload[1]: there is no column 'cnt'{there}",
        f"c.yaml:8: alerts.spike.notify[0].recipients[0].column: there is no column 'owner'{there}",
    ]


async def test_a_value_column_must_hold_numbers(tmp_path: Path) -> None:
    expected = "c.yaml:8: alerts.spike.value: severity is of type text, which is no number; cast it in the view"
    assert await found(tmp_path, "    value: severity\n") == [expected]
    assert await found(tmp_path, "    value: since\n") == []


async def test_columns_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    assert await found(tmp_path, "", columns=(*COLUMNS, COLUMNS[0]), row=None) == [
        "c.yaml:5: alerts.spike: there are several columns 'organization'; give each its own name"
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ row.cnt }}", "line 1: there is no 'cnt' among organization, severity, deployment_cnt, since (tried for 'fired')"),
        ("{{ previous.since }}", "line 1: 'since' of something that is NULL (tried for 'fired')"),
        ("{{ row.severity.x }}", "line 1: 'x' of something that is NULL (tried for 'fired')"),
    ],
)  # fmt: skip
async def test_a_template_that_fails_on_a_real_row_is_told(tmp_path: Path, template: str, expected: str) -> None:
    added = f'    notify: [out]\n    annotations:\n      a: "{template}"\n'
    assert await found(tmp_path, added) == [f"c.yaml:10: alerts.spike.annotations.a: {expected}"]


async def test_a_template_in_a_channels_options_is_tried_too(tmp_path: Path) -> None:
    added = '    notify:\n    - channel: out\n      body: {x: ["{{ row.cnt }}"]}\n'
    assert await found(tmp_path, added) == [
        "c.yaml:10: alerts.spike.notify[0].body.x[0]: there is no 'cnt' among organization, severity, deployment_cnt, since (tried for 'fired')"
    ]


async def test_a_template_is_tried_only_for_what_is_sent(tmp_path: Path) -> None:
    added = '    annotations: {a: "{{ previous.since }}"}\n    notify: [{channel: out, on: [updated]}]\n'
    assert await found(tmp_path, added) == []


async def test_without_a_row_templates_are_tried_on_made_up_values(tmp_path: Path) -> None:
    added = '    notify: [out]\n    annotations:\n      a: "{{ row.cnt }}"\n      b: "{{ row.since.year + row.deployment_cnt }}"\n'
    assert await found(tmp_path, added, row=None) == [
        "c.yaml:10: alerts.spike.annotations.a: line 1: there is no 'cnt' among organization, severity, deployment_cnt, "
        "since (tried for 'fired', with made-up values since there is no row now)"
    ]


async def test_made_up_json_is_not_held_against_a_template(tmp_path: Path) -> None:
    columns = (*COLUMNS, Column(name="data", oid=JSONB))
    added = '    notify: [out]\n    annotations: {a: "{{ row.data.user.name }}"}\n'
    assert await found(tmp_path, added, columns=columns, row=None) == []


async def test_a_source_that_does_not_answer_is_told_once_for_all_its_alerts(tmp_path: Path) -> None:
    seconds = iter((3, 4))

    async def describe(alert: Alert) -> Columns:
        raise SourceError(f"u@h:5432/postgres: no answer within {next(seconds)} s", SourceReason.CONNECT)

    config = loaded(tmp_path, BEGIN + "  other: {source: db, relation: w}\n")
    assert shown(tmp_path, await check_online(config, describe)) == [
        "c.yaml:1: sources.db: u@h:5432/postgres: no answer within 3 s"
    ]


async def test_a_missing_relation_is_told_at_the_alert(tmp_path: Path) -> None:
    async def describe(alert: Alert) -> Columns:
        raise SourceError("unknown catalog item 'v'", SourceReason.MISSING)

    assert shown(tmp_path, await check_online(loaded(tmp_path, BEGIN), describe)) == [
        "c.yaml:7: alerts.spike.relation: unknown catalog item 'v'"
    ]


async def test_what_a_channel_says_of_itself_is_told(tmp_path: Path) -> None:
    class Strict(FakeChannel):
        async def verify(self) -> list[str]:
            return ["there is no workflow 'w'"]

    async def describe(alert: Alert) -> Columns:
        return COLUMNS

    config = loaded(tmp_path, BEGIN)
    assert shown(tmp_path, await check_online(config, describe, channels={"out": Strict(), "bare": FakeChannel()})) == [
        "c.yaml:3: channels.out: there is no workflow 'w'"
    ]


class Events:
    """A source of events that was asked about `names`."""

    def __init__(self, *problems: str) -> None:
        self.names: Sequence[str] = ()
        self._problems = list(problems)

    async def verify(self, names: Sequence[str]) -> list[str]:
        self.names = names
        return self._problems


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


async def never(alert: Alert) -> Columns:
    raise AssertionError(f"{alert.name} has no columns before its events come")


async def test_a_source_of_events_is_asked_once_for_the_names_that_its_alerts_take(tmp_path: Path) -> None:
    broker, posted = Events(), Events()
    config = loaded(tmp_path, EVENTS)
    assert await check_online(config, never, sources={"broker": broker, "posted": posted}) == []
    assert broker.names == ["late", "shop.payments"]
    assert posted.names == ["backup_failed"]


async def test_whatever_a_source_of_events_says_is_told_at_the_source(tmp_path: Path) -> None:
    broker = Events("there is no topic late", "there is no topic shop.payments")
    config = loaded(tmp_path, EVENTS)
    assert shown(tmp_path, await check_online(config, never, sources={"broker": broker, "posted": object()})) == [
        "c.yaml:2: sources.broker: there is no topic late",
        "c.yaml:2: sources.broker: there is no topic shop.payments",
    ]


class Described(Events):
    """A source of events that knows their columns, and one event where `row` is given."""

    def __init__(self, columns: Columns | None, row: Row | None = None) -> None:
        super().__init__()
        self.columns = columns
        self.row = row

    async def describe(self, subject: Subject) -> Columns | None:
        return self.columns

    async def sample(self, subject: Subject) -> Row | None:
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


async def found_of_events(tmp_path: Path, added: str, source: Described) -> list[str]:
    config = loaded(tmp_path, POSTGRES_EVENTS + added)

    async def describe(alert: Alert) -> Columns | None:
        return await source.describe(alert.subject)

    async def sample(alert: Alert) -> Row | None:
        return await source.sample(alert.subject)

    return shown(tmp_path, await check_online(config, describe, sample, sources={"shop": source}))


@pytest.mark.parametrize("row", [AN_EVENT, None], ids=["event", "no event"])
@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("    labels: [severty]\n    notify: [line]\n", "alerts.late.labels.severty: there is no column 'severty'; did you mean severity?"),
        ("    key: [cust]\n    notify: [line]\n", "alerts.late.key[0]: there is no column 'cust'"),
        ("    dedupe_by: [id, customer]\n    notify: [line]\n", "alerts.late.dedupe_by[1]: there is no column 'customer'"),
        ("    value: total\n    notify: [line]\n", "alerts.late.value: there is no column 'total'"),
        ("    notify: [people]\n", "alerts.late.notify[0].recipients[0].column: there is no column 'owner'"),
        ("    notify: [people]\n", "alerts.late.notify[0].payload[1]: there is no column 'cnt'"),
        ("    notify: [people]\n", "alerts.late.notify[0].group_by[0]: there is no column 'tem'"),
        ("    notify: [{channel: line, when: 'row.severty == 1'}]\n", "alerts.late.notify[0].when: line 1: there is no 'severty' among id, severity, data (tried for 'event'"),
        ("    notify: [line]\n    annotations: {summary: '{{ row.nope }}'}\n", "alerts.late.annotations.summary: line 1: there is no 'nope' among id, severity, data (tried for 'event'"),
        ("    notify: [hook]\n", "channels.hook.body.t: there is no 'nope' among id, severity, data (tried for 'event'"),
    ],
)  # fmt: skip
async def test_columns_of_events_are_checked_where_known(
    tmp_path: Path, added: str, expected: str, row: Row | None
) -> None:
    """Wherever an alert on events names a column, as for rows."""
    assert any(expected in problem for problem in await found_of_events(tmp_path, added, Described(OF_EVENTS, row)))


async def test_events_of_unknown_columns_are_not_checked(tmp_path: Path) -> None:
    """A topic that is still empty says nothing about its records."""
    assert await found_of_events(tmp_path, "    key: [cust]\n    notify: [line]\n", Described(None)) == []


async def test_nested_names_of_events_are_checked(tmp_path: Path) -> None:
    """A field of a JSON column is looked for in an event where there is one."""
    right = "    labels: {who: data.customer}\n    dedupe_by: [data.customer]\n    notify: [line]\n"
    wrong = right.replace("[data.customer]", "[data.custmer]")
    assert await found_of_events(tmp_path, right, Described(OF_EVENTS, AN_EVENT)) == []
    assert await found_of_events(tmp_path, wrong, Described(OF_EVENTS)) == []
    assert await found_of_events(tmp_path, wrong, Described(OF_EVENTS, AN_EVENT)) == [
        "c.yaml:10: alerts.late.dedupe_by[0]: there is no field 'custmer' in data of the event that was looked at;"
        " did you mean customer?"
    ]
    assert "no column 'severity.x'" in (
        await found_of_events(tmp_path, "    key: [severity.x]\n    notify: [line]\n", Described(OF_EVENTS, AN_EVENT))
    )[0]  # fmt: skip


async def test_nested_names_of_rows_are_refused_with_the_fix(tmp_path: Path) -> None:
    """The query can select the field; a column whose own name has a dot is a column."""
    columns = (*COLUMNS, Column(name="data", oid=JSONB), Column(name="a.b", oid=TEXT))
    assert await found(tmp_path, "    labels: {x: a.b}\n", columns, row=None) == []
    assert await found(tmp_path, "    key: [data.customer]\n", columns, row=None) == [
        "c.yaml:8: alerts.spike.key[0]: there is no column 'data.customer'; a field of data needs a column of its own:"
        " select it in the view or query, as in data->>'customer'"
    ]


@pytest.mark.parametrize(("group", "warned"), [("[tem]", True), ("[tem, owner]", False), ("[who]", False)])
def test_digest_of_several_recipients_is_warned_of(tmp_path: Path, group: str, warned: bool) -> None:
    """The message goes to the recipients of one of its rows, so rows of others belong in another message."""
    begin = POSTGRES_EVENTS.replace("group_by: [tem]", f"group_by: {group}")
    config = loaded(tmp_path, begin + "    labels: {who: owner}\n    notify: [people]\n")
    shown_ = shown(tmp_path, list(config.warnings))
    expected = "c.yaml:10: alerts.late.notify[0].recipients[0].column: with interval, rows of every owner are merged"
    assert [line.startswith(expected) for line in shown_ if "interval" in line] == [True] * warned


@pytest.mark.parametrize("setting", ["to", "cc", "bcc"])
def test_mail_that_shows_rows_to_others_is_warned_of(tmp_path: Path, setting: str) -> None:
    """A mail for several rows goes to the addresses of all of them."""
    text = f"""
sources: {{db: {{type: postgres, host: h, user: u, database: d}}}}
channels: {{mail: {{type: email, host: h, from: a@example.com, to: [ops@example.com], interval: 10m}}}}
alerts:
  late: {{source: db, relation: late, key: [id], notify: [{{channel: mail, {setting}: [{{column: owner}}]}}]}}
  fine: {{source: db, relation: late, key: [id], notify: [{{channel: mail, {setting}: [{{column: owner}}], group_by: [owner]}}]}}
"""
    assert shown(tmp_path, list(loaded(tmp_path, text).warnings)) == [
        f"c.yaml:5: alerts.late.notify[0].{setting}[0].column: with interval, rows of every owner are merged into one"
        " message, which shows all of them to each owner; add owner to group_by"
    ]


async def test_a_missing_topic_of_rows_is_told_at_the_alert(tmp_path: Path) -> None:
    async def describe(alert: Alert) -> Columns:
        raise SourceError(f"there is no topic {alert.subject.topic}", SourceReason.MISSING)

    rows = EVENTS.replace("['h:1']}", "['h:1'], state: true}").replace("  late: {source: broker, notify: [out]}\n", "")
    assert shown(tmp_path, await check_online(loaded(tmp_path, rows), describe)) == [
        "c.yaml:6: alerts.paid.topic: there is no topic shop.payments",
        "c.yaml:7: alerts.again.topic: there is no topic shop.payments",
    ]


def test_files_and_directories_that_are_missing_are_told_offline(tmp_path: Path) -> None:
    text = BEGIN.replace("user: u}", f"user: u, sslrootcert: system, sslcert: {tmp_path}/x.pem}}")
    config = loaded(tmp_path, text + f"ledger: {{path: {tmp_path}/none/t.db}}\nlog: {{output: {tmp_path}/c.log}}\n")
    assert shown(tmp_path, check(config)) == [
        "c.yaml:8: ledger.path: there is no directory none",
        "c.yaml:1: sources.db.sslcert: there is no file x.pem",
    ]


def test_a_package_that_is_not_installed_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.config.check.find_spec", lambda name: None if name in ("aio_pika", "apprise") else name)
    config = loaded(
        tmp_path,
        (
            "sources: {letters: {type: rabbitmq, host: h, user: u, password: p, queue: q}}\n"
            "channels:\n  sms: {type: apprise, urls: ['json://h']}\n  out: {type: console}\n"
            "alerts: {late: {source: letters, notify: [sms, out]}}\n"
        ),
    )
    assert shown(tmp_path, check(config)) == [
        "c.yaml:1: sources.letters.type: needs a package: pip install 'tocsin[rabbitmq]'",
        "c.yaml:3: channels.sms.type: needs a package: pip install 'tocsin[apprise]'",
    ]


def test_options_that_say_what_is_missing_are_asked_when_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tocsin.channels.webhook import Options
    from tocsin.errors import ConfigError

    monkeypatch.setattr(Options, "missing", lambda options: None if options.body else "no body is given", raising=False)
    assert loaded(tmp_path, BEGIN + "    notify: [{channel: out, body: {a: b}}]\n").alerts
    with pytest.raises(ConfigError, match=r"c\.yaml:8: alerts\.spike\.notify\[0\]: channel out: no body is given$"):
        loaded(tmp_path, BEGIN + "    notify: [out]\n")
