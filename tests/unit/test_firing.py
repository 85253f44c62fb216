"""The firing set by example. `test_firing_properties.py` has the general properties."""

import pytest

from support.firing import COLUMNS, rule
from tocsin.firing import Firing, FiringSet, Outcome, Phase, Rule
from tocsin.model import Batch, Column, Kind, Row, Transition, Update, fingerprint, notification_id

OLD: Row = ("a", "1", "x")
NEW: Row = ("a", "2", "x")


def batch(*updates: Update, frontier: int | None = 100, snapshot: int | None = None) -> Batch:
    return Batch(updates=updates, frontier=frontier, snapshot=snapshot)


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


def test_short_firing_within_a_batch_is_seen() -> None:
    outcome = FiringSet(rule()).apply(batch((5, 1, OLD), (6, -1, OLD)))
    assert notified(outcome) == [(Kind.FIRED, 5, OLD, None), (Kind.RESOLVED, 6, OLD, None)]
    assert outcome.saved == []


def test_returning_row_is_a_new_episode() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, OLD), (6, -1, OLD), (9, 1, OLD)))
    first, _, second = outcome.transitions
    assert first.fingerprint == second.fingerprint
    assert (first.started_at, second.started_at) == (5, 9)
    assert notification_id(first, "hook") != notification_id(second, "hook")


def test_negative_multiplicity_is_counted_and_silent() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, -1, OLD), frontier=6))
    assert (notified(outcome), outcome.negatives, firing.firing, firing.rows()) == ([], 1, 0, {})
    assert notified(firing.apply(batch((6, 1, OLD), frontier=7))) == []
    assert len(firing) == 0
    assert notified(firing.apply(batch((7, 1, OLD), frontier=8))) == [(Kind.FIRED, 7, OLD, None)]


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


def test_row_fires_after_its_hold() -> None:
    firing = FiringSet(rule(hold=10))
    assert notified(firing.apply(batch((5, 1, OLD), frontier=15))) == []
    assert (firing.pending, firing.firing, firing.rows()) == (1, 0, {"a": OLD})
    outcome = firing.apply(batch(frontier=16))
    assert notified(outcome) == [(Kind.FIRED, 15, OLD, None)]
    assert single(outcome).started_at == 5
    assert (firing.pending, firing.firing) == (0, 1)


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
