"""The set itself: updates in, transitions and changes out."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from tocsin.firing.entry import Entry
from tocsin.firing.types import Firing, Key, Outcome, Phase, Rule
from tocsin.model import Batch, Kind, Row, Transition, Update, fingerprint


class FiringSet:
    """The keys of one alert that are pending, firing or kept firing, and their multisets.

    `collisions` counts how often two different rows of one key stood at one timestamp; `negatives` how often a key's
    multiplicity went below zero.
    """

    def __init__(self, rule: Rule, restored: Iterable[Firing] = ()) -> None:
        self.rule = rule
        self.collisions = 0
        self.negatives = 0
        self._entries: dict[Key, Entry] = {}
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
                entries[key] = Entry(row, diff)
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

    def _settle(self, key: Key, entry: Entry, old: Row | None, at: int, outcome: Outcome, *, quiet: bool) -> None:
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

    def _count_oddities(self, entry: Entry) -> None:
        counts = [count for count, _ in entry.counts()]
        if sum(count > 0 for count in counts) > 1:
            self.collisions += 1
        if any(count < 0 for count in counts):
            self.negatives += 1

    def _appeared(self, key: Key, entry: Entry, old: Row | None, at: int, outcome: Outcome, *, quiet: bool) -> None:
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

    def _changed(self, key: Key, entry: Entry, old: Row, at: int, outcome: Outcome) -> None:
        if entry.phase is Phase.FIRING and self._differ(old, entry.row):
            entry.marked_at = at
            self._tell(Kind.UPDATED, key, entry, at, outcome, previous=old)
            self._set_timer(key, entry)

    def _vanished(self, key: Key, entry: Entry, at: int, outcome: Outcome) -> None:
        if entry.phase is Phase.FIRING and self.rule.keep:
            self._enter(entry, Phase.KEEPING, at)
            self._set_timer(key, entry)
            return
        if entry.phase is Phase.FIRING:
            self._tell(Kind.RESOLVED, key, entry, at, outcome)
        self._enter(entry, Phase.ABSENT, at)

    def _enter(self, entry: Entry, phase: Phase, at: int) -> None:
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
        self, kind: Kind, key: Key, entry: Entry, at: int, outcome: Outcome, *, previous: Row | None = None
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

    def _due(self, entry: Entry) -> int | None:
        rule = self.rule
        match entry.phase:
            case Phase.PENDING:
                return entry.started_at + rule.hold
            case Phase.KEEPING:
                return entry.marked_at + rule.keep
            case Phase.FIRING if rule.repeat and rule.edges:
                return entry.marked_at + rule.repeat
        return None

    def _set_timer(self, key: Key, entry: Entry) -> None:
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

    def _forget(self, key: Key, entry: Entry, outcome: Outcome) -> None:
        del self._entries[key]
        if entry.phase is Phase.ABSENT:
            self._absent -= 1
        if self.rule.edges:
            outcome.gone.append(self._fingerprint(key, entry))

    def _fingerprint(self, key: Key, entry: Entry) -> str:
        if not entry.fingerprint:
            entry.fingerprint = fingerprint(self.rule.alert, key if isinstance(key, tuple) else (key,))
        return entry.fingerprint

    def _firing(self, key: Key, entry: Entry) -> Firing:
        return Firing(
            fingerprint=self._fingerprint(key, entry),
            phase=entry.phase,
            started_at=entry.started_at,
            marked_at=entry.marked_at,
            row=entry.row,
            counts=((entry.count, entry.row),) if entry.others is None and entry.count else tuple(entry.counts()),
        )

    def _restore(self, firing: Firing) -> None:
        entry = Entry(firing.row, 0)
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
