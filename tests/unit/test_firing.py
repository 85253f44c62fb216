"""The firing set by example."""

import pytest

from support.firing import COLUMNS, NEW, OLD, batch, rule
from tocsin.firing import Firing, FiringSet, Outcome, Phase, Rule
from tocsin.firing.canonical import respelling
from tocsin.model import Column, Kind, Row, Transition, Update, fingerprint


def notified(outcome: Outcome) -> list[tuple[Kind, int, Row, Row | None]]:
    return [(one.kind, one.at, one.row, one.previous) for one in outcome.transitions]


def single(outcome: Outcome) -> Transition:
    (transition,) = outcome.transitions
    return transition


@pytest.mark.parametrize("updates", [((10, -1, OLD), (10, 1, NEW)), ((10, 1, NEW), (10, -1, OLD))])
def test_change_at_one_timestamp_is_one_update(updates: tuple[Update, ...]) -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 1, OLD), frontier=10))
    assert notified(firing.apply(batch(*updates))) == [(Kind.UPDATED, 10, NEW, OLD)]


def test_row_is_the_key_without_key_columns() -> None:
    firing = FiringSet(Rule(alert="late", columns=COLUMNS))
    outcome = firing.apply(batch((5, 1, OLD), (6, -1, OLD), (6, 1, NEW)))
    assert [one.kind for one in outcome.transitions] == [Kind.FIRED, Kind.RESOLVED, Kind.FIRED]
    assert outcome.transitions[0].fingerprint == fingerprint("late", OLD)


def test_single_column_has_one_fingerprint() -> None:
    column = (Column(name="key", oid=25),)
    whole, keyed = Rule(alert="late", columns=column), Rule(alert="late", columns=column, key=(0,))
    ids = {single(FiringSet(rule).apply(batch((5, 1, ("a",))))).fingerprint for rule in (whole, keyed)}
    assert ids == {fingerprint("late", ["a"])}


# `for`, `keep_firing_for`, `repeat_interval`.


def test_one_repeat_follows_a_long_silence() -> None:
    firing = FiringSet(rule(repeat=10))
    outcome = firing.apply(batch((5, 1, OLD), frontier=98))
    assert notified(outcome) == [(Kind.FIRED, 5, OLD, None), (Kind.REPEATED, 95, OLD, None)]
    assert notified(firing.apply(batch(frontier=106))) == [(Kind.REPEATED, 105, OLD, None)]


def test_new_rule_applies_after_restart() -> None:
    pending = Firing(fingerprint=fingerprint("late", ["a"]), phase=Phase.PENDING, started_at=5, marked_at=5, row=OLD,
                     counts=((1, OLD),))  # fmt: skip
    assert notified(FiringSet(rule(), [pending]).apply(batch(frontier=20))) == [(Kind.FIRED, 5, OLD, None)]
    kept = Firing(fingerprint=pending.fingerprint, phase=Phase.KEEPING, started_at=5, marked_at=8, row=OLD, counts=())
    assert notified(FiringSet(rule(), [kept]).apply(batch(frontier=20))) == [(Kind.RESOLVED, 8, OLD, None)]


# Snapshots.


def test_silent_snapshot_causes_no_transitions() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, OLD), (7, 1, ("b", "1", "x")), frontier=8, snapshot=5), silent=True)
    assert notified(outcome) == [(Kind.FIRED, 7, ("b", "1", "x"), None)]
    assert len(outcome.saved) == 2
    assert notified(firing.apply(batch((8, -1, OLD), frontier=9))) == [(Kind.RESOLVED, 8, OLD, None)]


def test_silent_snapshot_is_not_held() -> None:
    firing = FiringSet(rule(hold=10))
    outcome = firing.apply(batch((5, 1, OLD), frontier=6, snapshot=5), silent=True)
    assert notified(outcome) == []
    assert (firing.firing, firing.pending) == (1, 0)
    assert notified(firing.apply(batch(frontier=50))) == []
    assert notified(firing.apply(batch((50, -1, OLD), frontier=51))) == [(Kind.RESOLVED, 50, OLD, None)]


def test_snapshot_rows_may_come_in_pieces() -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 1, OLD), frontier=6))
    outcome = firing.apply(batch((9, 2, OLD), (9, -1, OLD), frontier=10, snapshot=9))
    assert notified(outcome) == []


def test_constant_view_ends_hold_by_its_snapshots() -> None:
    firing = FiringSet(rule(hold=10))
    assert notified(firing.apply(batch((5, 1, OLD), frontier=None, snapshot=5))) == []
    assert notified(firing.apply(batch((14, 1, OLD), frontier=None, snapshot=14))) == []
    assert notified(firing.apply(batch((15, 1, OLD), frontier=None, snapshot=15))) == [(Kind.FIRED, 15, OLD, None)]


def test_constant_view_resolves_kept_firing() -> None:
    firing = FiringSet(rule(keep=10))
    firing.apply(batch((5, 1, OLD), frontier=None, snapshot=5))
    assert notified(firing.apply(batch(frontier=None, snapshot=6))) == []
    assert notified(firing.apply(batch(frontier=None, snapshot=30))) == [(Kind.RESOLVED, 16, OLD, None)]


# Texts.


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (1186, "1 month", "1 mon"),
        (1186, "1 year 2 months 3 days 04:05:06.7", "1 year 2 mons 3 days 04:05:06.7"),
        (1186, "-1 month 1 day -00:00:01", "-1 mons +1 day -00:00:01"),
        (1187, '{"1 month",NULL,-1 month}', '{"1 mon",NULL,-1 mons}'),
        (1186, "infinity", "infinity"),
        (1186, "about a month", "about a month"),
        (1186, None, None),
        (25, "1 month", "1 month"),
        (2249, "(1 month)", "(1 month)"),
    ],
)
def test_interval_has_one_text_in_all_versions(oid: int, text: str | None, expected: str | None) -> None:
    """The types inside a record are unknown, and not guessed."""
    respelled = respelling((Column(name="other", oid=25), Column(name="c", oid=oid)))
    assert (("1 month", text) if respelled is None else respelled(("1 month", text))) == ("1 month", expected)


def test_interval_of_another_version_is_the_same_row() -> None:
    firing = FiringSet(Rule(alert="late", columns=(Column(name="waited", oid=1186),)))
    firing.apply(batch((5, 1, ("1 month",)), frontier=6))
    assert notified(firing.apply(batch((9, 1, ("1 mon",)), frontier=10, snapshot=9))) == []
