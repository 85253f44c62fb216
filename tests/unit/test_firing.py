"""The firing set by example, and against a slow and simple model: no batches or restarts make a difference."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.firing import (
    COLUMNS,
    CUTS,
    END,
    HISTORIES,
    NEW,
    OLD,
    Stored,
    batch,
    by_fingerprint,
    content,
    contents,
    cut,
    differences,
    expected,
    oddities,
    rule,
    rules,
    shown,
)
from tocsin.firing import Firing, FiringSet, Outcome, Phase, Rule
from tocsin.firing.canonical import respelling
from tocsin.model import Batch, Column, Kind, Row, Transition, Update, fingerprint, notification_id


def notified(outcome: Outcome) -> list[tuple[Kind, int, Row, Row | None]]:
    return [(one.kind, one.at, one.row, one.previous) for one in outcome.transitions]


def single(outcome: Outcome) -> Transition:
    (transition,) = outcome.transitions
    return transition


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


# Any history.


def run(firing: FiringSet, batches: Iterable[Batch]) -> list[Transition]:
    return [transition for each in batches for transition in firing.apply(each).transitions]


def thinned(transitions: Sequence[Transition]) -> dict[str, list[Transition]]:
    """The transitions per key, of each run of repeats only the last: how many come before it depends on the batches."""
    kept: dict[str, list[Transition]] = {}
    for name, of_key in by_fingerprint(transitions).items():
        kept[name] = []
        for kind, group in groupby(of_key, key=lambda transition: transition.kind):
            transitions = list(group)
            kept[name] += transitions[-1:] if kind is Kind.REPEATED else transitions
    return kept


@given(rules(), HISTORIES)
def test_transitions_equal_the_model_in_small_batches(rule: Rule, history: list[Update]) -> None:
    transitions = run(FiringSet(rule), cut(history, range(END)))
    assert by_fingerprint(transitions) == by_fingerprint(expected(rule, history))


@given(rules(), HISTORIES, CUTS)
def test_transitions_do_not_depend_on_batches(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    transitions, model = run(FiringSet(rule), cut(history, cuts)), expected(rule, history)
    # Of the repeats within a batch only the last is a transition, so which ones there are depends on the cuts. The last
    # of each run is the same, the model knows each of them, and everything else is equal.
    assert thinned(transitions) == thinned(model)
    assert not Counter(map(repr, transitions)) - Counter(map(repr, model))
    assert len({notification_id(one, "hook") for one in transitions}) == len(transitions)


@given(rules(), HISTORIES, CUTS)
def test_rows_are_the_view_at_the_frontier(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    firing, replayed = FiringSet(rule), dict[str | Row | None, Row]()
    for each in cut(history, cuts):
        for key, row in firing.apply(each).changes.items():
            if row is None:
                replayed.pop(key, None)
            else:
                replayed[key] = row
        assert each.frontier is not None
        assert firing.rows() == shown(content(history, each.frontier)) == replayed
        phases = Counter(one.phase for one in firing.firings())
        assert firing.pending == phases[Phase.PENDING]
        assert firing.firing == phases[Phase.FIRING] + phases[Phase.KEEPING]


@given(rules(), HISTORIES, CUTS)
def test_without_channels_only_rows_are_kept(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    silent = replace(rule, notify=False)
    firing, other = FiringSet(rule), FiringSet(silent)
    for each in cut(history, cuts):
        loud, outcome = firing.apply(each), other.apply(each)
        assert (outcome.transitions, outcome.saved, outcome.gone) == ([], [], [])
        assert outcome.changes == loud.changes
        assert (other.firing, other.pending, len(other)) == (firing.firing, firing.pending, len(firing))


@given(rules(), HISTORIES, CUTS, st.sets(st.integers(0, 8)))
def test_restart_after_any_batch_changes_nothing(
    rule: Rule, history: list[Update], cuts: set[int], restarts: set[int]
) -> None:
    steady, stored = FiringSet(rule), Stored()
    restarted = FiringSet(rule)
    for number, each in enumerate(cut(history, cuts)):
        outcome = restarted.apply(each)
        stored.write(outcome)
        assert by_fingerprint(outcome.transitions) == by_fingerprint(steady.apply(each).transitions)
        assert stored.firings == {firing.fingerprint: firing for firing in restarted.firings()}
        assert stored.firings == {firing.fingerprint: firing for firing in steady.firings()}
        if number in restarts:
            restarted = stored.restored(rule)
            assert restarted.rows() == steady.rows()
            assert (restarted.firing, restarted.pending, len(restarted)) == (steady.firing, steady.pending, len(steady))


@given(HISTORIES, CUTS)
def test_oddities_are_counted_per_key_and_timestamp(history: list[Update], cuts: set[int]) -> None:
    firing = FiringSet(rule())
    outcomes = [firing.apply(each) for each in cut(history, cuts)]
    assert (sum(one.collisions for one in outcomes), sum(one.negatives for one in outcomes)) == oddities(history)


def snapshot(rows: Counter[Row], as_of: int) -> Batch:
    updates = [(as_of, count, row) for row, count in rows.items() if count]
    return Batch(updates=updates, frontier=as_of + 1, snapshot=as_of)


@given(rules(), HISTORIES, CUTS)
def test_equal_snapshot_causes_nothing(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    firing = FiringSet(rule)
    for each in cut(history, cuts):
        firing.apply(each)
        assert each.frontier is not None
        if each.frontier:
            outcome = firing.apply(snapshot(content(history, each.frontier), each.frontier - 1))
            assert (outcome.transitions, outcome.changes, outcome.saved, outcome.gone) == ([], {}, [], [])


@given(rules(), HISTORIES, contents(), st.integers(END, END + 20))
def test_gap_is_an_update_at_the_as_of(rule: Rule, history: list[Update], found: Counter[Row], as_of: int) -> None:
    by_snapshot, by_updates = FiringSet(rule), FiringSet(rule)
    run(by_snapshot, cut(history, ()))
    run(by_updates, cut(history, ()))
    updates = [(as_of, diff, row) for row, diff in differences(content(history, END), found)]
    compared = by_snapshot.apply(snapshot(found, as_of))
    added = by_updates.apply(Batch(updates=updates, frontier=as_of + 1))
    assert by_fingerprint(compared.transitions) == by_fingerprint(added.transitions)
    assert compared.changes == added.changes
    assert {row: count for one in by_snapshot.firings() for count, row in one.counts} == found
