"""The firing set of one alert: a multiset of rows per key. Updates in, transitions and changed rows out.

A key is in one of four phases. What moves it to another one, and which transition that causes:

    ABSENT  -> FIRING    a row appears, without `for`                          fired
    ABSENT  -> PENDING   a row appears, with `for`
    PENDING -> FIRING    the row stays for as long as `for`                    fired
    PENDING -> ABSENT    the row leaves before
    FIRING  -> FIRING    a column changes that is not in `ignore`              updated
    FIRING  -> FIRING    `repeat_interval` passes without a notification       repeated
    FIRING  -> ABSENT    the row leaves, without `keep_firing_for`             resolved
    FIRING  -> KEEPING   the row leaves, with `keep_firing_for`
    KEEPING -> FIRING    a row of the key is back within `keep_firing_for`     updated, if it differs
    KEEPING -> ABSENT    `keep_firing_for` passes                              resolved

At the very first start with `initial: silent`, keys go from ABSENT to FIRING without a transition.

`apply` adds the updates of each timestamp (`_add`), then decides for each key in them (`_decide`). Between timestamps
it runs the timers that are due (`_run_timers`).
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from tocsin.firing.canonical import respelling
from tocsin.firing.types import Firing, Key, Outcome, Phase, Rule
from tocsin.model import Batch, Kind, Row, Transition, Update, fingerprint

_time_of: Callable[[Update], int] = itemgetter(0)


def _whole(row: Row) -> Key:
    return row


class _Entry:
    """The rows of one key. Almost always one row with multiplicity one, so that case takes no dictionary."""

    __slots__ = ("count", "fingerprint", "marked_at", "others", "phase", "row", "started_at")

    def __init__(self, row: Row, count: int) -> None:
        self.row = row
        """The row that represents the key."""
        self.count = count
        """The multiplicity of `row`."""
        self.others: dict[Row, int] | None = None
        """The multiplicities of other rows of this key, which a well-defined view does not have."""
        self.phase = Phase.ABSENT
        self.started_at = 0
        self.marked_at = 0
        """The start of the phase's timer, see `Firing`."""
        self.fingerprint = ""
        """Computed when it is needed first."""

    @property
    def empty(self) -> bool:
        """Whether every multiplicity is zero."""
        return not self.count and self.others is None

    def add(self, row: Row, diff: int) -> None:
        """Change the multiplicity of one row."""
        if row == self.row:
            self.count += diff
            return
        others = self.others = self.others or {}
        others[row] = others.get(row, 0) + diff

    def counts(self) -> Iterator[tuple[int, Row]]:
        """(multiplicity, row) of every row."""
        if self.count:
            yield self.count, self.row
        if self.others:
            for row, count in self.others.items():
                yield count, row

    def choose_row(self) -> bool:
        """Choose the row that represents the key. Returns whether there is one, that is, a positive multiplicity.

        Of several rows the one with the smallest text is chosen (NULL first), so that every process chooses the same.
        """
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


def _in_view(entry: _Entry) -> bool:
    return entry.phase is Phase.FIRING or entry.phase is Phase.PENDING


class FiringSet:
    """The keys of one alert that are pending, firing or kept firing, with their rows."""

    def __init__(self, rule: Rule, restored: Iterable[Firing] = ()) -> None:
        self.rule = rule
        self.firing = 0
        """Keys that fire, including those kept firing."""
        self.pending = 0
        """Keys in the view that do not fire yet."""
        self._entries: dict[Key, _Entry] = {}
        self._key_of: Callable[[Row], Key] = itemgetter(*rule.key) if rule.key else _whole
        self._respell = respelling(rule.columns)
        self._touched: set[Key] = set()
        """Keys to write to the ledger after the batch."""
        self._timed = bool(rule.hold or rule.keep or (rule.repeat and rule.notify))
        """Whether any phase has a timer."""
        # A heap of (due, number, key). A timer that no longer applies is recognised when it comes up.
        self._timers: list[tuple[int, int, Key]] = []
        self._timer_count = 0
        for firing in restored:
            self._restore(firing)

    def __len__(self) -> int:
        return len(self._entries)

    def firings(self, *, newest_first: bool = False) -> Iterator[Firing]:
        """Every key in order of appearance, also those with phase ABSENT."""
        items = self._entries.items()
        for key, entry in reversed(items) if newest_first else items:
            yield self._firing(key, entry)

    def rows(self) -> dict[Key, Row]:
        """The rows in the view."""
        return {key: entry.row for key, entry in self._entries.items() if _in_view(entry)}

    @property
    def next_due(self) -> int | None:
        """The earliest time at which a timer may end, in source ms; None without timers."""
        return self._timers[0][0] if self._timers else None

    def active(self) -> list[Transition]:
        """Every key that fires, as the transition with which it began, in order of appearance."""
        return [
            self._transition(Kind.FIRED, key, entry, entry.started_at)
            for key, entry in self._entries.items()
            if entry.phase is Phase.FIRING or entry.phase is Phase.KEEPING
        ]

    def apply(self, batch: Batch, *, silent: bool = False) -> Outcome:
        """Apply a batch, one timestamp after another, so that a firing that lasted only a moment is not missed.

        The updates at the as-of of a snapshot replace the set. `silent`: the snapshot causes no transitions (rows
        already there at the very first start).
        """
        outcome = Outcome()
        updates, respell = batch.updates, self._respell
        if respell is not None:
            updates = [(at, diff, respell(row)) for at, diff, row in updates]
        if batch.snapshot is not None:
            updates = self._difference(updates, batch.snapshot)
        for at, group in groupby(updates, key=_time_of):
            self._run_timers(at, outcome)
            quiet = silent and at == batch.snapshot
            for key, before in self._add(group).items():
                self._decide(key, before, at, outcome, quiet=quiet)
        if batch.frontier is not None:
            self._run_timers(batch.frontier, outcome)
        elif batch.snapshot is not None:
            # The source has no frontier (a constant view). Its time is that of the snapshot, which is complete.
            self._run_timers(batch.snapshot + 1, outcome)
        self._collect(outcome)
        return outcome

    # The multiset.

    def _difference(self, updates: Sequence[Update], as_of: int) -> Sequence[Update]:
        """Updates with the snapshot in them as a difference to what is in the set."""
        if not self._entries:
            return updates
        net: dict[Row, int] = {}
        later: list[Update] = []
        for update in updates:
            at, diff, row = update
            if at == as_of:
                net[row] = net.get(row, 0) + diff
            else:
                later.append(update)
        for entry in self._entries.values():
            for count, row in entry.counts():
                net[row] = net.get(row, 0) - count
        return [*((as_of, diff, row) for row, diff in net.items() if diff), *later]

    def _add(self, updates: Iterable[Update]) -> dict[Key, Row | None]:
        """Add the updates of one timestamp. Returns the keys with the row that represented them before, None: new."""
        entries, key_of = self._entries, self._key_of
        before: dict[Key, Row | None] = {}
        for _, diff, row in updates:
            key = key_of(row)
            entry = entries.get(key)
            if entry is None:
                entries[key] = _Entry(row, diff)
                before[key] = None
            else:
                if key not in before:
                    before[key] = entry.row
                entry.add(row, diff)
        if self.rule.notify:
            self._touched.update(before)
        return before

    # Phases: what happened to a key at one timestamp.

    def _decide(self, key: Key, before: Row | None, at: int, outcome: Outcome, *, quiet: bool) -> None:
        """Decide what the updates of one timestamp did to a key."""
        entry = self._entries[key]
        was_in_view = _in_view(entry)
        present = entry.choose_row()
        if entry.others is not None or entry.count < 0:
            counts = [count for count, _ in entry.counts()]
            outcome.collisions += sum(count > 0 for count in counts) > 1
            outcome.negatives += any(count < 0 for count in counts)
        kind: Kind | None = None
        if present and not was_in_view:
            outcome.changes[key] = entry.row
            kind = self._appear(entry, before, at, quiet=quiet)
        elif present:
            if before == entry.row:
                return  # nothing changed: the timer of its phase goes on
            outcome.changes[key] = entry.row
            kind = self._change(entry, before, at)
            if kind is None:
                return  # nothing to notify: the timer of its phase goes on, too
        elif was_in_view:
            outcome.changes[key] = None
            kind = self._vanish(entry, at)
        if kind is not None:
            self._notify(kind, key, entry, at, outcome, previous=before if kind is Kind.UPDATED else None)
        self._set_timer(key, entry)  # of the new phase, or of `repeat_interval` from this update on
        if entry.phase is Phase.ABSENT and entry.empty:
            self._forget(key, entry, outcome)

    def _appear(self, entry: _Entry, before: Row | None, at: int, *, quiet: bool) -> Kind | None:
        if entry.phase is Phase.KEEPING:
            # It is back before `keep_firing_for` has passed: the episode continues, and only another row is an update.
            self._enter(entry, Phase.FIRING, at)
            return Kind.UPDATED if before is not None and self._differ(before, entry.row) else None
        entry.started_at = at
        # A quiet key is not held either: it would be notified at the end of the hold.
        if self.rule.hold and not quiet:
            self._enter(entry, Phase.PENDING, at)
            return None
        self._enter(entry, Phase.FIRING, at)
        return None if quiet else Kind.FIRED

    def _change(self, entry: _Entry, before: Row | None, at: int) -> Kind | None:
        if entry.phase is not Phase.FIRING or before is None or not self._differ(before, entry.row):
            return None
        entry.marked_at = at
        return Kind.UPDATED

    def _vanish(self, entry: _Entry, at: int) -> Kind | None:
        was_firing = entry.phase is Phase.FIRING
        if was_firing and self.rule.keep:
            self._enter(entry, Phase.KEEPING, at)
            return None
        self._enter(entry, Phase.ABSENT, at)
        return Kind.RESOLVED if was_firing else None

    def _enter(self, entry: _Entry, phase: Phase, at: int) -> None:
        # By identity: hashing an enum is a call into Python, too slow for every row.
        if entry.phase is Phase.PENDING:
            self.pending -= 1
        elif entry.phase is not Phase.ABSENT:
            self.firing -= 1
        if phase is Phase.PENDING:
            self.pending += 1
        elif phase is not Phase.ABSENT:
            self.firing += 1
        entry.phase, entry.marked_at = phase, at

    def _differ(self, old: Row, new: Row) -> bool:
        ignored = self.rule.ignored
        if not ignored:
            return old != new
        return any(a != b for i, (a, b) in enumerate(zip(old, new, strict=True)) if i not in ignored)

    def _notify(
        self, kind: Kind, key: Key, entry: _Entry, at: int, outcome: Outcome, *, previous: Row | None = None
    ) -> None:
        if self.rule.notify:
            outcome.transitions.append(self._transition(kind, key, entry, at, previous))

    def _transition(self, kind: Kind, key: Key, entry: _Entry, at: int, previous: Row | None = None) -> Transition:
        return Transition(
            alert=self.rule.alert,
            fingerprint=self._fingerprint(key, entry),
            kind=kind,
            started_at=entry.started_at,
            at=at,
            columns=self.rule.columns,
            row=entry.row,
            previous=previous,
        )

    # Timers.

    def _due(self, entry: _Entry) -> int | None:
        """When the timer of the key's phase ends."""
        rule = self.rule
        match entry.phase:
            case Phase.PENDING:
                return entry.started_at + rule.hold
            case Phase.KEEPING:
                return entry.marked_at + rule.keep
            case Phase.FIRING if rule.repeat and rule.notify:
                return entry.marked_at + rule.repeat
        return None

    def _set_timer(self, key: Key, entry: _Entry) -> None:
        if not self._timed:
            return
        due = self._due(entry)
        if due is not None:
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, key))

    def _run_timers(self, limit: int, outcome: Outcome) -> None:
        """Decide every timer due before `limit`."""
        timers = self._timers
        while timers and timers[0][0] < limit:
            due, _, key = heapq.heappop(timers)
            entry = self._entries.get(key)
            if entry is None or self._due(entry) != due:
                continue
            if self.rule.notify:
                self._touched.add(key)
            match entry.phase:
                case Phase.PENDING:
                    self._enter(entry, Phase.FIRING, due)
                    self._notify(Kind.FIRED, key, entry, due, outcome)
                case Phase.FIRING:
                    # After a long silence one repeat is enough: the last one due, not all that were missed.
                    entry.marked_at = due + (limit - 1 - due) // self.rule.repeat * self.rule.repeat
                    self._notify(Kind.REPEATED, key, entry, entry.marked_at, outcome)
                case Phase.KEEPING:
                    self._enter(entry, Phase.ABSENT, due)
                    self._notify(Kind.RESOLVED, key, entry, due, outcome)
                    if entry.empty:
                        self._forget(key, entry, outcome)
                        continue
            self._set_timer(key, entry)

    # What to write to the ledger.

    def _collect(self, outcome: Outcome) -> None:
        for key in self._touched:
            entry = self._entries.get(key)
            if entry is not None:
                outcome.saved.append(self._firing(key, entry))
        self._touched.clear()
        # A key that left at one timestamp of the batch and came back at a later one is saved, and not gone.
        saved = {firing.fingerprint for firing in outcome.saved}
        outcome.gone = [gone for gone in outcome.gone if gone not in saved]

    def _forget(self, key: Key, entry: _Entry, outcome: Outcome) -> None:
        del self._entries[key]
        if self.rule.notify:
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
        entry.choose_row()
        self._enter(entry, firing.phase, firing.marked_at)
        entry.started_at, entry.fingerprint = firing.started_at, firing.fingerprint
        key = self._key_of(firing.row)
        self._entries[key] = entry
        # Under the rule of the run before, it may wait for something that today's rule has no timer for.
        self._timed = self._timed or firing.phase in (Phase.PENDING, Phase.KEEPING)
        self._set_timer(key, entry)
