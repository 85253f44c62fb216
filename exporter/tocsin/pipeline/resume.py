"""What the first snapshot of a subscription is compared with, and what the comparison means. Pure.

There is one way to begin, whatever ended the stream before: ask for the history since the frontier, take the snapshot
as the state at its as-of, compare it with the firing set, go on.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tocsin.alert import RowAlert
from tocsin.errors import SourceError, SourceReason
from tocsin.firing import Firing, Phase, Rule
from tocsin.ledger.base import Stored
from tocsin.model import Batch, Columns, Kind, Row, Transition


@dataclass(frozen=True, slots=True)
class FirstStart:
    """The ledger has nothing of this alert, so nothing can have been missed."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The firing set is the relation at `frontier` (source ms; None where the source has no time of its own)."""

    frontier: int | None
    history: bool = True
    """Whether the source may be asked for the history since the frontier; False after an error in that history."""


@dataclass(frozen=True, slots=True)
class Redefined:
    """The firing set was stored under another definition or other columns, and is to be stored again as a whole."""

    frontier: int | None = None
    """Where to resume; None: the rows are those of another relation or key, whose frontier does not count."""
    history: bool = True
    ended: Sequence[Firing] = ()
    """Stored firings that no key of the new definition continues: they end at the snapshot."""
    columns: Columns = ()
    """The columns of `ended`."""


Baseline: TypeAlias = FirstStart | Resumed | Redefined


def definition(alert: RowAlert) -> str:
    """The origin and the key of the rows, as text: stored rows can be compared only with those of the same
    definition."""
    parts = {
        "source": alert.source,
        "relation": alert.subject.relation,
        "query": alert.subject.query,
        "key": list(alert.key),
    }
    if alert.subject.topic is not None:
        parts["topic"] = alert.subject.topic
    return json.dumps(parts, sort_keys=True)


def same_key(stored: str, current: str) -> bool:
    """Whether two definitions identify a firing by the same columns."""
    return bool(json.loads(stored)["key"] == json.loads(current)["key"])


def loaded(stored: Stored | None, definition: str) -> Baseline:
    """The baseline as far as it is known before the columns are. `definition`: that of the configuration."""
    if stored is None:
        return FirstStart()
    return Resumed(stored.frontier) if stored.definition == definition else Redefined()


def restored(stored: Stored, definition: str, rule: Rule) -> tuple[list[Firing], Baseline]:
    """The stored firings as firings of today's columns, and the baseline that they are."""
    if not same_key(stored.definition, definition):
        return [], Redefined(ended=stored.firings, columns=stored.columns)
    baseline = loaded(stored, definition)
    if stored.columns == rule.columns:
        return list(stored.firings), baseline
    return with_columns(stored.firings, stored.columns, rule.columns), redefined(baseline)


def redefined(baseline: Baseline) -> Baseline:
    """The baseline of firings whose relation has other columns now."""
    return Redefined(baseline.frontier, baseline.history) if isinstance(baseline, Resumed) else baseline


def with_columns(firings: Iterable[Firing], old: Columns, new: Columns) -> list[Firing]:
    """Firings with rows of other columns: matched by name, NULL for columns that are new."""
    where = {column.name: number for number, column in enumerate(old)}
    places = [where.get(column.name) for column in new]

    def row(was: Row) -> Row:
        return tuple(None if place is None else was[place] for place in places)

    return [
        replace(one, row=row(one.row), counts=tuple((count, row(was)) for count, was in one.counts)) for one in firings
    ]


def failed(baseline: Baseline, error: SourceError) -> Baseline:
    """The baseline after an error of the source: whether history may be asked for in the next subscription."""
    if isinstance(baseline, FirstStart):
        return baseline
    if error.reason is SourceReason.FUTURE and error.history:
        return replace(baseline, history=True)  # without history it was no better: a clock is wrong
    return replace(baseline, history=baseline.history and error.history)


def as_of(baseline: Baseline) -> int | None:
    """The as-of to ask for; None: the server's own time."""
    if isinstance(baseline, FirstStart) or baseline.frontier is None or not baseline.history:
        return None
    return baseline.frontier - 1


def gap(baseline: Baseline, batch: Batch) -> int | None:
    """How many milliseconds of history are missing between the frontier and a snapshot; None: none are.

    A polled source keeps no history, so its distance is not a gap.
    """
    if not isinstance(baseline, Resumed) or baseline.frontier is None or batch.snapshot is None or batch.polled:
        return None
    return (batch.snapshot - baseline.frontier + 1) or None


def endings(baseline: Baseline, alert: str, at: int) -> list[Transition]:
    """The end of what the new definition does not continue, at the as-of of the snapshot."""
    if not isinstance(baseline, Redefined):
        return []
    return [
        Transition(
            alert=alert,
            fingerprint=firing.fingerprint,
            kind=Kind.RESOLVED,
            started_at=firing.started_at,
            at=at,
            columns=baseline.columns,
            row=firing.row,
        )
        for firing in baseline.ended
        if firing.phase in (Phase.FIRING, Phase.KEEPING)
    ]
