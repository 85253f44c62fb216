"""The firing set equals a slow and simple model, and does not depend on batches or restarts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from support.firing import (
    CUTS,
    END,
    HISTORIES,
    Stored,
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
from tocsin.firing import FiringSet, Phase, Rule
from tocsin.model import Batch, Kind, Row, Transition, Update, notification_id


def run(firing: FiringSet, batches: Iterable[Batch]) -> list[Transition]:
    return [transition for batch in batches for transition in firing.apply(batch).transitions]


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
    for batch in cut(history, cuts):
        for key, row in firing.apply(batch).changes.items():
            if row is None:
                replayed.pop(key, None)
            else:
                replayed[key] = row
        assert batch.frontier is not None
        assert firing.rows() == shown(content(history, batch.frontier)) == replayed
        phases = Counter(one.phase for one in firing.firings())
        assert firing.pending == phases[Phase.PENDING]
        assert firing.firing == phases[Phase.FIRING] + phases[Phase.KEEPING]


@given(rules(), HISTORIES, CUTS)
def test_without_channels_only_rows_are_kept(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    silent = replace(rule, notify=False)
    firing, other = FiringSet(rule), FiringSet(silent)
    for batch in cut(history, cuts):
        loud, outcome = firing.apply(batch), other.apply(batch)
        assert (outcome.transitions, outcome.saved, outcome.gone) == ([], [], [])
        assert outcome.changes == loud.changes
        assert (other.firing, other.pending, len(other)) == (firing.firing, firing.pending, len(firing))


@given(rules(), HISTORIES, CUTS, st.sets(st.integers(0, 8)))
def test_restart_after_any_batch_changes_nothing(
    rule: Rule, history: list[Update], cuts: set[int], restarts: set[int]
) -> None:
    steady, stored = FiringSet(rule), Stored()
    restarted = FiringSet(rule)
    for number, batch in enumerate(cut(history, cuts)):
        outcome = restarted.apply(batch)
        stored.write(outcome)
        assert by_fingerprint(outcome.transitions) == by_fingerprint(steady.apply(batch).transitions)
        assert stored.firings == {firing.fingerprint: firing for firing in restarted.firings()}
        assert stored.firings == {firing.fingerprint: firing for firing in steady.firings()}
        if number in restarts:
            restarted = stored.restored(rule)
            assert restarted.rows() == steady.rows()
            assert (restarted.firing, restarted.pending, len(restarted)) == (steady.firing, steady.pending, len(steady))


@given(HISTORIES, CUTS)
def test_oddities_are_counted_per_key_and_timestamp(history: list[Update], cuts: set[int]) -> None:
    firing = FiringSet(rule())
    outcomes = [firing.apply(batch) for batch in cut(history, cuts)]
    assert (sum(one.collisions for one in outcomes), sum(one.negatives for one in outcomes)) == oddities(history)


def snapshot(rows: Counter[Row], as_of: int) -> Batch:
    updates = [(as_of, count, row) for row, count in rows.items() if count]
    return Batch(updates=updates, frontier=as_of + 1, snapshot=as_of)


@given(rules(), HISTORIES, CUTS)
def test_equal_snapshot_causes_nothing(rule: Rule, history: list[Update], cuts: set[int]) -> None:
    firing = FiringSet(rule)
    for batch in cut(history, cuts):
        firing.apply(batch)
        assert batch.frontier is not None
        if batch.frontier:
            outcome = firing.apply(snapshot(content(history, batch.frontier), batch.frontier - 1))
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
