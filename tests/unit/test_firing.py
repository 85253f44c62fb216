"""The firing set: by example, and against a slow and simple model.

The model handles every millisecond on its own: it adds up the whole history until then, finds which row represents each
key, and moves a small state machine. Nothing is remembered that could be got wrong incrementally.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.firing import Firing, FiringSet, Outcome, Phase, Rule
from tocsin.firing.canonical import respelling
from tocsin.model import Batch, Column, Kind, Row, Transition, Update, fingerprint, notification_id

COLUMNS = tuple(Column(name=name, oid=25) for name in ("key", "value", "noise"))
OLD: Row = ("a", "1", "x")
NEW: Row = ("a", "2", "x")


def rule(*, hold: int = 0, keep: int = 0, repeat: int = 0, ignored: Iterable[int] = (), notify: bool = True) -> Rule:
    """The rule of the histories made here: alert `late`, keyed by the first of three columns."""
    return Rule(
        alert="late",
        columns=COLUMNS,
        key=(0,),
        ignored=frozenset(ignored),
        hold=hold,
        keep=keep,
        repeat=repeat,
        notify=notify,
    )


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


# The model.


END = 60
"""A frontier after which nothing can happen any more, for every history and every rule made here."""

KEYS: Sequence[str | None] = (None, "", "a")
_TIMES = st.integers(0, 24)
_ROWS = st.tuples(st.sampled_from(KEYS), st.sampled_from((None, "", "1", "2")), st.sampled_from(("x", "y")))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Every combination of the timers and of ignored columns."""
    spans = st.sampled_from((0, 0, 1, 3, 7))
    return rule(
        hold=draw(spans), keep=draw(spans), repeat=draw(spans), ignored=draw(st.sampled_from(((), (2,), (1, 2))))
    )


@st.composite
def contents(draw: st.DrawFn) -> Counter[Row]:
    """The content of a view at one time: rows with multiplicities above zero."""
    return Counter(draw(st.dictionaries(_ROWS, st.integers(1, 3), max_size=4)))


@st.composite
def wild_histories(draw: st.DrawFn) -> list[Update]:
    """Any updates at all: nets below zero, several rows of a key, the same row twice at one timestamp."""
    diffs = st.integers(-3, 3).filter(bool)
    updates = draw(st.lists(st.tuples(_TIMES, diffs, _ROWS), max_size=25))
    return sorted(updates, key=lambda update: update[0])


@st.composite
def sound_histories(draw: st.DrawFn) -> list[Update]:
    """The updates of a view: at each timestamp the difference between two contents, in any order."""
    updates: list[Update] = []
    before: Counter[Row] = Counter()
    for at in sorted(draw(st.sets(_TIMES, max_size=8))):
        after = draw(contents())
        updates += draw(st.permutations([(at, diff, row) for row, diff in differences(before, after)]))
        before = after
    return updates


HISTORIES = st.one_of(sound_histories(), wild_histories())


def differences(before: Counter[Row], after: Counter[Row]) -> list[tuple[Row, int]]:
    """`(row, diff)` of every row whose multiplicity differs."""
    rows = before.keys() | after.keys()
    found = [(row, after[row] - before[row]) for row in rows if after[row] != before[row]]
    return sorted(found, key=repr)


def cut(history: Sequence[Update], at: Iterable[int]) -> list[Batch]:
    """The history as batches with these frontiers, and one more that ends it."""
    batches: list[Batch] = []
    start = 0
    for frontier in [*sorted(at), END]:
        updates = [update for update in history if start <= update[0] < frontier]
        batches.append(Batch(updates=updates, frontier=frontier))
        start = frontier
    return batches


CUTS = st.sets(st.integers(0, END), max_size=8)


def content(history: Iterable[Update], until: int) -> Counter[Row]:
    """The multiset after every update strictly before `until`."""
    total: Counter[Row] = Counter()
    for at, diff, row in history:
        if at < until:
            total[row] += diff
    return total


def shown(total: Counter[Row]) -> dict[str | None, Row]:
    """The row that represents each key: the smallest of those that are there, NULL before all text."""
    present: dict[str | None, list[Row]] = {}
    for row, count in total.items():
        if count > 0:
            present.setdefault(row[0], []).append(row)
    return {
        key: min(rows, key=lambda row: [(text is not None, text or "") for text in row])
        for key, rows in present.items()
    }


@dataclass
class _Episode:
    started_at: int
    marked_at: int
    row: Row
    phase: str


def expected(rule: Rule, history: Sequence[Update], frontier: int = END) -> list[Transition]:
    """Every transition before the frontier, with all repeats, in order of time."""
    transitions: list[Transition] = []
    episodes: dict[str | None, _Episode] = {}
    for at in range(frontier):
        rows = shown(content(history, at + 1))
        for key in KEYS:
            transitions += _step(rule, episodes, key, rows.get(key), at)
    return transitions


def _step(
    rule: Rule, episodes: dict[str | None, _Episode], key: str | None, row: Row | None, at: int
) -> Iterator[Transition]:
    episode = episodes.get(key)
    if row is not None and episode is None:
        episode = episodes[key] = _Episode(at, at, row, "pending" if rule.hold else "firing")
        if not rule.hold:
            yield _transition(rule, Kind.FIRED, key, episode, at)
    elif row is not None and episode is not None:
        before, episode.row = episode.row, row
        news = episode.phase != "pending" and any(
            old != new for place, (old, new) in enumerate(zip(before, row, strict=True)) if place not in rule.ignored
        )
        if news or episode.phase == "keeping":
            episode.marked_at = at
        if episode.phase == "keeping":
            episode.phase = "firing"
        if news:
            yield _transition(rule, Kind.UPDATED, key, episode, at, before)
    elif episode is not None and episode.phase == "firing" and rule.keep:
        episode.phase, episode.marked_at = "keeping", at
    elif episode is not None and episode.phase != "keeping":
        del episodes[key]
        if episode.phase == "firing":
            yield _transition(rule, Kind.RESOLVED, key, episode, at)
        return
    if episode is not None:
        yield from _timers(rule, episodes, key, episode, at)


def _timers(
    rule: Rule, episodes: dict[str | None, _Episode], key: str | None, episode: _Episode, at: int
) -> Iterator[Transition]:
    passed = at - episode.marked_at
    if episode.phase == "pending" and at == episode.started_at + rule.hold:
        episode.phase, episode.marked_at = "firing", at
        yield _transition(rule, Kind.FIRED, key, episode, at)
    elif episode.phase == "keeping" and passed == rule.keep:
        del episodes[key]
        yield _transition(rule, Kind.RESOLVED, key, episode, at)
    elif episode.phase == "firing" and rule.repeat and passed and passed % rule.repeat == 0:
        yield _transition(rule, Kind.REPEATED, key, episode, at)


def _transition(
    rule: Rule, kind: Kind, key: str | None, episode: _Episode, at: int, previous: Row | None = None
) -> Transition:
    return Transition(
        alert=rule.alert,
        fingerprint=fingerprint(rule.alert, (key,)),
        kind=kind,
        started_at=episode.started_at,
        at=at,
        columns=rule.columns,
        row=episode.row,
        previous=previous,
    )


def oddities(history: Sequence[Update]) -> tuple[int, int]:
    """How often, at a timestamp that touched a key, several of its rows were there; and one was below zero."""
    collisions = negatives = 0
    for at, updates in groupby(history, key=lambda update: update[0]):
        total = content(history, at + 1)
        for key in {row[0] for _, _, row in updates}:
            counts = [count for row, count in total.items() if row[0] == key]
            collisions += sum(count > 0 for count in counts) > 1
            negatives += any(count < 0 for count in counts)
    return collisions, negatives


class Stored:
    """The firings of a ledger: written from outcomes, read at a restart."""

    def __init__(self) -> None:
        self.firings: dict[str, Firing] = {}

    def write(self, outcome: Outcome) -> None:
        """Save and delete the firings of a batch."""
        assert not {firing.fingerprint for firing in outcome.saved} & set(outcome.gone)
        for gone in outcome.gone:
            self.firings.pop(gone, None)
        self.firings |= {firing.fingerprint: firing for firing in outcome.saved}

    def restored(self, rule: Rule) -> FiringSet:
        """A new firing set, as after a restart; in the order of a ledger."""
        return FiringSet(rule, sorted(self.firings.values(), key=lambda one: (one.started_at, one.fingerprint)))


def by_fingerprint(transitions: Iterable[Transition]) -> dict[str, list[Transition]]:
    """The transitions of each key, in their order."""
    found: dict[str, list[Transition]] = {}
    for transition in transitions:
        found.setdefault(transition.fingerprint, []).append(transition)
    return found


# Properties.


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
