"""What is wrong with the templates of a webhook, told when the configuration is read and when it is checked online."""
# ruff: noqa: E501 - a case of a table is one line, whatever it says

import json
import textwrap
from pathlib import Path

import pytest

from tocsin.alert import Alert
from tocsin.config import Config, load
from tocsin.config.check import check_online
from tocsin.config.schema import schema
from tocsin.errors import ConfigError
from tocsin.model import Column, Columns, Row

COLUMNS = (Column(name="team", oid=25), Column(name="count", oid=20), Column(name="note", oid=25))
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


def loaded(tmp_path: Path, channel: str, route: str = "") -> Config:
    file = tmp_path / "c.yaml"
    text = channel if "url:" in channel else f"url: http://h/\n{channel}"
    file.write_text(ALERT % route + textwrap.indent(text, "    "), encoding="utf-8")
    return load(file, {})


def wrong(tmp_path: Path, channel: str, route: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, channel, route)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


async def found(tmp_path: Path, channel: str, row: Row | None, route: str = "") -> list[str]:
    async def describe(alert: Alert) -> Columns:
        return COLUMNS

    async def sample(alert: Alert) -> Row | None:
        return row

    config = loaded(tmp_path, channel, route)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in await check_online(config, describe, sample)]


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ('body: {text: ["{{ vlaue }}"]}', "c.yaml:14: channels.out.body.text[0]: there is no variable 'vlaue'; known are "),
        ('body_text: "{{ vlaue }}"', "c.yaml:14: channels.out.body_text: there is no variable 'vlaue'; known are "),
        ('url: "http://h/{{ vlaue }}"', "c.yaml:13: channels.out.url: there is no variable 'vlaue'; known are "),
        ('headers: {X-A: "{{ vlaue }}"}', "c.yaml:14: channels.out.headers.X-A: there is no variable 'vlaue'; known are "),
        ('query: {q: "{{ vlaue }}"}', "c.yaml:14: channels.out.query.q: there is no variable 'vlaue'; known are "),
        ('method: "{{ vlaue }}"', "c.yaml:14: channels.out.method: there is no variable 'vlaue'; known are "),
        ('body: {text: ["{{ labels.taem }}"]}', "c.yaml:14: channels.out.body.text[0]: there is no 'taem' among team (for alert spike)"),
        ('body_text: \'{"a": {{ annotations.sum | json }}}\'', "c.yaml:14: channels.out.body_text: line 1: there is no 'sum' among summary (for alert spike)"),
        ('url: "http://h/{{ labels.taem }}"', "c.yaml:13: channels.out.url: line 1: there is no 'taem' among team (for alert spike)"),
        ('headers: {X-A: "{{ labels.taem }}"}', "c.yaml:14: channels.out.headers.X-A: line 1: there is no 'taem' among team (for alert spike)"),
        ('query: {q: "{{ labels.taem }}"}', "c.yaml:14: channels.out.query.q: line 1: there is no 'taem' among team (for alert spike)"),
        ('method: "{{ labels.taem }}"', "c.yaml:14: channels.out.method: line 1: there is no 'taem' among team (for alert spike)"),
        ('secrets: {key: HUSH-0001}\nbody: {a: "{{ secrets.kee }}"}', "c.yaml:15: channels.out.body.a: there is no 'kee' among key (for alert spike)"),
        ("body: {a: \"{{ {'fired': 1, 'resolved': 2}[status] }}\"}", "c.yaml:14: channels.out.body.a: there is no 'updated' among fired, resolved (for alert spike)"),
        ('body: {a: "{{ secrets.key }}"}', "c.yaml:14: channels.out.body.a: line 1: there is no 'secrets' (for alert spike)"),
        ("body_text: '{\"a\": {{ id }}}'", "c.yaml:14: channels.out.body_text: the rendered text is not JSON (line 1, column 8: "),
        ("body_text: 'late: {{ row.note }}'", "c.yaml:14: channels.out.body_text: the rendered text is not JSON (line 1, column 1: "),
        ('body_text: \'{"a": {{ row.count }},}\'', "c.yaml:14: channels.out.body_text: the rendered text is not JSON (line 1, column "),
        ('batch: array\ncontent_type: text/plain\nbody_text: "late"', "c.yaml:16: channels.out.body_text: the rendered text is not JSON "),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_right_is_refused_with_its_line_when_the_file_is_read(
    tmp_path: Path, channel: str, expected: str
) -> None:
    [problem] = wrong(tmp_path, channel)
    assert problem.startswith(expected)
    assert "HUSH" not in problem


def test_a_fault_in_the_alerts_own_options_is_told_there(tmp_path: Path) -> None:
    expected = "c.yaml:9: alerts.spike.notify[0].body.a: there is no 'taem' among team"
    assert wrong(tmp_path, "", ", body: {a: '{{ labels.taem }}'}") == [expected]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    channel = 'url: "http://h/{{ labels.a }}"\nheaders: {X: "{{ labels.b }}", Y: "{{ labels.c }}"}\nbody: {z: "{{ labels.d }}"}'
    assert [problem.split("'")[1] for problem in wrong(tmp_path, channel)] == ["a", "b", "c", "d"]


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
def test_what_may_be_right_is_not_refused(tmp_path: Path, channel: str) -> None:
    assert "out" in loaded(tmp_path, channel).channels


async def test_online_the_same_is_tried_on_a_real_row(tmp_path: Path) -> None:
    channel = (
        'url: "http://h/{{ row.nonesuch }}"\nheaders: {X: "{{ row.note }}"}\nbody_text: \'{"a": "{{ row.note }}"}\''
    )
    there = "among team, count, note (tried for 'fired' of alert spike)"
    assert await found(tmp_path, channel, ("a", "3", 'a "quote"\n')) == [
        f"c.yaml:13: channels.out.url: line 1: there is no 'nonesuch' {there}",
        "c.yaml:14: channels.out.headers.X: the rendered value is not one line of printable characters (tried for 'fired' of alert spike)",
        "c.yaml:15: channels.out.body_text: the rendered text is not JSON (line 1, column 11: Expecting ',' delimiter); insert values with the filter json, or use body (tried for 'fired' of alert spike)",
    ]
    assert (
        await found(tmp_path, 'body: {a: "{{ row.note }}", n: "{{ merged | length }}"}', ("a", "3", 'a "quote"\n'))
        == []
    )


async def test_online_without_a_row_a_made_up_address_is_not_held_against_the_template(tmp_path: Path) -> None:
    assert await found(tmp_path, 'url: "{{ row.note }}"', None) == []
    [problem] = await found(tmp_path, 'url: "http://h/{{ row.nonesuch }}"', None)
    assert problem.endswith("(tried for 'fired', with made-up values since there is no row now of alert spike)")
    assert "there is no 'nonesuch' among team, count, note" in problem


async def test_a_secret_that_a_template_would_show_in_an_error_is_not_shown(tmp_path: Path) -> None:
    channel = 'secrets: {key: HUSH-0001}\nbody: {a: "{{ row[secrets.key] }}"}'
    [problem] = await found(tmp_path, channel, ("a", "3", "x"))
    assert "there is no '<secret>' among team" in problem


def test_nothing_of_a_secret_is_in_the_configuration_that_is_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("HUSH-from-a-file")
    config = loaded(
        tmp_path,
        f"""\
url: "http://h/HUSH-0001/{{{{ secrets.key }}}}"
secrets: {{key: HUSH-0002, other_file: {tmp_path}/key}}
headers: {{X: HUSH-0003}}
query: {{q: HUSH-0004}}
signing_secret: whsec_{"SFVTSA" * 8}
body: {{a: "{{{{ secrets.key }}}} HUSH-0002"}}
""",
    )
    shown = json.dumps(config.redacted()) + repr(config)
    assert "HUSH" not in shown
    assert "SFVTSA" not in shown
    assert '"secrets": {"key": "<secret>", "other": "<secret>"}' in shown


def test_the_json_schema_has_every_setting_of_a_webhook() -> None:
    properties = schema()["$defs"]["webhook_channel"]["properties"]
    for name in (
        "url",
        "method",
        "headers",
        "query",
        "secrets",
        "body",
        "body_text",
        "success",
        "signing_secret",
        "batch",
    ):
        assert properties[name]["description"]
    assert "secret_values" not in properties


def test_setting_without_effect_is_a_warning(tmp_path: Path) -> None:
    config = loaded(tmp_path, "max_redirects: 3")
    [warning] = config.warnings
    assert warning.path == "channels.out.max_redirects"
    assert warning.line is not None
