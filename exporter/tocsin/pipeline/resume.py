"""What the first snapshot of a subscription is compared with, and what the comparison means. Pure.

There is one way to begin, whatever ended the stream before: ask for the history since the frontier, take the snapshot
as the state at its as-of, compare it with the firing set, go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tocsin.errors import SourceError, SourceReason
from tocsin.firing import Firing, Phase, Rule
from tocsin.ledger.base import Stored
from tocsin.model import Batch, Columns, Kind, Transition
from tocsin.pipeline import binding


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


def loaded(stored: Stored | None, definition: str) -> Baseline:
    """The baseline as far as it is known before the columns are. `definition`: that of the configuration."""
    if stored is None:
        return FirstStart()
    return Resumed(stored.frontier) if stored.definition == definition else Redefined()


def restored(stored: Stored, definition: str, rule: Rule) -> tuple[list[Firing], Baseline]:
    """The stored firings as firings of today's columns, and the baseline that they are."""
    baseline = loaded(stored, definition)
    frontier = baseline.frontier if isinstance(baseline, Resumed) else None
    if not binding.same_key(stored.definition, definition):
        return [], Redefined(ended=stored.firings, columns=stored.columns)
    firings = binding.rebound(stored.firings, stored.columns, rule.columns)
    firings, ended = binding.respelled(firings, rule)
    if isinstance(baseline, Resumed) and stored.columns == rule.columns and not ended:
        return firings, baseline
    return firings, Redefined(frontier, ended=ended, columns=rule.columns)


def rebound(baseline: Baseline) -> Baseline:
    """The baseline of a firing set in memory whose relation has other columns now."""
    if isinstance(baseline, Resumed):
        return Redefined(baseline.frontier, baseline.history)
    return baseline


def failed(baseline: Baseline, error: SourceError) -> Baseline:
    """The baseline after an error of the source: whether history may be asked for in the next subscription."""
    if isinstance(baseline, FirstStart):
        return baseline
    if error.reason is SourceReason.FUTURE and error.resume:
        return replace(baseline, history=True)  # without history it was no better: a clock is wrong
    return replace(baseline, history=baseline.history and error.resume)


def resume_at(baseline: Baseline) -> int | None:
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
