"""A slow and simple model of the firing set.

The model handles every millisecond on its own: it adds up the whole history until then, finds which row represents each
key, and moves a small state machine. Nothing is remembered that could be got wrong incrementally.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from hypothesis import strategies as st

from tocsin.firing import Firing, FiringSet, Outcome, Rule
from tocsin.model import Batch, Column, Kind, Row, Transition, Update, fingerprint

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
