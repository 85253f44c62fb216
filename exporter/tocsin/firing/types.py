"""What a firing set takes and gives."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from tocsin.model import Columns, Row, Transition

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
