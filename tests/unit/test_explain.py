"""Explanations: from facts to a verdict, sentences, and what happens next."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from support.explaining import (
    NOW,
    SILENCE,
    START,
    alert,
    channel,
    event_alert,
    facts,
    firing,
    line,
    notified,
    status,
)
from tocsin.explain.alerts import explain
from tocsin.explain.explanation import Explanation, Verdict
from tocsin.explain.facts import Facts
from tocsin.explain.keys import Asked, Found, UnknownColumnError, candidate, find
from tocsin.explain.words import moment, sentence
from tocsin.exposition import State
from tocsin.firing import Phase
from tocsin.ledger.base import Status
from tocsin.model import Column, Kind, fingerprint
from tocsin.silences import parse


def said(found: Explanation) -> str:
    """Every sentence of an explanation."""
    routes = (text for one in found.routes for text in one.says)
    lives = (text for one in found.notifications for text in one.says)
    steps = (step.text for step in found.next)
    return " ".join([found.summary, *found.because, *routes, *lives, *steps, *found.unknown])


# Whether it fires.

GONE = facts(firing=None, notifications=[notified(kind="fired"), notified(kind="resolved", at=START + 60_000)])

VERDICTS: dict[str, tuple[Facts, Verdict, Sequence[str]]] = {
    "it fires": (
        facts(),
        Verdict.FIRING,
        ["late 17 fires since", "its row is in late_orders", "resolves when its row"],
    ),
    "it was asked about by fingerprint": (
        facts(asked=Asked(fingerprint="f" * 32), alert=alert(hold=300.0), firing=firing(Phase.PENDING)),
        Verdict.PENDING,
        ["late 17 does not fire yet", "late 17 fires, if its row"],
    ),
    "it waits for `for`": (
        facts(alert=alert(hold=300.0), firing=firing(Phase.PENDING)),
        Verdict.PENDING,
        ["does not fire yet", "has to stay for 5m (for)", "late 17 fires, if its row is still there"],
    ),
    "it is kept firing": (
        facts(alert=alert(keep_firing_for=300.0), firing=firing(Phase.KEEPING, marked_at=START + 60_000)),
        Verdict.KEEPING,
        ["only kept firing until", "its row left late_orders", "resolves, if its row is not back"],
    ),
    "it is repeated": (facts(alert=alert(repeat_interval=60.0)), Verdict.FIRING, ["notified again as repeated"]),
    "it resolved": (
        GONE,
        Verdict.ABSENT,
        ["does not fire any more", "no row of this key is in late_orders", "resolved at"],
    ),
    "its end was not notified": (
        facts(firing=None, notifications=[notified(kind="fired")]),
        Verdict.ABSENT,
        ["does not fire; it fired at", "no end of it was notified"],
    ),
    "it was never there": (facts(firing=None), Verdict.UNSEEN, ["no notification of it is kept", "kept for 7d"]),
    "no key matches": (facts(found=Found(), firing=None), Verdict.UNSEEN, ["does not fire, and no notification"]),
    "several keys match": (facts(found=Found(matches=3), firing=None), Verdict.SEVERAL, ["3 keys of late match 17"]),
    "no key was named": (
        facts(asked=Asked(), found=Found(), firing=None),
        Verdict.ALERT,
        ["late: 1 key fires, 2 pending"],
    ),
    "its rows are not known": (
        facts(rows_known=False, firing=None, notifications=[notified(kind="fired")]),
        Verdict.UNKNOWN,
        ["whether late 17 fires is not known", "by its notifications it fired at"],
    ),
    "the alert is in error": (
        facts(status=status(State.ERROR, message="db: relation late_orders does not exist")),
        Verdict.FIRING,
        ["the alert is in error: db: relation late_orders does not exist", "nothing fires, changes or resolves"],
    ),
    "the source of an event is in error": (
        facts(alert=event_alert(), firing=None, status=status(State.ERROR, message="mq: connection refused", events=0)),
        Verdict.UNSEEN,
        ["mq: connection refused; no event is notified until that is over"],
    ),
    "the source is tried again": (
        facts(status=status(State.ERROR, message="db: connection refused", next_attempt=NOW + 12)),
        Verdict.FIRING,
        ["db: connection refused", "the next attempt is at", "(in 12s)"],
    ),
    "the source is being tried": (
        facts(status=status(State.ERROR, message="db: connection refused")),
        Verdict.FIRING,
        ["an attempt is under way"],
    ),
    "the source is silent": (
        facts(status=status(State.STALE)),
        Verdict.FIRING,
        ["stale", "no progress since", "withdrawn"],
    ),
    "the alert is starting": (
        facts(status=status(State.STARTING)),
        Verdict.FIRING,
        ["there is no complete snapshot yet"],
    ),
    "the view was replaced": (
        replace(
            GONE, status=status(last_error="the definition of the view was changed", last_error_at=START / 1000 + 61)
        ),
        Verdict.ABSENT,
        ["at about that time, this happened to the source: the definition of the view was changed"],
    ),
    "the source failed once": (
        facts(status=status(last_error="db: connection lost", last_error_at=NOW - 3600)),
        Verdict.FIRING,
        ["the last thing that happened to the source, at", "db: connection lost"],
    ),
    "another process leads": (
        facts(leader="process 7 on host-a"),
        Verdict.FIRING,
        ["process 7 on host-a leads the alert"],
    ),
    "no process runs": (facts(running=False, status=None), Verdict.FIRING, ["no process was asked", "is not known"]),
    "it was there at the start": (
        facts(alert=alert(initial="silent")),
        Verdict.FIRING,
        ["initial: silent does not notify"],
    ),
    "no channel is notified": (
        facts(alert=alert(notify=()), channels=[]),
        Verdict.FIRING,
        ["its rows are gauges only"],
    ),
    "a silence holds it": (
        facts(silences=[SILENCE]),
        Verdict.FIRING,
        ["notifications of it are held back by the silence s1 until"],
    ),
    "a silence is of others": (
        facts(silences=[replace(SILENCE, matchers=parse("a=b"))]),
        Verdict.FIRING,
        ["late 17 fires"],
    ),
    "an event": (
        facts(alert=event_alert(), firing=None, notifications=[notified(kind="event")]),
        Verdict.EVENT,
        ["is an event of", "notified once"],
    ),
    "an event that no one sent": (
        facts(alert=event_alert(), found=Found(), firing=None),
        Verdict.UNSEEN,
        ["no event late 17 is known"],
    ),
    "no event was named": (
        facts(alert=event_alert(), asked=Asked(), found=Found(), firing=None),
        Verdict.ALERT,
        ["is notified of events; name one by its columns"],
    ),
    "a key was named by column": (
        facts(found=Found(fingerprint="f" * 32, pairs={"id": "17"}), firing=None),
        Verdict.UNSEEN,
        ['no row with id = "17" is in late_orders'],
    ),
    "an unknown event": (facts(alert=event_alert(), firing=None), Verdict.UNSEEN, ["no event late 17", "duplicates"]),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict_is_said_with_its_reason(name: str) -> None:
    given, verdict, parts = VERDICTS[name]
    found = explain(given)
    assert found.verdict is verdict
    for part in parts:
        assert part.lower() in said(found).lower(), said(found)


@pytest.mark.parametrize("state", [State.ERROR, State.STALE, State.STARTING])
def test_row_of_a_failing_source_does_not_resolve(state: State) -> None:
    """Whatever happens in the view meanwhile."""
    [step] = explain(facts(status=status(state))).next
    assert step.text == "it resolves when the source works again and its row is not in the view"


def test_steps_are_in_the_order_of_time() -> None:
    pending = notified(status=Status.PENDING, not_before=NOW + 30, attempts=1, reason="timeout")
    found = explain(facts(alert=alert(repeat_interval=3600.0), notifications=[pending]))
    assert [step.at for step in found.next] == [NOW + 30, START / 1000 + 3600]


# Channels.

ROUTES: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "a condition that is true": (
        {"when": "row.id == 17 and labels.customer == 'Ann'"},
        ['is true for this row (row.id = 17, labels.customer = "Ann")'],
    ),
    "a condition that is false": (
        {"when": 'row.customer == "Bob"'},
        ['is false for this row (row.customer = "Ann"), so it is not notified here'],
    ),
    "a condition that fails": ({"when": "row.nosuch > 1"}, ["cannot be evaluated, so it counts as true"]),
    "some kinds only": ({"kinds": frozenset({Kind.FIRED})}, ["only fired is sent (on)"]),
    "a group with an open window": (
        {"interval": 300.0, "group_by": ("customer",), "line": line(due=NOW + 60)},
        ['of the group customer = "Ann" within 5m are merged', "the next message may be sent at", "(in 1m)"],
    ),
    "a group without a window": ({"interval": 300.0, "line": line()}, ["the next one is sent at once"]),
    "an order": ({"order_by": ("customer",)}, ['events with the same customer = "Ann" are sent one after another']),
    "a pause": (
        {"state": "paused", "message": "unauthorized: 401", "opens_in": 30.0},
        ["the channel is paused: unauthorized: 401; it tries again at", "(in 30s)"],
    ),
    "a rate limit": ({"opens_in": 5.0, "is_limited": True}, ["its rate limit lets it send again at"]),
    "a level output": (
        {"accepted": {"http://am:9093": True, "http://am2:9093": False}},
        ["http://am:9093 has accepted this as firing", "http://am2:9093 does not have this as firing"],
    ),
    "a channel that is no longer notified": ({"route": None}, ["does not notify this channel any more"]),
}


@pytest.mark.parametrize("name", ROUTES)
def test_route_is_said_with_its_values(name: str) -> None:
    given, parts = ROUTES[name]
    [found] = explain(facts(channels=[channel(**given)])).routes
    for part in parts:
        assert part.lower() in " ".join(found.says).lower(), found.says


def test_false_conditions_are_why_nothing_was_sent() -> None:
    found = explain(facts(channels=[channel(when="row.id == 1")]))
    assert "Nothing was sent: the conditions of all channels are false for this row." in found.because


# Keys.

COLUMNS = tuple(Column(name=name, oid=25) for name in ("id", "region", "customer"))
KNOWN = [
    candidate(fingerprint("late", list(row[:2])), COLUMNS, row, Phase.FIRING)
    for row in (("17", "eu", "Ann"), ("18", "eu", "Bob"), ("17", "us", "Eve"))
]


@pytest.mark.parametrize(
    ("values", "customer"),
    [
        (("17", "eu"), "Ann"),
        (("region=us", "id=17"), "Eve"),
        (("region=us",), "Eve"),
        (("customer=Bob",), "Bob"),
        ((KNOWN[1].fingerprint,), "Bob"),
    ],
)
def test_key_is_found_by_values_columns_or_fingerprint(values: tuple[str, ...], customer: str) -> None:
    found = find(Asked(values=values), "late", ["id", "region"], KNOWN, hashed=True)
    assert [one.texts["customer"] for one in KNOWN if one.fingerprint == found.fingerprint] == [customer]


def test_empty_value_finds_null_unless_a_text_is_empty() -> None:
    columns = (Column(name="id", oid=23), Column(name="region", oid=25))
    null, empty = candidate("a" * 32, columns, ("17", None)), candidate("b" * 32, columns, ("17", ""))
    asked = Asked(values=("17", ""))
    assert find(asked, "late", ["id", "region"], [null], hashed=True).fingerprint == null.fingerprint
    assert find(asked, "late", ["id", "region"], [null, empty], hashed=True).fingerprint == empty.fingerprint


def test_key_that_is_not_known_has_the_nearest() -> None:
    found = find(Asked(values=("18", "us")), "late", ["id", "region"], KNOWN, hashed=True)
    assert found.fingerprint == fingerprint("late", ["18", "us"])
    assert found.matches == 0
    assert {one.fingerprint for one in found.nearest} == {one.fingerprint for one in KNOWN}
    several = find(Asked(values=("17",)), "late", ["id", "region"], KNOWN, hashed=True)
    assert (several.fingerprint, several.matches, len(several.nearest)) == (None, 2, 2)


def test_key_with_notifications_is_listed_once() -> None:
    with_notifications = [*KNOWN, replace(KNOWN[0], phase=None), replace(KNOWN[1], phase=None)]
    found = find(Asked(), "late", ["id", "region"], with_notifications, hashed=True)
    assert found.nearest == KNOWN


@pytest.mark.parametrize("values", [("17", "eu", "x"), ("nosuch=1",)])
def test_unknown_column_names_those_of_the_key(values: tuple[str, ...]) -> None:
    with pytest.raises(UnknownColumnError, match="the key is id, region: write the values in this order"):
        find(Asked(values=values), "late", ["id", "region"], KNOWN, hashed=True)
    with pytest.raises(UnknownColumnError, match="with one of customer, id, region"):
        find(Asked(values=("17",)), "late", [], KNOWN, hashed=True)


# Words.


def test_times_are_said_with_their_distance() -> None:
    assert moment(0.0, 62.0) == "1970-01-01T00:00:00.000Z (1m 2s ago)"
    assert moment(1e18, 0.0) == "a time beyond every calendar"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("it fires", "It fires."), ("http://am has it", "http://am has it."), ("it fails…", "It fails…"), ("", ".")],
)
def test_sentence_has_a_capital_and_an_end(text: str, expected: str) -> None:
    assert sentence(text) == expected
