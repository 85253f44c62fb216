"""The input and output types of a firing set."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from tocsin.model import Columns, Row, Transition

Key: TypeAlias = str | Row | None
"""What identifies a firing: the text of the key columns; of a single column that text alone (cheaper to hash)."""


class Phase(StrEnum):
    """The phase of a key."""

    PENDING = "pending"
    """In the view, but not yet for as long as `for` demands."""
    FIRING = "firing"
    KEEPING = "keeping"
    """No longer in the view, kept firing for `keep_firing_for`."""
    ABSENT = "absent"
    """Not in the view. Remembered only while its net multiplicity is below zero, which a source should never send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a firing set needs to know of its alert. Durations are milliseconds, 0: off."""

    alert: str
    columns: Columns
    key: tuple[int, ...] = ()
    """Indexes of the key columns; empty: the whole row."""
    ignored: frozenset[int] = frozenset()
    """Indexes of columns whose change is not an update."""
    hold: int = 0
    """`for`."""
    keep: int = 0
    """`keep_firing_for`."""
    repeat: int = 0
    """`repeat_interval`."""
    notify: bool = True
    """Whether a channel in `notify` receives transitions; without, only the rows are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One key of the firing set, as it is stored and shown. Times are source ms."""

    fingerprint: str
    phase: Phase
    started_at: int
    marked_at: int
    """The start of the phase's timer: when the key appeared (`pending`), was last notified (`firing`) or vanished
    (`keeping`)."""
    row: Row
    """The row that represents the key; while `keeping`, the last one."""
    counts: tuple[tuple[int, Row], ...]
    """The whole multiset: (multiplicity, row)."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a batch did to the firing set."""

    transitions: list[Transition] = field(default_factory=list)
    changes: dict[Key, Row | None] = field(default_factory=dict)
    """The new row of each key that is shown differently; None: the key left the view."""
    saved: list[Firing] = field(default_factory=list)
    """The firings to write to the ledger."""
    gone: list[str] = field(default_factory=list)
    """The fingerprints to delete from the ledger."""
    collisions: int = 0
    """How often two different rows of one key were there at one timestamp."""
    negatives: int = 0
    """How often a multiplicity was below zero at a timestamp."""
