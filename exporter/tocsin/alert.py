"""An alert: one rule of the configuration, with every default filled in. Durations are seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tocsin.model import OnDuplicate
from tocsin.sources.base import Subject

Initial: TypeAlias = Literal["notify", "silent"]
"""Whether rows that are in the view at the very first start are notified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alert:
    """What alerts on rows and on events have in common."""

    name: str
    source: str
    subject: Subject
    key: tuple[str, ...]
    """Columns that identify a firing, or that order events; empty: the whole row, or no order."""
    labels: Mapping[str, str]
    """Label name -> column."""
    static_labels: Mapping[str, str]
    value: str | None
    """The column with the value."""
    annotations: Mapping[str, str]
    """Name -> template."""
    notify: tuple[str, ...]
    """Names of channels."""

    @property
    def transition_channels(self) -> tuple[str, ...]:
        """The channels in `notify` that receive each transition."""
        return self.notify


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAlert(_Alert):
    """An alert on a relation or query: its rows fire while they are there."""

    gauges: bool
    """Whether the rows are shown as a gauge."""
    metric: str
    """Name of the gauge; empty without gauges."""
    help: str
    on_duplicate: OnDuplicate
    max_series: int
    linger: float
    hold: float
    """`for` in the configuration."""
    keep_firing_for: float
    repeat_interval: float
    ignore: tuple[str, ...]
    """Columns whose change is not notified."""
    initial: Initial
    levels: frozenset[str] = frozenset()
    """Those of `notify` that receive what is firing, not what changed."""

    @property
    def transition_channels(self) -> tuple[str, ...]:
        """The channels in `notify` that receive each transition."""
        return tuple(name for name in self.notify if name not in self.levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAlert(_Alert):
    """An alert on events: each event is notified once and never resolves."""

    dedupe_by: tuple[str, ...] = ()
    """Columns; an event equal in all of them to another one within `dedupe_window` is a duplicate."""
    dedupe_window: float = 0.0

    @property
    def event_name(self) -> str:
        """The name of the events that the alert takes from its source."""
        return self.subject.event or self.subject.topic or self.name


Alert: TypeAlias = RowAlert | EventAlert
