"""Matchers as Alertmanager reads them, silences as people ask for them, and what becomes of held notifications."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.explaining import alert
from tocsin.model import Kind
from tocsin.silences import AskingError, Matchers, MatchersError, State, asked, parse
from tocsin.silences.ending import Held, came_and_went
from tocsin.silences.matchers import Matcher, Operator, read
from tocsin.web.matching import warnings_of

RECORDED = Path(__file__).parents[1] / "recordings" / "alertmanager" / "matchers.jsonl"


# Matchers.


def recorded() -> list[Any]:
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


def test_texts_mean_what_they_mean_to_alertmanager() -> None:
    """Texts, labels, and what Alertmanager 0.35 made of them; null: it refuses the text."""
    wrong = []
    for text, labels, expected, matches in recorded():
        try:
            matchers: Matchers | None = Matchers(tuple(read(text)))
        except MatchersError:
            matchers = None
        found = None if matchers is None else [[one.name, one.operator, one.value] for one in matchers.each]
        if found != expected or (matchers and matchers.match(labels)) != matches:
            wrong.append((text, labels, expected, found))
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there is no matcher"),
        ('alertname="late', "at character 11, '\"late': the closing \" is missing"),
        ("a='b'", "at character 3, \"'b'\": ' is not valid here; quote texts with \""),
        ("alertname=late orders", "at character 16, 'orders': expected a comma"),
        ("{a=b", "at the end: expected a comma or }"),
        ("a=b}", "at character 4, '}': there is no opening {"),
        ("a", "at the end: expected one of =, !=, =~, !~"),
        ("a=", 'at the end: expected a value; an empty one is ""'),
        (r'a="\q"', r"unknown escape \q; in quotes, write \\ for a backslash"),
        ('a=~"("', "not a valid expression of RE2: missing ): ^(?:()$"),
        ("a=" + "b" * 4000, "at most 4,000 are allowed"),
        ("a!=b", 'or alertname=~".+" for all alerts'),
        ('a=~".*"', 'or alertname=~".+" for all alerts'),
        ("a\ud800=b", "at character 2, '\\ud800=b': there is no such character"),
    ],
)
def test_error_names_place_and_fix(text: str, expected: str) -> None:
    with pytest.raises(MatchersError) as caught:
        parse(text)
    assert expected in str(caught.value)


@given(st.text(min_size=1), st.sampled_from(Operator), st.text())
def test_matchers_are_shown_as_they_are_read(name: str, operator: Operator, value: str) -> None:
    """Also with quotes, line breaks, spaces and braces in them."""
    shown = str(Matchers((Matcher(name, operator, value), Matcher("alertname", Operator.EQUAL, "late"))))
    try:
        found = parse(shown)
    except MatchersError as error:
        assert "expression of RE2" in str(error) or "\\C" in str(error)  # noqa: PT017 - any text may be none
        return
    assert (found.each[0].name, found.each[0].operator, found.each[0].value) == (name, operator, value)


@pytest.mark.parametrize("expression", ["(x+x+)+y", "(.*a.*){60}", "(a?){500}a{500}", "(.{1,10}){90}", "(a|aa)+$"])
def test_hostile_expression_takes_no_time(expression: str) -> None:
    matchers = parse(f'alertname=~"{expression}"')
    began = time.process_time()
    for text in ("a" * 200, "x" * 200, "é" * 200):
        matchers.match({"alertname": text})
    assert time.process_time() - began < 0.5


# Asking for one.

NOW = 1_700_000_000.0
ASKED = {"matchers": "alertname=late", "reason": "a move", "for": "2h"}


def test_times_are_durations_or_have_a_zone() -> None:
    made = asked(ASKED).made("s", NOW)
    assert (made.starts_at, made.ends_at, made.state(NOW)) == (NOW, NOW + 7200, State.ACTIVE)
    later = asked({**ASKED, "starts_at": "30m"}).made("s", NOW)
    assert (later.starts_at, later.ends_at, later.state(NOW)) == (NOW + 1800, NOW + 9000, State.PENDING)
    until = asked({**ASKED, "for": None, "ends_at": "2023-11-15T00:00+01:00"}).made("s", NOW)
    assert (until.ends_at, until.state(until.ends_at)) == (1_700_002_800.0, State.EXPIRED)
    endless = asked({**ASKED, "for": "999999999999d"}).made("s", NOW)
    assert endless.ends_at == 253_402_300_799  # the last one that can be shown
    assert endless == asked({**ASKED, "for": None, "ends_at": "999999999999d"}).made("s", NOW)
    with pytest.raises(AskingError, match="is not a duration"):
        asked({**ASKED, "for": f"{'9' * 400}d"}).made("s", NOW)
    with pytest.raises(AskingError, match="write a time with its zone"):
        asked({**ASKED, "starts_at": "tomorrow"}).made("s", NOW)


# The end.

FIRED, UPDATED, RESOLVED, REPEATED, EVENT = Kind.FIRED, Kind.UPDATED, Kind.RESOLVED, Kind.REPEATED, Kind.EVENT


@pytest.mark.parametrize(
    ("kinds", "goes_on", "sent"),
    [
        ([FIRED], True, [FIRED]),
        ([FIRED, UPDATED], True, [FIRED, UPDATED]),
        ([FIRED, UPDATED, RESOLVED], False, []),
        ([FIRED], False, []),
        ([RESOLVED], False, [RESOLVED]),
        ([UPDATED, RESOLVED], False, [UPDATED, RESOLVED]),
        ([RESOLVED, FIRED, RESOLVED], False, [RESOLVED]),  # it left and came back into a route
        ([RESOLVED, FIRED], True, [RESOLVED, FIRED]),
        ([FIRED, RESOLVED, FIRED, UPDATED], True, [FIRED, UPDATED]),
        ([EVENT], False, []),
        ([REPEATED, REPEATED], True, []),
        ([FIRED, REPEATED, RESOLVED], False, []),
        ([REPEATED, RESOLVED], False, [RESOLVED]),
    ],
)
def test_what_came_and_went_is_dropped(kinds: list[Kind], goes_on: bool, sent: list[Kind]) -> None:
    held = [Held(seq, "hook", "key", "s", "late", "f", 1, kind, goes_on) for seq, kind in enumerate(kinds)]
    why = came_and_went(held)
    assert [one.kind for one in held if one.seq not in why] == sent


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        (
            'alertname="late_oders"',
            ['no alert of the configuration matches alertname="late_oders"; did you mean late_orders?'],
        ),
        (
            'alertname!="late_oders", a="b"',
            ['no alert of the configuration matches alertname="late_oders"', "the label a"],
        ),
        ('alertname=~"early.*"', ['no alert of the configuration matches alertname=~"early.*"']),
        ('alertname=~"late.*", customer="Ann"', []),
        ('alertname!~"late.*", region="eu"', []),
        ('alertname="late_orders", region="eu"', ["no alert that alertname matches has the label region"]),
        ('custmer="Ann"', ["no alert of the configuration has the label custmer; did you mean customer?"]),
    ],
)
def test_names_that_no_alert_has_are_warned_of(matchers: str, expected: list[str]) -> None:
    alerts = {
        "late_orders": alert(name="late_orders"),
        "stuck": alert(name="stuck", labels={}, static_labels={"region": "eu"}),
    }
    found = [*warnings_of(parse(matchers), alerts)]
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text
    assert [*warnings_of(parse(matchers), {})] == []  # a process that is starting


def test_channels_and_episodes_are_apart() -> None:
    common = ("key", "s", "late", "f")
    held = [
        Held(1, "hook", *common, 1, FIRED, goes_on=True),
        Held(2, "mail", *common, 1, RESOLVED, goes_on=False),
        Held(3, "hook", *common, 2, RESOLVED, goes_on=False),
    ]
    assert came_and_went(held) == {}
