"""The firing set by example: what a reader of the rules would ask about. `test_firing_properties.py` asks the rest."""

import pytest

from support.firing import COLUMNS, Stored, rule
from tocsin.firing import Firing, FiringSet, Outcome, Phase, Rule
from tocsin.model import Batch, Column, Kind, Row, Transition, Update, fingerprint, notification_id

OLD: Row = ("a", "1", "x")
NEW: Row = ("a", "2", "x")


def batch(*updates: Update, frontier: int | None = 100, snapshot: int | None = None) -> Batch:
    return Batch(updates=updates, frontier=frontier, snapshot=snapshot)


def told(outcome: Outcome) -> list[tuple[Kind, int, Row, Row | None]]:
    return [(one.kind, one.at, one.row, one.previous) for one in outcome.transitions]


def single(outcome: Outcome) -> Transition:
    (transition,) = outcome.transitions
    return transition


@pytest.mark.parametrize("updates", [((10, -1, OLD), (10, 1, NEW)), ((10, 1, NEW), (10, -1, OLD))])
def test_minus_old_plus_new_at_one_timestamp_is_one_update_in_either_order(updates: tuple[Update, ...]) -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 1, OLD), frontier=10))
    assert told(firing.apply(batch(*updates))) == [(Kind.UPDATED, 10, NEW, OLD)]


def test_three_copies_that_change_together_are_one_update_and_stay_three() -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 3, OLD), frontier=10))
    assert told(firing.apply(batch((10, -3, OLD), (10, 3, NEW)))) == [(Kind.UPDATED, 10, NEW, OLD)]
    assert [one.counts for one in firing.firings()] == [((3, NEW),)]
    assert told(firing.apply(batch((101, -2, NEW), frontier=102))) == []
    assert told(firing.apply(batch((102, -1, NEW), frontier=103))) == [(Kind.RESOLVED, 102, NEW, None)]
    assert len(firing) == 0


def test_a_row_that_lasts_a_moment_inside_one_batch_fires_and_resolves() -> None:
    outcome = FiringSet(rule()).apply(batch((5, 1, OLD), (6, -1, OLD)))
    assert told(outcome) == [(Kind.FIRED, 5, OLD, None), (Kind.RESOLVED, 6, OLD, None)]
    assert outcome.saved == []


def test_plus_and_minus_at_one_timestamp_are_nothing() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, OLD), (5, -1, OLD)))
    assert (outcome.transitions, outcome.saved, len(firing)) == ([], [], 0)


def test_a_row_that_comes_back_is_a_new_episode_with_new_ids() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, OLD), (6, -1, OLD), (9, 1, OLD)))
    first, _, second = outcome.transitions
    assert first.fingerprint == second.fingerprint
    assert (first.started_at, second.started_at) == (5, 9)
    assert notification_id(first, "hook") != notification_id(second, "hook")


@pytest.mark.parametrize("rows", [(OLD, NEW), (NEW, OLD)])
def test_of_two_rows_of_a_key_the_smaller_stands_for_it_whichever_came_first(rows: tuple[Row, Row]) -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch(*((5, 1, row) for row in rows)))
    assert told(outcome) == [(Kind.FIRED, 5, OLD, None)]
    assert outcome.collisions == 1
    assert told(firing.apply(batch((101, -1, OLD), frontier=102))) == [(Kind.UPDATED, 101, NEW, OLD)]


def test_null_stands_before_all_text() -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 1, ("a", "", "x")), (5, 1, ("a", None, "x"))))
    assert firing.rows() == {"a": ("a", None, "x")}


def test_a_multiplicity_below_zero_is_counted_and_does_not_fire() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, -1, OLD), frontier=6))
    assert (told(outcome), outcome.negatives, firing.firing, firing.rows()) == ([], 1, 0, {})
    assert told(firing.apply(batch((6, 1, OLD), frontier=7))) == []
    assert len(firing) == 0
    assert told(firing.apply(batch((7, 1, OLD), frontier=8))) == [(Kind.FIRED, 7, OLD, None)]


def test_a_multiplicity_below_zero_survives_a_restart() -> None:
    stored = Stored()
    stored.write(FiringSet(rule()).apply(batch((5, -1, OLD), frontier=6)))
    assert told(stored.restored(rule()).apply(batch((6, 1, OLD), frontier=7))) == []


def test_null_and_the_empty_text_are_two_keys() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, (None, "1", "x")), (5, 1, ("", "1", "x"))))
    assert [one.kind for one in outcome.transitions] == [Kind.FIRED, Kind.FIRED]
    assert len({one.fingerprint for one in outcome.transitions}) == 2
    assert outcome.collisions == 0


def test_without_key_columns_the_whole_row_is_the_key() -> None:
    firing = FiringSet(Rule(alert="late", columns=COLUMNS))
    outcome = firing.apply(batch((5, 1, OLD), (6, -1, OLD), (6, 1, NEW)))
    assert [one.kind for one in outcome.transitions] == [Kind.FIRED, Kind.RESOLVED, Kind.FIRED]
    assert outcome.transitions[0].fingerprint == fingerprint("late", OLD)


def test_a_key_of_several_columns_does_not_run_them_together() -> None:
    firing = FiringSet(Rule(alert="late", columns=COLUMNS, key=(0, 1)))
    outcome = firing.apply(batch((5, 1, ("ab", "c", "x")), (5, 1, ("a", "bc", "x"))))
    assert len({one.fingerprint for one in outcome.transitions}) == 2


def test_one_column_as_the_whole_row_has_the_fingerprint_of_that_column_as_key() -> None:
    column = (Column(name="key", oid=25),)
    whole, keyed = Rule(alert="late", columns=column), Rule(alert="late", columns=column, key=(0,))
    ids = {single(FiringSet(rule).apply(batch((5, 1, ("a",))))).fingerprint for rule in (whole, keyed)}
    assert ids == {fingerprint("late", ["a"])}


def test_an_ignored_column_changes_the_row_but_tells_nothing() -> None:
    firing = FiringSet(rule(ignored=(2,)))
    firing.apply(batch((5, 1, OLD), frontier=6))
    other: Row = ("a", "1", "y")
    outcome = firing.apply(batch((6, -1, OLD), (6, 1, other), frontier=7))
    assert (outcome.transitions, outcome.changes) == ([], {"a": other})
    assert [one.row for one in outcome.saved] == [other]


# `for`, `keep_firing_for`, `repeat_interval`.


def test_a_row_fires_once_it_has_been_there_for_the_whole_hold() -> None:
    firing = FiringSet(rule(hold=10))
    assert told(firing.apply(batch((5, 1, OLD), frontier=15))) == []
    assert (firing.pending, firing.firing, firing.rows()) == (1, 0, {"a": OLD})
    outcome = firing.apply(batch(frontier=16))
    assert told(outcome) == [(Kind.FIRED, 15, OLD, None)]
    assert single(outcome).started_at == 5
    assert (firing.pending, firing.firing) == (0, 1)


def test_a_row_that_goes_when_its_hold_ends_never_fires() -> None:
    firing = FiringSet(rule(hold=10))
    assert told(firing.apply(batch((5, 1, OLD), (15, -1, OLD)))) == []


def test_a_row_that_comes_back_while_kept_goes_on_with_its_episode() -> None:
    firing = FiringSet(rule(keep=10))
    outcome = firing.apply(batch((5, 1, OLD), (8, -1, OLD), (18, 1, NEW)))
    assert told(outcome) == [(Kind.FIRED, 5, OLD, None), (Kind.UPDATED, 18, NEW, OLD)]
    assert {one.started_at for one in outcome.transitions} == {5}


def test_a_row_that_is_kept_firing_is_no_longer_in_the_view() -> None:
    firing = FiringSet(rule(keep=10))
    firing.apply(batch((5, 1, OLD), (8, -1, OLD), frontier=18))
    assert (firing.firing, firing.rows()) == (1, {})
    assert told(firing.apply(batch(frontier=19))) == [(Kind.RESOLVED, 18, OLD, None)]
    assert len(firing) == 0


def test_after_a_long_silence_one_repeat_is_told_and_it_is_the_last_that_was_due() -> None:
    firing = FiringSet(rule(repeat=10))
    outcome = firing.apply(batch((5, 1, OLD), frontier=98))
    assert told(outcome) == [(Kind.FIRED, 5, OLD, None), (Kind.REPEATED, 95, OLD, None)]
    assert told(firing.apply(batch(frontier=106))) == [(Kind.REPEATED, 105, OLD, None)]


def test_an_update_puts_the_next_repeat_off() -> None:
    firing = FiringSet(rule(repeat=10))
    firing.apply(batch((5, 1, OLD), (12, -1, OLD), (12, 1, NEW), frontier=22))
    assert told(firing.apply(batch(frontier=23))) == [(Kind.REPEATED, 22, NEW, None)]


def test_rules_that_changed_between_two_runs_are_those_of_the_new_run() -> None:
    pending = Firing(fingerprint=fingerprint("late", ["a"]), phase=Phase.PENDING, started_at=5, marked_at=5, row=OLD,
                     counts=((1, OLD),))  # fmt: skip
    assert told(FiringSet(rule(), [pending]).apply(batch(frontier=20))) == [(Kind.FIRED, 5, OLD, None)]
    kept = Firing(fingerprint=pending.fingerprint, phase=Phase.KEEPING, started_at=5, marked_at=8, row=OLD, counts=())
    assert told(FiringSet(rule(), [kept]).apply(batch(frontier=20))) == [(Kind.RESOLVED, 8, OLD, None)]


# Snapshots.


def test_a_silent_first_snapshot_tells_nothing_and_what_comes_later_is_told() -> None:
    firing = FiringSet(rule())
    outcome = firing.apply(batch((5, 1, OLD), (7, 1, ("b", "1", "x")), frontier=8, snapshot=5), silent=True)
    assert told(outcome) == [(Kind.FIRED, 7, ("b", "1", "x"), None)]
    assert len(outcome.saved) == 2
    assert told(firing.apply(batch((8, -1, OLD), frontier=9))) == [(Kind.RESOLVED, 8, OLD, None)]


def test_what_a_silent_snapshot_brings_is_not_told_once_its_hold_has_passed_either() -> None:
    firing = FiringSet(rule(hold=10))
    outcome = firing.apply(batch((5, 1, OLD), frontier=6, snapshot=5), silent=True)
    assert told(outcome) == []
    assert (firing.firing, firing.pending) == (1, 0)
    assert told(firing.apply(batch(frontier=50))) == []
    assert told(firing.apply(batch((50, -1, OLD), frontier=51))) == [(Kind.RESOLVED, 50, OLD, None)]


def test_the_rows_of_a_snapshot_may_come_in_pieces() -> None:
    firing = FiringSet(rule())
    firing.apply(batch((5, 1, OLD), frontier=6))
    outcome = firing.apply(batch((9, 2, OLD), (9, -1, OLD), frontier=10, snapshot=9))
    assert told(outcome) == []


def test_a_view_without_a_time_of_its_own_comes_to_the_end_of_a_hold_by_the_times_of_its_snapshots() -> None:
    firing = FiringSet(rule(hold=10))
    assert told(firing.apply(batch((5, 1, OLD), frontier=None, snapshot=5))) == []
    assert told(firing.apply(batch((14, 1, OLD), frontier=None, snapshot=14))) == []
    assert told(firing.apply(batch((15, 1, OLD), frontier=None, snapshot=15))) == [(Kind.FIRED, 15, OLD, None)]


def test_a_view_without_a_time_of_its_own_lets_go_of_what_it_kept_firing() -> None:
    firing = FiringSet(rule(keep=10))
    firing.apply(batch((5, 1, OLD), frontier=None, snapshot=5))
    assert told(firing.apply(batch(frontier=None, snapshot=6))) == []
    assert told(firing.apply(batch(frontier=None, snapshot=30))) == [(Kind.RESOLVED, 16, OLD, None)]
