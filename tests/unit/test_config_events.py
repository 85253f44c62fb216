"""Alerts on events, conditions and intervals, as the configuration takes and refuses them."""
# ruff: noqa: E501 - a case of a table is one line, whatever it says

from pathlib import Path

import pytest

from tocsin.config import Config, load
from tocsin.config.check import check_online
from tocsin.errors import ConfigError
from tocsin.model import Column, Columns, Row

BEGIN = """\
sources:
  posted: {type: http, token: 0123456789abcdef}
  db: {type: postgres, host: h, user: u}
channels:
  out: {type: console}
alerts:
"""
"""Six lines; what a case adds begins in line 7."""

EVENTS = "  orders:\n    source: posted\n    notify: [out]\n"
ROWS = "  late:\n    source: db\n    relation: v\n    labels: [team]\n    notify: [out]\n"


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "c.yaml"
    file.write_text(BEGIN + text, encoding="utf-8")
    return load(file, {})


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_an_alert_on_events_takes_those_of_its_name_or_of_another(tmp_path: Path) -> None:
    config = loaded(tmp_path, EVENTS + "  other: {source: posted, event: order.created, notify: [out]}\n")
    assert [alert.subject.event for alert in config.event_alerts.values()] == ["orders", "order.created"]


def test_an_alert_on_events_may_have_a_name_that_no_metric_can_have(tmp_path: Path) -> None:
    assert "order-created" in loaded(tmp_path, EVENTS.replace("orders", "order-created")).alerts


def test_what_is_in_effect_is_shown_in_words_that_can_be_read_again(tmp_path: Path) -> None:
    shown = loaded(tmp_path, EVENTS + "    dedupe_by: [id]\n    dedupe_window: 90s\n").redacted()["alerts"]["orders"]
    assert (shown["event"], shown["dedupe_by"], shown["dedupe_window"]) == ("orders", ["id"], "1m30s")
    assert "metric" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EVENTS + "    for: 5m\n", "c.yaml:10: alerts.orders.for: the source posted gives events, which neither fire nor resolve; remove for"),
        (EVENTS + "    metric: orders\n", "c.yaml:10: alerts.orders.metric: the source posted gives events, which neither fire nor resolve; remove metric"),
        (EVENTS + "    relation: v\n", "c.yaml:10: alerts.orders.relation: the source posted knows no relation; give event"),
        (EVENTS.replace("    notify: [out]\n", ""), "c.yaml:7: alerts.orders.notify: events have no gauge; give a channel to notify"),
        (ROWS + "    dedupe_by: [id]\n", "c.yaml:12: alerts.late.dedupe_by: the source db gives rows, not events; remove dedupe_by"),
        (ROWS + "    event: x\n", "c.yaml:7: alerts.late: give either relation or event, not both"),
        (ROWS.replace("    relation: v\n", ""), "c.yaml:7: alerts.late: give either relation or query"),
        (ROWS.replace("relation: v", "event: x"), "c.yaml:9: alerts.late.event: the source db knows no event; give relation or query"),
        (EVENTS + "    dedupe_window: 5m\n", "c.yaml:10: alerts.orders.dedupe_window: is the time for which repeats are held back; dedupe_by must say what a repeat is"),
        (EVENTS.replace("[out]", "[{channel: out, on: [fired, resolved]}]"), "c.yaml:9: alerts.orders.notify[0]: out would never be told: `on` has no kind that this alert gives"),
        (EVENTS.replace("[out]", "[{channel: out, when: 'row.a ='}]"), "c.yaml:9: alerts.orders.notify[0].when: line 1: expected token 'the end', got '='"),
        (EVENTS.replace("[out]", "[{channel: out, when: 'status == 1'}]"), "c.yaml:9: alerts.orders.notify[0].when: there is no variable 'status'; known are alert, fingerprint, labels, row, started_at, value"),
        (EVENTS.replace("[out]", "[{channel: out, when: 'row }}{{ row'}]"), "c.yaml:9: alerts.orders.notify[0].when: write one expression, such as row.severity == 'page'"),
        (EVENTS.replace("[out]", "[{channel: out, group_by: [team]}]"), "c.yaml:9: alerts.orders.notify[0]: group_by needs interval"),
        (EVENTS.replace("[out]", "[{channel: out, interval: 5}]"), "c.yaml:9: alerts.orders.notify[0].interval: 5 is not a duration; write for example 500ms, 30s, 5m or 1h30m"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_remedy(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{type: http}", "give either token or signing_secret: whoever reaches the port could send events otherwise"),
        ("{type: http, token: short}", "has fewer than 16 characters, which can be guessed"),
        (
            "{type: http, signing_secret: whsec_c2hvcnQ=}",
            "a signing secret is whsec_ followed by 24 to 64 bytes in base64",
        ),
    ],
)
def test_a_source_over_http_must_ask_for_something_that_cannot_be_guessed(
    tmp_path: Path, settings: str, expected: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BEGIN.replace("{type: http, token: 0123456789abcdef}", settings) + EVENTS)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert expected in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("when: row.tem == 'a'", "alerts.late.notify[0].when: line 1: there is no 'tem' among team, amount (tried for 'fired')"),
        ("when: row.amount > 5", "alerts.late.notify[0].when: line 1: TypeError"),
        ("interval: 5m, group_by: [tem]", "alerts.late.notify[0].group_by[0]: there is no column 'tem'; did you mean team?"),
        ("interval: 5m, group_by: [team]", ""),
        ("when: row.team == 'x' and labels.team != 'y'", ""),
    ],
)  # fmt: skip
async def test_online_a_condition_is_tried_on_a_real_row(tmp_path: Path, options: str, expected: str) -> None:
    columns = (Column(name="team", oid=25), Column(name="amount", oid=1700))

    async def describe(_: object) -> Columns:
        return columns

    async def sample(_: object) -> Row | None:
        return ("a", None)

    config = loaded(tmp_path, EVENTS + ROWS.replace("[out]", f"[{{channel: out, {options}}}]"))
    found = [str(problem) for problem in await check_online(config, describe, sample)]
    assert any(expected in problem for problem in found) if expected else not found, found
