"""The firing set of one alert: a multiset of rows per key, and the transitions that updates cause. No I/O; time is an
argument.

All times here are source time in milliseconds. An update at timestamp t is complete once the frontier has passed t, so
a timer due at d (`for`, `keep_firing_for`, `repeat_interval`) is decided when updates at or before d can no longer
come: before the first update later than d, or when the frontier passes d. The same history therefore gives the same
transitions, however it is cut into batches.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

from tocsin.model import Batch, Columns, Kind, Row, Transition, Update, fingerprint

Key: TypeAlias = str | Row | None
"""What identifies a firing: the text of the key columns; of a single one, that text alone (cheaper to hash)."""


class Phase(StrEnum):
    """Where a key stands. `absent` keys have a net multiplicity below zero, which a source should never send."""

    PENDING = "pending"
    FIRING = "firing"
    KEEPING = "keeping"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a firing set needs to know of its alert.

    `key`: indexes of the key columns, none for "the whole row". `ignored`: indexes of columns whose change is no
    update. `hold`, `keep`, `repeat`: milliseconds of `for`, `keep_firing_for`, `repeat_interval` (0: off). `edges`:
    whether anybody wants transitions; without, only the rows are kept.
    """

    alert: str
    columns: Columns
    key: tuple[int, ...] = ()
    ignored: frozenset[int] = frozenset()
    hold: int = 0
    keep: int = 0
    repeat: int = 0
    edges: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One key of the firing set as it is stored and shown.

    `row` is the row that stands for the key (while `keeping`, the last one); `counts` the whole multiset. `marked_at`
    starts the timer of the phase: when it vanished (`keeping`), when it was last told (`firing`), when it appeared
    (`pending`).
    """

    fingerprint: str
    phase: Phase
    started_at: int
    marked_at: int
    row: Row
    counts: tuple[tuple[int, Row], ...]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a batch did. `changes`: the rows to show differently from now on, per key (None: no longer in the view).
    `saved` and `gone`: the firings to write and the fingerprints to delete, so that the stored set equals this one."""

    transitions: list[Transition] = field(default_factory=list)
    changes: dict[Key, Row | None] = field(default_factory=dict)
    saved: list[Firing] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class _Entry:
    """One key: almost always one row with multiplicity one, so that case takes no dictionary."""

    __slots__ = ("count", "fingerprint", "marked_at", "others", "phase", "row", "started_at")

    def __init__(self, row: Row, count: int) -> None:
        self.row = row
        self.count = count
        self.others: dict[Row, int] | None = None
        self.phase = Phase.ABSENT
        self.started_at = 0
        self.marked_at = 0
        self.fingerprint = ""

    @property
    def in_view(self) -> bool:
        return self.phase is Phase.FIRING or self.phase is Phase.PENDING

    def add(self, row: Row, diff: int) -> None:
        if row == self.row:
            self.count += diff
            return
        others = self.others = self.others or {}
        others[row] = others.get(row, 0) + diff

    def counts(self) -> Iterator[tuple[int, Row]]:
        if self.count:
            yield self.count, self.row
        if self.others:
            for row, count in self.others.items():
                yield count, row

    def settle(self) -> bool:
        """Make `row` the row that stands for the key, and tell whether there is one. Of several rows the smallest text
        wins (NULL before all), so that every process picks the same."""
        if self.others is None:
            return self.count > 0
        counts = {row: count for count, row in self.counts() if count}
        present = [row for row, count in counts.items() if count > 0]
        if present:
            self.row = min(present, key=_order) if len(present) > 1 else present[0]
        self.count = counts.pop(self.row, 0)
        self.others = counts or None
        return bool(present)


def _order(row: Row) -> tuple[tuple[bool, str], ...]:
    return tuple((text is not None, text or "") for text in row)


class FiringSet:
    """The keys of one alert that are pending, firing or kept firing, and their multisets.

    `collisions` counts how often two different rows of one key stood at one timestamp; `negatives` how often a key's
    multiplicity went below zero.
    """

    def __init__(self, rule: Rule, restored: Iterable[Firing] = ()) -> None:
        self.rule = rule
        self.collisions = 0
        self.negatives = 0
        self._entries: dict[Key, _Entry] = {}
        self._pending = 0
        self._absent = 0
        self._timed = bool(rule.hold or rule.keep or (rule.repeat and rule.edges))
        self._timers: list[tuple[int, int, Key]] = []
        self._timer_count = 0
        self._key_of: Callable[[Row], Key] = itemgetter(*rule.key) if rule.key else _whole
        for firing in restored:
            self._restore(firing)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def pending(self) -> int:
        """Keys in the view that have not been there long enough to fire."""
        return self._pending

    @property
    def firing(self) -> int:
        """Keys that fire, those kept firing included."""
        return len(self._entries) - self._pending - self._absent

    def firings(self, *, newest_first: bool = False) -> Iterator[Firing]:
        """Everything in the set, what is `absent` too, in order of appearance."""
        items = self._entries.items()
        for key, entry in reversed(items) if newest_first else items:
            yield self._firing(key, entry)

    def rows(self) -> dict[Key, Row]:
        """The rows that are in the view now."""
        return {key: entry.row for key, entry in self._entries.items() if entry.in_view}

    def apply(self, batch: Batch, *, silent: bool = False) -> Outcome:
        """Take a batch in: each timestamp on its own, timers in between, so that a firing that lasted a moment is not
        missed.

        With a snapshot, the updates at the as-of replace the set instead of adding to it. `silent` tells nothing of
        what the snapshot brings (rows already there at the very first start).
        """
        outcome = Outcome()
        dirty: set[Key] = set()
        updates = self._against_snapshot(batch) if batch.snapshot is not None else batch.updates
        for at, group in groupby(updates, key=_time):
            self._run_timers(at, outcome, dirty)
            quiet = silent and at == batch.snapshot
            self._apply_at(at, group, outcome, dirty, quiet=quiet)
        # A snapshot is complete at its as-of: for a view without a frontier that is all that is known of time.
        known = batch.frontier if batch.frontier is not None or batch.snapshot is None else batch.snapshot + 1
        if known is not None:
            self._run_timers(known, outcome, dirty)
        if self.rule.edges:
            self._collect(dirty, outcome)
        return outcome

    def _against_snapshot(self, batch: Batch) -> Sequence[Update]:
        if not self._entries:
            return batch.updates
        as_of = batch.snapshot
        assert as_of is not None
        net: dict[Row, int] = {}
        later: list[Update] = []
        for update in batch.updates:
            at, diff, row = update
            if at == as_of:
                net[row] = net.get(row, 0) + diff
            else:
                later.append(update)
        for entry in self._entries.values():
            for count, row in entry.counts():
                net[row] = net.get(row, 0) - count
        return [*((as_of, diff, row) for row, diff in net.items() if diff), *later]

    def _apply_at(self, at: int, group: Iterable[Update], outcome: Outcome, dirty: set[Key], *, quiet: bool) -> None:
        entries, key_of = self._entries, self._key_of
        before: dict[Key, Row | None] = {}
        for _, diff, row in group:
            key = key_of(row)
            entry = entries.get(key)
            if entry is None:
                entries[key] = _Entry(row, diff)
                self._absent += 1
                before[key] = None
                continue
            if key not in before:
                before[key] = entry.row
            entry.add(row, diff)
        if self.rule.edges:
            dirty.update(before)
        for key, old in before.items():
            entry = entries[key]
            if old is None and entry.count > 0 and entry.others is None:
                # A new key with one row, which is most of what a snapshot brings.
                self._appeared(key, entry, old, at, outcome, quiet=quiet)
                outcome.changes[key] = entry.row
            else:
                self._settle(key, entry, old, at, outcome, quiet=quiet)

    def _settle(self, key: Key, entry: _Entry, old: Row | None, at: int, outcome: Outcome, *, quiet: bool) -> None:
        """What the updates of one timestamp come to for a key. `old`: the row that stood for it before."""
        present = entry.settle()
        if entry.others is not None or entry.count < 0:
            self._count_oddities(entry)
        was_in_view = entry.in_view
        if present:
            if not was_in_view:
                self._appeared(key, entry, old, at, outcome, quiet=quiet)
            elif old is not None and old != entry.row:
                self._changed(key, entry, old, at, outcome)
            if old != entry.row or not was_in_view:
                outcome.changes[key] = entry.row
            return
        if was_in_view:
            outcome.changes[key] = None
            self._vanished(key, entry, at, outcome)
        if entry.phase is not Phase.KEEPING and not entry.count and entry.others is None:
            self._forget(key, entry, outcome)

    def _count_oddities(self, entry: _Entry) -> None:
        counts = [count for count, _ in entry.counts()]
        if sum(count > 0 for count in counts) > 1:
            self.collisions += 1
        if any(count < 0 for count in counts):
            self.negatives += 1

    def _appeared(self, key: Key, entry: _Entry, old: Row | None, at: int, outcome: Outcome, *, quiet: bool) -> None:
        if entry.phase is Phase.KEEPING:
            # It came back in time: the episode goes on, and only a different row is news.
            self._enter(entry, Phase.FIRING, at)
            if old is not None and self._differ(old, entry.row):
                self._tell(Kind.UPDATED, key, entry, at, outcome, previous=old)
        else:
            entry.started_at = at
            # What is quiet has no hold either: it would be told when that has passed.
            self._enter(entry, Phase.PENDING if self.rule.hold and not quiet else Phase.FIRING, at)
            if entry.phase is Phase.FIRING and not quiet:
                self._tell(Kind.FIRED, key, entry, at, outcome)
        self._set_timer(key, entry)

    def _changed(self, key: Key, entry: _Entry, old: Row, at: int, outcome: Outcome) -> None:
        if entry.phase is Phase.FIRING and self._differ(old, entry.row):
            entry.marked_at = at
            self._tell(Kind.UPDATED, key, entry, at, outcome, previous=old)
            self._set_timer(key, entry)

    def _vanished(self, key: Key, entry: _Entry, at: int, outcome: Outcome) -> None:
        if entry.phase is Phase.FIRING and self.rule.keep:
            self._enter(entry, Phase.KEEPING, at)
            self._set_timer(key, entry)
            return
        if entry.phase is Phase.FIRING:
            self._tell(Kind.RESOLVED, key, entry, at, outcome)
        self._enter(entry, Phase.ABSENT, at)

    def _enter(self, entry: _Entry, phase: Phase, at: int) -> None:
        # By identity: an enum's hash is a call into Python, too dear for every row.
        was = entry.phase
        if was is Phase.ABSENT:
            self._absent -= 1
        elif was is Phase.PENDING:
            self._pending -= 1
        if phase is Phase.ABSENT:
            self._absent += 1
        elif phase is Phase.PENDING:
            self._pending += 1
        entry.phase, entry.marked_at = phase, at

    def _differ(self, old: Row, new: Row) -> bool:
        ignored = self.rule.ignored
        if not ignored:
            return old != new
        return any(a != b for i, (a, b) in enumerate(zip(old, new, strict=True)) if i not in ignored)

    def _tell(
        self, kind: Kind, key: Key, entry: _Entry, at: int, outcome: Outcome, *, previous: Row | None = None
    ) -> None:
        if not self.rule.edges:
            return
        outcome.transitions.append(
            Transition(
                alert=self.rule.alert,
                fingerprint=self._fingerprint(key, entry),
                kind=kind,
                started_at=entry.started_at,
                at=at,
                columns=self.rule.columns,
                row=entry.row,
                previous=previous,
            )
        )

    # Timers: a heap of (due, number, key) in which entries that no longer apply are recognised when they come up.

    def _due(self, entry: _Entry) -> int | None:
        rule = self.rule
        match entry.phase:
            case Phase.PENDING:
                return entry.started_at + rule.hold
            case Phase.KEEPING:
                return entry.marked_at + rule.keep
            case Phase.FIRING if rule.repeat and rule.edges:
                return entry.marked_at + rule.repeat
        return None

    def _set_timer(self, key: Key, entry: _Entry) -> None:
        if not self._timed:
            return
        due = self._due(entry)
        if due is not None:
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, key))

    def _run_timers(self, limit: int, outcome: Outcome, dirty: set[Key]) -> None:
        """Decide every timer due before `limit`."""
        timers = self._timers
        while timers and timers[0][0] < limit:
            due, _, key = heapq.heappop(timers)
            entry = self._entries.get(key)
            if entry is None or self._due(entry) != due:
                continue
            dirty.add(key)
            match entry.phase:
                case Phase.PENDING:
                    self._enter(entry, Phase.FIRING, due)
                    self._tell(Kind.FIRED, key, entry, due, outcome)
                case Phase.FIRING:
                    # After a long silence one repeat is enough: the last that is due, not all that were missed.
                    entry.marked_at = due + (limit - 1 - due) // self.rule.repeat * self.rule.repeat
                    self._tell(Kind.REPEATED, key, entry, entry.marked_at, outcome)
                case Phase.KEEPING:
                    self._tell(Kind.RESOLVED, key, entry, due, outcome)
                    self._enter(entry, Phase.ABSENT, due)
                    if not entry.count and entry.others is None:
                        self._forget(key, entry, outcome)
                        continue
            self._set_timer(key, entry)

    # Towards the ledger.

    def _collect(self, dirty: set[Key], outcome: Outcome) -> None:
        for key in dirty:
            entry = self._entries.get(key)
            if entry is not None:
                outcome.saved.append(self._firing(key, entry))
        kept = {firing.fingerprint for firing in outcome.saved}
        outcome.gone = [gone for gone in outcome.gone if gone not in kept]

    def _forget(self, key: Key, entry: _Entry, outcome: Outcome) -> None:
        del self._entries[key]
        if entry.phase is Phase.ABSENT:
            self._absent -= 1
        if self.rule.edges:
            outcome.gone.append(self._fingerprint(key, entry))

    def _fingerprint(self, key: Key, entry: _Entry) -> str:
        if not entry.fingerprint:
            entry.fingerprint = fingerprint(self.rule.alert, key if isinstance(key, tuple) else (key,))
        return entry.fingerprint

    def _firing(self, key: Key, entry: _Entry) -> Firing:
        return Firing(
            fingerprint=self._fingerprint(key, entry),
            phase=entry.phase,
            started_at=entry.started_at,
            marked_at=entry.marked_at,
            row=entry.row,
            counts=((entry.count, entry.row),) if entry.others is None and entry.count else tuple(entry.counts()),
        )

    def _restore(self, firing: Firing) -> None:
        entry = _Entry(firing.row, 0)
        for count, row in firing.counts:
            entry.add(row, count)
        entry.settle()
        self._absent += 1
        self._enter(entry, firing.phase, firing.marked_at)
        # Under the rule of the run before, it may be waiting for something that today's rule has no timer for.
        self._timed = self._timed or firing.phase in (Phase.PENDING, Phase.KEEPING)
        entry.started_at, entry.fingerprint = firing.started_at, firing.fingerprint
        key = self._key_of(firing.row)
        self._entries[key] = entry
        self._set_timer(key, entry)


_time: Callable[[Update], int] = itemgetter(0)


def _whole(row: Row) -> Key:
    return row
